//! Writes rows to an embedded table. They are in the tables' journal when `write` returns and
//! durable with the commit of the offsets, which share that journal.

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, Schema, TimeUnit};
use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{Batch, Error, Receipt, Result, Sink};
use millstream_tables::Table;
use std::time::Duration;

pub struct TableSinkOptions {
    pub table: Table,
    pub ttl: Option<Duration>,
    /// The column whose value decides which write of a row is the last.
    pub timestamp: Option<String>,
}

pub struct TableSink {
    options: TableSinkOptions,
}

impl TableSink {
    pub fn new(options: TableSinkOptions) -> Self {
        Self { options }
    }

    /// Whether these columns can be written with this key and timestamp.
    pub fn accepts(schema: &Schema, key: &[String], timestamp: Option<&str>) -> Result<(), String> {
        let known =
            || schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ");
        for column in key {
            schema.field_with_name(column).map_err(|_| {
                format!("there is no column `{column}` for the key; there are {}", known())
            })?;
        }
        if let Some(name) = timestamp {
            let field = schema
                .field_with_name(name)
                .map_err(|_| format!("there is no column `{name}`; there are {}", known()))?;
            if !matches!(field.data_type(), DataType::Timestamp(..) | DataType::Int64) {
                return Err(format!(
                    "column `{name}` is {}: a write timestamp is a timestamp or a bigint of microseconds",
                    millstream_core::types::name(field.data_type())
                ));
            }
        }
        Ok(())
    }

    /// Write timestamps in microseconds, as CQL has them.
    fn timestamps(&self, batch: &Batch) -> Result<Option<ArrayRef>> {
        let Some(name) = &self.options.timestamp else { return Ok(None) };
        let column = batch
            .rows
            .column_by_name(name)
            .ok_or_else(|| Error::stop("no_column", format!("the rows have no column `{name}`")))?;
        let cast = |to: &DataType, array: &ArrayRef| {
            arrow_cast::cast(array, to)
                .map_err(|e| Error::stop("timestamp", "casting a write timestamp").because(e))
        };
        if column.data_type() == &DataType::Int64 {
            return Ok(Some(column.clone()));
        }
        let micros = cast(&DataType::Timestamp(TimeUnit::Microsecond, None), column)?;
        Ok(Some(cast(&DataType::Int64, &micros)?))
    }
}

#[async_trait]
impl Sink for TableSink {
    async fn write(&mut self, batch: &Batch) -> Result<Receipt> {
        let timestamps = self.timestamps(batch)?;
        let timestamps = timestamps.as_ref().map(|t| t.as_primitive::<Int64Type>());
        debug_assert!(timestamps.is_none_or(|t| t.len() == batch.len()));
        let written = self.options.table.write(&batch.rows, timestamps, self.options.ttl)?;
        Ok(Receipt {
            rejected: written.rejected,
            rows: written.rows,
            bytes: written.bytes,
            durable: async { Ok(()) }.boxed(),
        })
    }
}
