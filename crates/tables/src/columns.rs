//! Arrow columns as the encoders see them: the few types that tables store, how other types become
//! one of them, and a view of an array that is resolved once for a batch.

use crate::{Error, Result};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimestampMicrosecondType, TimestampMillisecondType,
};
use arrow_array::{Array, ArrayRef, BinaryArray, FixedSizeBinaryArray, StringArray};
use arrow_buffer::{BooleanBuffer, NullBuffer};
use arrow_cast::{CastOptions, can_cast_types, cast_with_options};
use arrow_schema::{DataType, Field, Fields, TimeUnit};
use millstream_core::types;
use std::sync::Arc;

/// How deep a column's type may nest.
const DEPTH_MAX: usize = 32;

/// The type that a table stores for a column of this type; the error is a sentence.
pub fn canonical(data_type: &DataType) -> Result<DataType, String> {
    let wide = widened(data_type, 0)?;
    // The catalog keeps types by name, so what does not read back cannot be stored.
    types::parse(&types::name(&wide))
}

fn widened(data_type: &DataType, depth: usize) -> Result<DataType, String> {
    if depth > DEPTH_MAX {
        return Err(format!("types nest at most {DEPTH_MAX} deep"));
    }
    let nested = |field: &Field| -> Result<Field, String> {
        Ok(Field::new(field.name(), widened(field.data_type(), depth + 1)?, true))
    };
    Ok(match data_type {
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::Binary | DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        t if *t == types::IP => types::IP,
        DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Dictionary(_, values) => widened(values, depth + 1)?,
        DataType::Date64 => DataType::Timestamp(TimeUnit::Millisecond, None),
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(TimeUnit::Second, tz) => {
            DataType::Timestamp(TimeUnit::Millisecond, tz.clone())
        }
        DataType::Timestamp(TimeUnit::Nanosecond, tz) => {
            DataType::Timestamp(TimeUnit::Microsecond, tz.clone())
        }
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _) => DataType::List(Arc::new(nested(field)?)),
        DataType::Struct(fields) => DataType::Struct(
            fields.iter().map(|field| nested(field)).collect::<Result<Fields, _>>()?,
        ),
        DataType::Map(entries, sorted) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                let fields = vec![
                    Field::new("key", DataType::Utf8, false),
                    nested(&fields[1].as_ref().clone().with_name("value"))?,
                ];
                let entries = Field::new("entries", DataType::Struct(fields.into()), false);
                DataType::Map(Arc::new(entries), *sorted)
            }
            _ => return Err(format!("{data_type} is not a map of strings to values")),
        },
        DataType::Boolean
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32
        | DataType::Timestamp(TimeUnit::Millisecond | TimeUnit::Microsecond, _)
        | DataType::Decimal128(_, _) => data_type.clone(),
        other => return Err(format!("a table cannot hold values of the type {other}")),
    })
}

/// The array in the type that the table stores. A value that this type cannot express becomes a
/// null where there was none; see [`lost`].
pub(crate) fn stored_as(column: &str, array: &ArrayRef, wanted: &DataType) -> Result<ArrayRef> {
    if array.data_type() == wanted {
        return Ok(array.clone());
    }
    let fits = array.data_type() == &DataType::Null
        || canonical(array.data_type()).is_ok_and(|found| fits(&found, wanted));
    if !fits || !can_cast_types(array.data_type(), wanted) {
        return Err(Error::Refused(format!(
            "column `{column}` is {} and was given {}; CAST it in the SQL",
            types::name(wanted),
            types::name(array.data_type()),
        )));
    }
    let options = CastOptions { safe: true, ..CastOptions::default() };
    cast_with_options(array, wanted, &options).map_err(|error| {
        Error::Refused(format!("column `{column}` cannot be stored as {wanted}: {error}"))
    })
}

/// Whether row `row` had a value before [`stored_as`] and has none after.
pub(crate) fn lost(before: &ArrayRef, after: &ArrayRef) -> Option<BooleanBuffer> {
    if Arc::ptr_eq(before, after) {
        return None;
    }
    let before = before.logical_nulls();
    let after = after.logical_nulls()?;
    if before.as_ref().map_or(0, NullBuffer::null_count) == after.null_count() {
        return None;
    }
    let gone = !after.inner();
    Some(match before {
        Some(before) => before.inner() & &gone,
        None => gone,
    })
}

