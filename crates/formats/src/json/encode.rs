//! Columns into JSON objects.

use crate::columns::{entry_fields, units_per_second};
use crate::values;
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_buffer::i256;
use arrow_schema::{DataType, IntervalUnit, SchemaRef, TimeUnit};
use bytes::Bytes;
use millstream_core::{Encoded, Encoder, Error, Result};
use std::fmt;

/// Encodes one JSON object a row: moments in RFC 3339, bytes in base64, addresses and decimals as
/// text. A row with a number that JSON does not have (NaN, infinity) is rejected.
pub struct JsonEncoder {
    input: SchemaRef,
    bytes_expected: usize,
}

impl JsonEncoder {
    /// Fails with all columns that have no JSON form.
    pub fn new(input: SchemaRef) -> Result<JsonEncoder> {
        let mut wrong = Vec::new();
        for field in input.fields() {
            if !encodable(field.data_type()) {
                wrong.push(format!("`{}` of type {}", field.name(), field.data_type()));
            }
        }
        match wrong.is_empty() {
            true => Ok(JsonEncoder { input, bytes_expected: 0 }),
            false => Err(Error::stop(
                "schema_mismatch",
                format!("columns that cannot be written as JSON: {}", wrong.join(", ")),
            )),
        }
    }
}

impl Encoder for JsonEncoder {
    fn encode(&mut self, rows: &RecordBatch) -> Result<Encoded> {
        if rows.num_columns() != self.input.fields().len() {
            return Err(Error::stop("schema_mismatch", "the columns are not those of the start"));
        }
        let mut columns = Vec::with_capacity(rows.num_columns());
        for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            let mut key = serde_json::to_vec(field.name()).expect("a name is always JSON");
            key.push(b':');
            columns.push((key, Writer::new(column), field.name()));
        }
        let mut out = Vec::with_capacity(self.bytes_expected + self.bytes_expected / 8);
        let mut encoded =
            Encoded { ends: Vec::with_capacity(rows.num_rows()), ..Encoded::default() };
        for row in 0..rows.num_rows() {
            let start = out.len();
            out.push(b'{');
            for (at, (key, writer, name)) in columns.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(key);
                if let Err(why) = writer.write(row, &mut out) {
                    out.truncate(start);
                    encoded.rejected.push((row as u32, format!("column `{name}`: {why}")));
                    break;
                }
            }
            if out.len() > start {
                out.push(b'}');
            }
            let end = u32::try_from(out.len()).map_err(|_| {
                Error::stop("batch_too_large", "the encoded rows of a batch are over 4 GiB")
            })?;
            encoded.ends.push(end);
        }
        self.bytes_expected = out.len();
        encoded.buffer = Bytes::from(out);
        Ok(encoded)
    }
}

pub(crate) fn encodable(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) => encodable(item.data_type()),
        DataType::Map(entries, _) => entry_fields(entries)
            .is_some_and(|(key, value)| is_text(key.data_type()) && encodable(value.data_type())),
        DataType::Struct(fields) => fields.iter().all(|field| encodable(field.data_type())),
        DataType::Dictionary(_, values) => encodable(values),
        other => {
            is_text(other)
                || other.is_integer()
                || matches!(
                    other,
                    DataType::Null
                        | DataType::Boolean
                        | DataType::Float32
                        | DataType::Float64
                        | DataType::Date32
                        | DataType::Time64(_)
                        | DataType::Timestamp(_, _)
                        | DataType::Decimal128(_, _)
                        | DataType::Decimal256(_, _)
                        | DataType::Binary
                        | DataType::LargeBinary
                        | DataType::BinaryView
                        | DataType::FixedSizeBinary(_)
                        | DataType::Interval(IntervalUnit::MonthDayNano)
                )
        }
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// A column of one batch with what is nested in it, taken apart once.
pub(crate) enum Writer<'a> {
    Leaf(&'a ArrayRef),
    Dictionary(&'a ArrayRef, Vec<usize>, Box<Writer<'a>>),
    List(&'a ArrayRef, Box<Writer<'a>>),
    Map(&'a ArrayRef, Box<Writer<'a>>, Box<Writer<'a>>),
    Struct(&'a ArrayRef, Vec<(Vec<u8>, Writer<'a>)>),
}

impl<'a> Writer<'a> {
    pub fn new(array: &'a ArrayRef) -> Self {
        match array.data_type() {
            DataType::List(_) => {
                Writer::List(array, Box::new(Writer::new(array.as_list::<i32>().values())))
            }
            DataType::LargeList(_) => {
                Writer::List(array, Box::new(Writer::new(array.as_list::<i64>().values())))
            }
            DataType::Map(..) => {
                let map = array.as_map();
                let (keys, values) = (Writer::new(map.keys()), Writer::new(map.values()));
                Writer::Map(array, Box::new(keys), Box::new(values))
            }
            DataType::Struct(fields) => {
                let keys = fields.iter().map(|field| {
                    let mut key = serde_json::to_vec(field.name()).expect("a name is always JSON");
                    key.push(b':');
                    key
                });
                let children = array.as_struct().columns().iter().map(Writer::new);
                Writer::Struct(array, keys.zip(children).collect())
            }
            DataType::Dictionary(..) => {
                let dictionary = array.as_any_dictionary();
                let keys = match dictionary.values().is_empty() {
                    true => Vec::new(),
                    false => dictionary.normalized_keys(),
                };
                Writer::Dictionary(array, keys, Box::new(Writer::new(dictionary.values())))
            }
            _ => Writer::Leaf(array),
        }
    }

