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
    /// Asked by range: the column of the ranges' ends, and the columns that were asked for.
    range: Option<(usize, Vec<usize>)>,
}

impl TableLookup {
    /// Binds a table to the columns of a look-up: its partition key and, after it, as much of the
    /// clustering as there is, in any order. By a range a table is bound whose whole key is the start
    /// of the ranges; these must not overlap, for only the last one that begins at or before a value
    /// is looked at. The table is asked as it is at each call.
    pub fn bind(
        table: &Table,
        key: &LookupKey,
        projection: Option<&[String]>,
    ) -> Result<Arc<dyn Lookup>> {
        let columns = match key {
            LookupKey::Equal(columns) => columns,
            LookupKey::Range { start, end } => {
                return Self::bind_range(table, start, end, projection);
            }
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
        Ok(Arc::new(Self { table: table.clone(), reader, order, range: None }))
    }

    fn bind_range(
        table: &Table,
        start: &str,
        end: &str,
        projection: Option<&[String]>,
    ) -> Result<Arc<dyn Lookup>> {
        let spec = table.spec();
        if !spec.clustering.is_empty() || spec.partition_key != [start] {
            return Err(Error::Refused(format!(
                "table `{}` can be asked by a range only when its whole key is `{start}`, the start \
                 of its ranges; its key is {}",
                table.name(),
                list(spec.key_columns())
            )));
        }
        let all = table.schema();
        let name = |at: usize| all.field(at).name().clone();
        let mut wanted: Vec<String> = match projection {
            Some(names) => names.to_vec(),
            None => (0..all.fields().len()).map(name).collect(),
        };
        let shown = wanted.len();
        let end_at = wanted.iter().position(|column| column == end).unwrap_or_else(|| {
            wanted.push(end.to_owned());
            shown
        });
        let reader = Reader::new(&table.layout, Some(&wanted))?;
        let types = [start, end].map(|column| all.field_with_name(column).map(|f| f.data_type()));
        if let [Ok(start_type), Ok(end_type)] = types
            && start_type != end_type
        {
            return Err(Error::Refused(format!(
                "table `{}` has `{start}` and `{end}` of two types: a range needs one",
                table.name()
            )));
        }
        let range = Some((end_at, (0..shown).collect()));
        Ok(Arc::new(Self { table: table.clone(), reader, order: vec![0], range }))
    }
}

#[async_trait]
impl Lookup for TableLookup {
    fn schema(&self) -> SchemaRef {
        match &self.range {
            Some((_, shown)) => match self.reader.schema.project(shown) {
                Ok(schema) => Arc::new(schema),
                Err(_) => self.reader.schema.clone(),
            },
            None => self.reader.schema.clone(),
        }
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
        let [column] = columns.as_slice() else {
            return Ok(self.table.find(&columns, keys.num_rows(), &self.reader)?);
        };
        match &self.range {
            Some((end, shown)) => Ok(self.table.find_range(column, &self.reader, *end, shown)?),
            None => Ok(self.table.find(&columns, keys.num_rows(), &self.reader)?),
        }
    }
}
