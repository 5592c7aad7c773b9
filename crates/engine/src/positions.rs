//! The columns that tell where a row came from: `_key`, `_timestamp`, `_partition`, `_offset`,
//! `_topic` and `_headers`. A step sees those that its SQL names.

use arrow_array::builder::{BinaryBuilder, MapBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    TimestampMillisecondArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream_core::{Batch, Error, Partition, Records, Result};
use std::sync::Arc;

pub const NAMES: [&str; 6] = ["_key", "_timestamp", "_partition", "_offset", "_topic", "_headers"];

/// Which of them a pipeline uses, and the schema of the decoded rows with them.
pub struct Positions {
    wanted: Vec<&'static str>,
    schema: SchemaRef,
}

impl Positions {
    /// `decoded` are the decoder's columns.
    pub fn new(decoded: &Schema, wanted: Vec<&'static str>) -> Self {
        let schema = schema_with(decoded, &wanted);
        Self { wanted, schema }
    }

    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    pub fn add(&self, batch: Batch, records: &Records, place: &Partition) -> Result<Batch> {
        if self.wanted.is_empty() {
            return Ok(batch);
        }
        let mut columns = batch.rows.columns().to_vec();
        for name in &self.wanted {
            columns.push(self.column(name, &batch, records, place)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.len()));
        let rows = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|e| Error::stop("positions", "adding the position columns").because(e))?;
        Ok(Batch::new(rows, batch.origin))
    }

    fn column(
        &self,
        name: &str,
        batch: &Batch,
        records: &Records,
        place: &Partition,
    ) -> Result<ArrayRef> {
        let rows = || batch.origin.iter().map(|row| row as usize);
        Ok(match name {
            "_key" => {
                let mut keys = BinaryBuilder::new();
                rows().for_each(|row| keys.append_option(records.key(row)));
                Arc::new(keys.finish())
            }
            "_timestamp" => {
                let times = rows().map(|row| records.timestamp(row));
                Arc::new(TimestampMillisecondArray::from_iter_values(times).with_timezone("UTC"))
            }
            "_partition" => Arc::new(Int32Array::from(vec![place.index as i32; batch.len()])),
            "_offset" => Arc::new(Int64Array::from_iter_values(rows().map(|r| records.offset(r)))),
            "_topic" => Arc::new(StringArray::from(vec![&*place.source; batch.len()])),
            _ => {
                let mut headers = MapBuilder::new(
                    Some(arrow_array::builder::MapFieldNames {
                        entry: "entries".into(),
                        key: "key".into(),
                        value: "value".into(),
                    }),
                    StringBuilder::new(),
                    BinaryBuilder::new(),
                );
                for row in rows() {
                    for header in records.get(row).headers.iter() {
                        headers.keys().append_value(String::from_utf8_lossy(header.key));
                        headers.values().append_option(header.value);
                    }
                    headers
                        .append(true)
                        .map_err(|e| Error::stop("positions", "building headers").because(e))?;
                }
                Arc::new(headers.finish())
            }
        })
    }
}

/// A schema with these position columns after its own.
pub fn schema_with(decoded: &Schema, wanted: &[&'static str]) -> SchemaRef {
    let mut fields: Vec<Field> = decoded.fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.extend(wanted.iter().map(|name| {
        let (data_type, nullable) = match *name {
            "_key" => (DataType::Binary, true),
            "_timestamp" => (DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false),
            "_partition" => (DataType::Int32, false),
            "_offset" => (DataType::Int64, false),
            "_topic" => (DataType::Utf8, false),
            _ => {
                let entries = vec![
                    Field::new("key", DataType::Utf8, false),
                    Field::new("value", DataType::Binary, true),
                ];
                let entries = Field::new("entries", DataType::Struct(entries.into()), false);
                (DataType::Map(Arc::new(entries), false), false)
            }
        };
        Field::new(*name, data_type, nullable)
    }));
    Arc::new(Schema::new(fields))
}

/// The position columns that a text names as words.
pub fn named_in(sql: &str) -> Vec<&'static str> {
    let words: std::collections::HashSet<&str> =
        sql.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    NAMES.into_iter().filter(|name| words.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_words_ask_for_a_position() {
        assert_eq!(named_in("SELECT _offset, n._key FROM input n"), ["_key", "_offset"]);
        assert!(named_in("SELECT my_offset, x_key, offset FROM input").is_empty());
    }
}