    pub fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let (Writer::Leaf(array)
        | Writer::Dictionary(array, ..)
        | Writer::List(array, _)
        | Writer::Map(array, ..)
        | Writer::Struct(array, _)) = self;
        if array.is_null(row) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        match self {
            Writer::Leaf(array) => return leaf(array, row, out),
            Writer::Dictionary(_, keys, values) => return values.write(keys[row], out),
            Writer::List(array, items) => {
                let (from, to) = match array.data_type() {
                    DataType::List(_) => {
                        let offsets = array.as_list::<i32>().value_offsets();
                        (offsets[row] as usize, offsets[row + 1] as usize)
                    }
                    _ => {
                        let offsets = array.as_list::<i64>().value_offsets();
                        (offsets[row] as usize, offsets[row + 1] as usize)
                    }
                };
                out.push(b'[');
                for item in from..to {
                    if item > from {
                        out.push(b',');
                    }
                    items.write(item, out)?;
                }
                out.push(b']');
            }
            Writer::Map(array, keys, values) => {
                let offsets = array.as_map().value_offsets();
                let (from, to) = (offsets[row] as usize, offsets[row + 1] as usize);
                out.push(b'{');
                for item in from..to {
                    if item > from {
                        out.push(b',');
                    }
                    keys.write(item, out)?;
                    out.push(b':');
                    values.write(item, out)?;
                }
                out.push(b'}');
            }
            Writer::Struct(_, fields) => {
                out.push(b'{');
                for (at, (key, writer)) in fields.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(key);
                    writer.write(row, out)?;
                }
                out.push(b'}');
            }
        }
        Ok(())
    }
}

fn leaf(array: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
    macro_rules! plain {
        ($type:ty) => {
            put(out, array.as_primitive::<$type>().value(row))
        };
    }
    match array.data_type() {
        DataType::Null => out.extend_from_slice(b"null"),
        DataType::Boolean => put(out, array.as_boolean().value(row)),
        DataType::Int8 => plain!(Int8Type),
        DataType::Int16 => plain!(Int16Type),
        DataType::Int32 => plain!(Int32Type),
        DataType::Int64 => plain!(Int64Type),
        DataType::UInt8 => plain!(UInt8Type),
        DataType::UInt16 => plain!(UInt16Type),
        DataType::UInt32 => plain!(UInt32Type),
        DataType::UInt64 => plain!(UInt64Type),
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            finite(value.into())?;
            put(out, format_args!("{value:?}"));
        }
        DataType::Float64 => {
            let value = array.as_primitive::<Float64Type>().value(row);
            finite(value)?;
            put(out, format_args!("{value:?}"));
        }
        DataType::Utf8 => quote(array.as_string::<i32>().value(row), out),
        DataType::LargeUtf8 => quote(array.as_string::<i64>().value(row), out),
        DataType::Utf8View => quote(array.as_string_view().value(row), out),
        DataType::Binary => base64(array.as_binary::<i32>().value(row), out),
        DataType::LargeBinary => base64(array.as_binary::<i64>().value(row), out),
        DataType::BinaryView => base64(array.as_binary_view().value(row), out),
        DataType::FixedSizeBinary(_) => {
            let bytes = array.as_fixed_size_binary().value(row);
            match bytes.try_into() {
                Ok(address) => quote(&values::ip_text(address), out),
                Err(_) => base64(bytes, out),
            }
        }
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().value(row);
            let text = values::date_text(days);
            quote(
                &text.ok_or_else(|| {
                    format!("the date {days} (days since 1970) is out of range: {}", values::DATES)
                })?,
                out,
            );
        }
        DataType::Time64(unit) => {
            let value = match unit {
                TimeUnit::Nanosecond => array.as_primitive::<Time64NanosecondType>().value(row),
                _ => array.as_primitive::<Time64MicrosecondType>().value(row),
            };
            let text = values::time_text(value, *unit);
            let beyond =
                || format!("the time of day {value} {} is out of range", values::unit_word(*unit));
            quote(&text.ok_or_else(beyond)?, out);
        }
        DataType::Timestamp(unit, zone) => {
            let value = match units_per_second(*unit) {
                1 => array.as_primitive::<TimestampSecondType>().value(row),
                1_000 => array.as_primitive::<TimestampMillisecondType>().value(row),
                1_000_000 => array.as_primitive::<TimestampMicrosecondType>().value(row),
                _ => array.as_primitive::<TimestampNanosecondType>().value(row),
            };
            let text = values::timestamp_text(value, *unit, zone.is_some());
            quote(&text.ok_or_else(|| out_of_range(value, *unit))?, out);
        }
        DataType::Decimal128(_, scale) => {
            let value = array.as_primitive::<Decimal128Type>().value(row);
            quote(&values::decimal_text(i256::from_i128(value), *scale), out);
        }
        DataType::Decimal256(_, scale) => {
            let value = array.as_primitive::<Decimal256Type>().value(row);
            quote(&values::decimal_text(value, *scale), out);
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            let IntervalMonthDayNano { months, days, nanoseconds } = value;
            let text = format_args!(r#"{{"months":{months},"days":{days},"nanos":{nanoseconds}}}"#);
            put(out, text);
        }
        other => return Err(format!("type {other} has no JSON form")),
    }
    Ok(())
}

fn finite(value: f64) -> Result<(), String> {
    match value.is_finite() {
        true => Ok(()),
        false => Err(format!("{value} is not a number that JSON has")),
    }
}

#[cold]
fn out_of_range(value: i64, unit: TimeUnit) -> String {
    format!(
        "the timestamp {value} ({} since 1970) is out of range: {}",
        values::unit_word(unit),
        values::timestamps_of(unit)
    )
}

fn put(out: &mut Vec<u8>, value: impl fmt::Display) {
    use std::io::Write;
    write!(out, "{value}").expect("writing to memory cannot fail");
}

fn quote(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a string is always JSON");
}

fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    values::base64_into(bytes, out);
    out.push(b'"');
}
