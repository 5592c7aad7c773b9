//! Writes rows to an embedded table. They are in the tables' journal when `write` returns and
//! durable with the commit of the offsets, which share that journal.

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Int64Array};
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

    /// The column whose values decide.
    fn given<'b>(&self, batch: &'b Batch) -> Result<Option<&'b ArrayRef>> {
        let Some(name) = &self.options.timestamp else { return Ok(None) };
        let column = batch.rows.column_by_name(name);
        let missing = || Error::stop("no_column", format!("the rows have no column `{name}`"));
        column.ok_or_else(missing).map(Some)
    }

    /// Why a value that is there cannot be a write timestamp.
    fn refusal(&self, given: &ArrayRef, row: usize) -> Option<String> {
        let DataType::Timestamp(unit, _) = given.data_type() else { return None };
        let value = values(given, *unit).ok()?;
        let value = value.as_primitive::<Int64Type>();
        if value.is_null(row) || micros(value.value(row), *unit).is_some() {
            return None;
        }
        let unit = match unit {
            TimeUnit::Second => "seconds",
            TimeUnit::Millisecond => "milliseconds",
            TimeUnit::Microsecond => "microseconds",
            TimeUnit::Nanosecond => "nanoseconds",
        };
        Some(format!(
            "the write timestamp `{}` is out of range: {} {unit} since 1970 are not from \
             0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999999Z",
            self.options.timestamp.as_deref().unwrap_or_default(),
            value.value(row)
        ))
    }
}

/// Write timestamps in microseconds, as CQL has them; null where a value is out of range.
fn timestamps(given: &ArrayRef) -> Result<Int64Array> {
    let DataType::Timestamp(unit, _) = given.data_type() else {
        return Ok(given.as_primitive::<Int64Type>().clone());
    };
    let values = values(given, *unit)?;
    let values = values.as_primitive::<Int64Type>();
    Ok(values.unary_opt::<_, Int64Type>(|value| micros(value, *unit)))
}

/// The numbers behind a column of timestamps.
fn values(given: &ArrayRef, unit: TimeUnit) -> Result<ArrayRef> {
    let plain = arrow_cast::cast(given, &DataType::Timestamp(unit, None));
    plain
        .and_then(|plain| arrow_cast::cast(&plain, &DataType::Int64))
        .map_err(|e| Error::stop("timestamp", "casting a write timestamp").because(e))
}

/// `None` outside the years 1 to 9999.
fn micros(value: i64, unit: TimeUnit) -> Option<i64> {
    let micros = match unit {
        TimeUnit::Second => value.checked_mul(1_000_000)?,
        TimeUnit::Millisecond => value.checked_mul(1_000)?,
        TimeUnit::Microsecond => value,
        TimeUnit::Nanosecond => value.div_euclid(1_000),
    };
    (-62_135_596_800_000_000..253_402_300_800_000_000).contains(&micros).then_some(micros)
}

#[async_trait]
impl Sink for TableSink {
    async fn write(&mut self, batch: &Batch) -> Result<Receipt> {
        let given = self.given(batch)?;
        let timestamps = given.map(timestamps).transpose()?;
        let written =
            self.options.table.write(&batch.rows, timestamps.as_ref(), self.options.ttl)?;
        let mut rejected = written.rejected;
        if let Some(given) = given {
            for (row, reason) in &mut rejected {
                if let Some(refusal) = self.refusal(given, *row as usize) {
                    *reason = refusal;
                }
            }
        }
        Ok(Receipt {
            rejected,
            rows: written.rows,
            bytes: written.bytes,
            durable: async { Ok(()) }.boxed(),
        })
    }
}