/// Whether every value of the one type is a value of the other.
fn fits(found: &DataType, wanted: &DataType) -> bool {
    use DataType::{
        Date32, Decimal128, Float32, Float64, Int32, Int64, List, Map, Struct, Timestamp,
    };
    match (found, wanted) {
        (found, wanted) if found == wanted => true,
        (Int32, Int64 | Float64) | (Float32, Float64) | (Date32, Timestamp(_, _)) => true,
        (Timestamp(_, _), Timestamp(_, _)) => true,
        (Int32, Decimal128(precision, scale)) => i16::from(*precision) - i16::from(*scale) >= 10,
        (Int64, Decimal128(precision, scale)) => i16::from(*precision) - i16::from(*scale) >= 19,
        (Decimal128(p, s), Decimal128(wp, ws)) => {
            ws >= s && i16::from(*wp) - i16::from(*ws) >= i16::from(*p) - i16::from(*s)
        }
        (List(found), List(wanted)) => fits(found.data_type(), wanted.data_type()),
        (Map(found, _), Map(wanted, _)) => fits(found.data_type(), wanted.data_type()),
        (Struct(found), Struct(wanted)) => {
            found.len() == wanted.len()
                && found.iter().zip(wanted).all(|(found, wanted)| {
                    found.name() == wanted.name() && fits(found.data_type(), wanted.data_type())
                })
        }
        _ => false,
    }
}

/// An array whose type has been looked at once.
pub(crate) struct View<'a> {
    pub nulls: Option<&'a NullBuffer>,
    pub values: Values<'a>,
}

pub(crate) enum Values<'a> {
    Bool(&'a BooleanBuffer),
    I32(&'a [i32]),
    I64(&'a [i64]),
    I128(&'a [i128]),
    F32(&'a [f32]),
    F64(&'a [f64]),
    Ip(&'a FixedSizeBinaryArray),
    Text(&'a StringArray),
    Bytes(&'a BinaryArray),
    List(&'a [i32], Box<View<'a>>),
    Struct(Vec<View<'a>>),
}

impl<'a> View<'a> {
    /// `None` for a type that [`canonical`] never gives.
    pub fn of(array: &'a dyn Array) -> Option<Self> {
        let values = match array.data_type() {
            DataType::Boolean => Values::Bool(array.as_boolean().values()),
            DataType::Int32 => Values::I32(array.as_primitive::<Int32Type>().values()),
            DataType::Date32 => Values::I32(array.as_primitive::<Date32Type>().values()),
            DataType::Int64 => Values::I64(array.as_primitive::<Int64Type>().values()),
            DataType::Time64(TimeUnit::Microsecond) => {
                Values::I64(array.as_primitive::<Time64MicrosecondType>().values())
            }
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                Values::I64(array.as_primitive::<TimestampMillisecondType>().values())
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Values::I64(array.as_primitive::<TimestampMicrosecondType>().values())
            }
            DataType::Decimal128(_, _) => {
                Values::I128(array.as_primitive::<Decimal128Type>().values())
            }
            DataType::Float32 => Values::F32(array.as_primitive::<Float32Type>().values()),
            DataType::Float64 => Values::F64(array.as_primitive::<Float64Type>().values()),
            t if *t == types::IP => Values::Ip(array.as_fixed_size_binary()),
            DataType::Utf8 => Values::Text(array.as_string()),
            DataType::Binary => Values::Bytes(array.as_binary()),
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                Values::List(list.value_offsets(), Box::new(View::of(list.values().as_ref())?))
            }
            DataType::Map(_, _) => {
                let map = array.as_map();
                Values::List(map.value_offsets(), Box::new(View::of(map.entries())?))
            }
            DataType::Struct(_) => Values::Struct(
                array.as_struct().columns().iter().map(|c| View::of(c)).collect::<Option<_>>()?,
            ),
            _ => return None,
        };
        Some(Self { nulls: array.nulls(), values })
    }

    #[inline]
    pub fn is_null(&self, row: usize) -> bool {
        self.nulls.is_some_and(|nulls| nulls.is_null(row))
    }
}
