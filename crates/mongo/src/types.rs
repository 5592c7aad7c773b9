//! The types of columns, and how a value stands in a document where its column's type leaves that
//! open.
//!
//! | declared | Arrow | read from | written as |
//! |---|---|---|---|
//! | `string` | text | every value, in its text form | string |
//! | `object_id` | text, 24 hex digits | ObjectId | ObjectId |
//! | `uuid` | text | binary of subtype 4, text | binary of subtype 4 |
//! | `decimal128` | text | any number | Decimal128 |
//! | `int`, `bigint` | 32, 64 bits | any number that is whole and fits | int, long |
//! | `float`, `double` | 32, 64 bits | any number but Decimal128 | double |
//! | `decimal(p, s)` | 128 bits | any number that it holds exactly, but double | Decimal128 |
//! | `timestamp`, `timestamp_us` | UTC | date, timestamp | date, in milliseconds |
//! | `date` | days | date | date, at midnight |
//! | `bytes` | bytes | binary, ObjectId | binary of subtype 0 |
//! | `ip` | 16 bytes | text, binary of 4 or 16 bytes | text |
//! | `T[]`, `map<T>`, `struct<..>` | list, map, struct | array, document | array, document |

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream_core::types::{self, IP};
use std::sync::Arc;

/// How a value stands in a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stored {
    /// As its column's type says.
    #[default]
    Plainly,
    ObjectId,
    Uuid,
    Decimal128,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnType {
    pub data_type: DataType,
    pub stored: Stored,
}

/// Fields of documents by their paths, with dots between names, in the order of the columns.
pub type Columns = Vec<(String, ColumnType)>;

impl ColumnType {
    /// Parses a type's name; the error is a sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<ColumnType, String> {
        let mut base = text.trim();
        let mut lists = 0;
        while let Some(item) = base.strip_suffix("[]") {
            base = item.trim_end();
            lists += 1;
        }
        let stored = match base.to_ascii_lowercase().as_str() {
            "object_id" | "objectid" => Stored::ObjectId,
            "uuid" => Stored::Uuid,
            "decimal128" => Stored::Decimal128,
            _ => {
                let data_type = types::parse(text).map_err(|why| {
                    format!("{why}; MongoDB has object_id, uuid and decimal128 beside them")
                })?;
                supported(&data_type)?;
                return Ok(ColumnType { data_type, stored: Stored::Plainly });
            }
        };
        let list = |item, _| DataType::List(Arc::new(Field::new("item", item, true)));
        Ok(ColumnType { data_type: (0..lists).fold(DataType::Utf8, list), stored })
    }

    pub fn plain(data_type: DataType) -> ColumnType {
        ColumnType { data_type, stored: Stored::Plainly }
    }

    /// The name that [`ColumnType::parse`] reads back.
    pub fn name(&self) -> String {
        let plain = types::name(&self.data_type);
        match self.stored {
            Stored::Plainly => plain,
            Stored::ObjectId => plain.replace("string", "object_id"),
            Stored::Uuid => plain.replace("string", "uuid"),
            Stored::Decimal128 => plain.replace("string", "decimal128"),
        }
    }
}

/// The columns of rows that are made of documents.
pub fn schema(columns: &Columns) -> SchemaRef {
    let fields = columns.iter().map(|(name, of)| Field::new(name, of.data_type.clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Whether documents have values of this type.
pub(crate) fn supported(data_type: &DataType) -> Result<(), String> {
    match data_type {
        DataType::Boolean
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32
        | DataType::Timestamp(TimeUnit::Millisecond | TimeUnit::Microsecond, _)
        | DataType::Decimal128(..) => Ok(()),
        t if *t == IP => Ok(()),
        DataType::List(item) => supported(item.data_type()),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => supported(fields[1].data_type()),
            _ => Err("a map has keys and values".into()),
        },
        DataType::Struct(fields) => fields.iter().try_for_each(|f| supported(f.data_type())),
        other => Err(format!("documents have no values of the type {}", types::name(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for name in ["object_id", "uuid[]", "decimal128", "bigint", "struct<a int, b string[]>"] {
            assert_eq!(ColumnType::parse(name).unwrap().name(), name);
        }
        let ids = ColumnType::parse("object_id[][]").unwrap();
        assert_eq!((ids.name().as_str(), ids.stored), ("object_id[][]", Stored::ObjectId));
        assert!(ColumnType::parse("time").unwrap_err().contains("no values of the type time"));
        assert!(ColumnType::parse("oid").unwrap_err().contains("object_id"));
    }
}
