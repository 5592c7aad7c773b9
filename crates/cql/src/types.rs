//! What a CQL type looks like as an Arrow column.
//!
//! | CQL | Arrow |
//! |---|---|
//! | `ascii`, `text`, `uuid`, `timeuuid`, `decimal`, `varint` | text |
//! | `tinyint`, `smallint`, `int` | 32 bits |
//! | `bigint`, `counter` | 64 bits |
//! | `timestamp` | milliseconds, UTC |
//! | `time` | nanoseconds |
//! | `inet` | 16 bytes, IPv4 mapped into IPv6 |
//! | `duration` | months, days, nanoseconds |
//! | `list`, `set`, `vector` | a list |
//! | a user's type, a tuple | a struct; a tuple's fields are `_1`, `_2` |
//!
//! `decimal` and `varint` have no bound, so that no Arrow number holds each: they are text that a
//! `CAST` makes a number of.

use arrow_schema::{DataType, Field, Fields, IntervalUnit, TimeUnit};
use millstream_core::types::IP;
use scylla::cluster::metadata::{CollectionType, ColumnType, NativeType};
use std::sync::Arc;

/// How deep types may be nested.
const DEPTH_MAX: usize = 32;

/// The Arrow type of a CQL type, or why there is none.
pub(crate) fn arrow(cql: &ColumnType<'_>) -> Result<DataType, String> {
    nested(cql, 0)
}

fn nested(cql: &ColumnType<'_>, depth: usize) -> Result<DataType, String> {
    if depth > DEPTH_MAX {
        return Err(format!("types nest at most {DEPTH_MAX} deep"));
    }
    let item = |cql: &ColumnType<'_>| {
        let item = nested(cql, depth + 1)?;
        Ok::<_, String>(DataType::List(Arc::new(Field::new("item", item, true))))
    };
    match cql {
        ColumnType::Native(native) => leaf(native),
        ColumnType::Vector { typ, .. } => item(typ),
        ColumnType::Collection {
            typ: CollectionType::List(of) | CollectionType::Set(of), ..
        } => item(of),
        ColumnType::Collection { typ: CollectionType::Map(key, value), .. } => {
            let entries = Fields::from(vec![
                Field::new("key", nested(key, depth + 1)?, false),
                Field::new("value", nested(value, depth + 1)?, true),
            ]);
            let entries = Field::new("entries", DataType::Struct(entries), false);
            Ok(DataType::Map(Arc::new(entries), false))
        }
        ColumnType::UserDefinedType { definition, .. } => {
            let fields = definition.field_types.iter();
            let fields = fields.map(|(name, of)| {
                Ok::<_, String>(Field::new(&**name, nested(of, depth + 1)?, true))
            });
            Ok(DataType::Struct(fields.collect::<Result<_, _>>()?))
        }
        ColumnType::Tuple(types) => {
            let fields = types.iter().enumerate().map(|(at, of)| {
                Ok::<_, String>(Field::new(format!("_{}", at + 1), nested(of, depth + 1)?, true))
            });
            Ok(DataType::Struct(fields.collect::<Result<_, _>>()?))
        }
        other => Err(format!("the CQL type {} is not known", name(other))),
    }
}

fn leaf(native: &NativeType) -> Result<DataType, String> {
    Ok(match native {
        NativeType::Ascii
        | NativeType::Text
        | NativeType::Uuid
        | NativeType::Timeuuid
        | NativeType::Decimal
        | NativeType::Varint => DataType::Utf8,
        NativeType::Boolean => DataType::Boolean,
        NativeType::Blob => DataType::Binary,
        NativeType::TinyInt | NativeType::SmallInt | NativeType::Int => DataType::Int32,
        NativeType::BigInt | NativeType::Counter => DataType::Int64,
        NativeType::Float => DataType::Float32,
        NativeType::Double => DataType::Float64,
        NativeType::Date => DataType::Date32,
        NativeType::Time => DataType::Time64(TimeUnit::Nanosecond),
        NativeType::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        NativeType::Duration => DataType::Interval(IntervalUnit::MonthDayNano),
        NativeType::Inet => IP,
        other => return Err(format!("the CQL type {other:?} is not known")),
    })
}

/// A CQL type as its users write it.
pub(crate) fn name(cql: &ColumnType<'_>) -> String {
    match cql {
        ColumnType::Native(native) => format!("{native:?}").to_lowercase(),
        ColumnType::Vector { typ, dimensions } => format!("vector<{}, {dimensions}>", name(typ)),
        ColumnType::Collection { typ, .. } => match typ {
            CollectionType::List(of) => format!("list<{}>", name(of)),
            CollectionType::Set(of) => format!("set<{}>", name(of)),
            CollectionType::Map(key, value) => format!("map<{}, {}>", name(key), name(value)),
            _ => "a collection".into(),
        },
        ColumnType::UserDefinedType { definition, .. } => definition.name.to_string(),
        ColumnType::Tuple(types) => {
            format!("tuple<{}>", types.iter().map(name).collect::<Vec<_>>().join(", "))
        }
        _ => "of an unknown type".into(),
    }
}
