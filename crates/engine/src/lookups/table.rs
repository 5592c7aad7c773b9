//! An embedded table as a store, also after the tables were reopened.

use anyhow::anyhow;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use millstream_core::{Error, Found, Lookup, LookupKey, Result};
use millstream_tables::{Database, TableLookup};
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Binds the table again when its handle is over. Rows that were not committed may be gone then, so
/// that caches must forget what they hold.
pub struct TableStore {
    tables: Database,
    table: String,
    key: LookupKey,
    schema: SchemaRef,
    bound: RwLock<Arc<dyn Lookup>>,
    generation: AtomicU64,
}

impl TableStore {
    pub fn open(tables: &Database, table: &str, key: &LookupKey) -> anyhow::Result<Self> {
        let found = tables.table(table);
        let found = found.ok_or_else(|| anyhow!("there is no table `{table}` any more"))?;
        let bound = TableLookup::bind(&found, key, None)?;
        Ok(Self {
            tables: tables.clone(),
            table: table.to_owned(),
            key: key.clone(),
            schema: bound.schema(),
            bound: RwLock::new(bound),
            generation: AtomicU64::new(0),
        })
    }

    fn bind_again(&self) -> Result<Arc<dyn Lookup>> {
        let table = self.tables.table(&self.table).ok_or_else(|| {
            Error::stop("no_table", format!("there is no table `{}` any more", self.table))
        })?;
        // The columns that were there when it was planned, in their order.
        let columns: Vec<_> = self.schema.fields().iter().map(|f| f.name().clone()).collect();
        let bound = TableLookup::bind(&table, &self.key, Some(&columns))?;
        *self.bound.write() = bound.clone();
        self.generation.fetch_add(1, Ordering::Release);
        Ok(bound)
    }
}

#[async_trait]
impl Lookup for TableStore {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    async fn get_many(&self, keys: &RecordBatch) -> Result<Found> {
        let bound = self.bound.read().clone();
        match bound.get_many(keys).await {
            Err(error) if error.kind() == "reopened" => self.bind_again()?.get_many(keys).await,
            answer => answer,
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}
