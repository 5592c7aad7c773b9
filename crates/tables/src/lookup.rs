//! A table as a pipeline's JOIN sees it.

use crate::catalog::list;
use crate::read::Reader;
use crate::table::Table;
use crate::{Error, Result};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use millstream_core::{Found, Lookup, LookupKey};
use std::sync::Arc;

/// A table, bound to the columns it is asked by. Reads in the caller's task: a row takes a few
/// microseconds when its block is in memory, and one read of the disk when it is not.
pub struct TableLookup {
    table: Table,
    reader: Reader,
    /// For each column of the table's key, where the caller's key has it.
    order: Vec<usize>,
}

impl TableLookup {
    /// Binds a table to the columns of a look-up: its partition key and, after it, as much of the
    /// clustering as there is, in any order. The table is asked as it is at each call.
    pub fn bind(
        table: &Table,
        key: &LookupKey,
        projection: Option<&[String]>,
    ) -> Result<Arc<dyn Lookup>> {
        let LookupKey::Equal(columns) = key else {
            return Err(Error::Refused(format!(
                "table `{}` is looked up by equal keys, not by a range; use a file for ranges",
                table.name()
            )));
        };
        let spec = table.spec();
        let mut order = Vec::with_capacity(columns.len());
        for name in spec.key_columns().take(columns.len()) {
            order.extend(columns.iter().position(|column| column == name));
        }
        if order.len() != columns.len() || order.len() < spec.partition_key.len() {
            let clustering = if spec.clustering.is_empty() {
                String::new()
            } else {
                format!(
                    ", and may be joined on {} after that",
                    list(spec.clustering.iter().map(String::as_str))
                )
            };
            return Err(Error::Refused(format!(
                "table `{}` must be joined on {}{clustering}; the SQL joins it on {}",
                table.name(),
                list(spec.partition_key.iter().map(String::as_str)),
                list(columns.iter().map(String::as_str))
            )));
        }
        let reader = Reader::new(&table.layout, projection)?;
        Ok(Arc::new(Self { table: table.clone(), reader, order }))
    }
}

#[async_trait]
impl Lookup for TableLookup {
    fn schema(&self) -> SchemaRef {
        self.reader.schema.clone()
    }

    async fn get_many(&self, keys: &RecordBatch) -> millstream_core::Result<Found> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.order.len());
        for (at, field) in self.order.iter().zip(self.table.key_columns()) {
            let Some(column) = keys.columns().get(*at) else {
                let why = format!("a look-up in table `{}` lacks a key column", self.table.name());
                return Err(Error::Refused(why).into());
            };
            columns.push(crate::columns::stored_as(field.name(), column, field.data_type())?);
        }
        Ok(self.table.find(&columns, keys.num_rows(), &self.reader)?)
    }
}
