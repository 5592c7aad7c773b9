//! Columns into documents: values are written as the bytes that go over the wire.

use crate::decimal;
use crate::types::Stored;
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, TimeUnit};
use millstream_core::types::{IP, name};
use mongodb::bson::{Decimal128, oid::ObjectId};
use std::net::Ipv6Addr;

/// The largest document that MongoDB stores.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// How the values of a column are written.
#[derive(Debug, Clone)]
pub(crate) enum Writer {
    Bool,
    Int32,
    Int64,
    Double,
    Date,
    /// How many of the unit are a millisecond, or how many milliseconds the unit is.
    Millis(Scale),
    Text,
    ObjectIdText,
    ObjectIdBytes,
    UuidText,
    UuidBytes,
    Bytes,
    Ip,
    Decimal(i8),
    DecimalInt,
    DecimalText,
    List(Box<Writer>),
    Map(Box<Writer>),
    Struct(Vec<(Box<[u8]>, Writer)>),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Scale {
    Multiply(i64),
    Divide(i64),
}

/// The types of elements, as the format numbers them.
mod tag {
    pub const DOUBLE: u8 = 0x01;
    pub const STRING: u8 = 0x02;
    pub const DOCUMENT: u8 = 0x03;
    pub const ARRAY: u8 = 0x04;
    pub const BINARY: u8 = 0x05;
    pub const OBJECT_ID: u8 = 0x07;
    pub const BOOL: u8 = 0x08;
    pub const DATE: u8 = 0x09;
    pub const NULL: u8 = 0x0a;
    pub const INT32: u8 = 0x10;
    pub const INT64: u8 = 0x12;
    pub const DECIMAL: u8 = 0x13;
}

impl Writer {
    /// The error says what cannot be written, and what to do.
    pub fn new(data_type: &DataType, stored: Stored) -> Result<Writer, String> {
        use DataType as A;
        let misfit =
            |as_what: &str| Err(format!("{} cannot be written as {as_what}", name(data_type)));
        let is_text = matches!(data_type, A::Utf8 | A::Utf8View | A::LargeUtf8);
        let nested = match data_type {
            A::List(item) => Some(Writer::List(Box::new(Writer::new(item.data_type(), stored)?))),
            A::Map(entries, _) => match entries.data_type() {
                A::Struct(fields) if fields.len() == 2 && is_texts(fields[0].data_type()) => {
                    let value = Writer::new(fields[1].data_type(), stored)?;
                    Some(Writer::Map(Box::new(value)))
                }
                _ => return Err("the keys of a map that becomes a document are text".into()),
            },
            A::Struct(fields) => {
                let fields = fields.iter().map(|field| {
                    let writer = Writer::new(field.data_type(), stored)?;
                    Ok::<_, String>((field_name(field.name())?, writer))
                });
                Some(Writer::Struct(fields.collect::<Result<_, _>>()?))
            }
            _ => None,
        };
        if let Some(nested) = nested {
            return Ok(nested);
        }
        Ok(match (stored, data_type) {
            (Stored::ObjectId, _) if is_text => Writer::ObjectIdText,
            (Stored::ObjectId, A::FixedSizeBinary(12) | A::Binary | A::BinaryView) => {
                Writer::ObjectIdBytes
            }
            (Stored::ObjectId, _) => return misfit("an ObjectId"),
            (Stored::Uuid, _) if is_text => Writer::UuidText,
            (Stored::Uuid, A::FixedSizeBinary(16)) => Writer::UuidBytes,
            (Stored::Uuid, _) => return misfit("a UUID"),
            (Stored::Decimal128, _) if is_text => Writer::DecimalText,
            (Stored::Decimal128, t) if t.is_integer() => Writer::DecimalInt,
            (_, A::Decimal128(_, scale)) => Writer::Decimal(*scale),
            (Stored::Decimal128, _) => return misfit("a Decimal128"),
            (Stored::Plainly, A::Boolean) => Writer::Bool,
            (_, A::Int8 | A::Int16 | A::Int32 | A::UInt8 | A::UInt16) => Writer::Int32,
            (_, A::Int64 | A::UInt32 | A::UInt64) => Writer::Int64,
            (_, A::Float32 | A::Float64) => Writer::Double,
            (_, A::Date32) => Writer::Date,
            (_, A::Timestamp(unit, _)) => Writer::Millis(Scale::of(*unit)),
            (_, A::Utf8 | A::Utf8View | A::LargeUtf8) => Writer::Text,
            (_, t) if *t == IP => Writer::Ip,
            (_, A::Binary | A::BinaryView | A::LargeBinary | A::FixedSizeBinary(_)) => {
                Writer::Bytes
            }
            _ => {
                let is = name(data_type);
                return Err(format!(
                    "documents have no values of the type {is}; CAST it to string"
                ));
            }
        })
    }

    /// Appends an element, its name without a zero byte. False for a null, which writes nothing.
    pub fn write(
        &self,
        name: &[u8],
        column: &ArrayRef,
        row: usize,
        nulls: bool,
        out: &mut Vec<u8>,
    ) -> Result<bool, String> {
        if column.is_null(row) {
            return Ok(false);
        }
        let start = |out: &mut Vec<u8>, tag| begin_element(out, tag, name);
        match self {
            Writer::Bool => {
                start(out, tag::BOOL);
                out.push(u8::from(column.as_boolean().value(row)));
            }
            Writer::Int32 => {
                start(out, tag::INT32);
                let n = i32::try_from(whole(column, row)).map_err(|_| TOO_LARGE)?;
                out.extend_from_slice(&n.to_le_bytes());
            }
            Writer::Int64 => {
                start(out, tag::INT64);
                let n = i64::try_from(whole(column, row)).map_err(|_| TOO_LARGE)?;
                out.extend_from_slice(&n.to_le_bytes());
            }
            Writer::Double => {
                start(out, tag::DOUBLE);
                let n = match column.data_type() {
                    DataType::Float32 => f64::from(column.as_primitive::<Float32Type>().value(row)),
                    _ => column.as_primitive::<Float64Type>().value(row),
                };
                out.extend_from_slice(&n.to_le_bytes());
            }
            Writer::Date => {
                start(out, tag::DATE);
                let days = i64::from(column.as_primitive::<Date32Type>().value(row));
                out.extend_from_slice(&(days * 86_400_000).to_le_bytes());
            }
            Writer::Millis(scale) => {
                start(out, tag::DATE);
                out.extend_from_slice(&scale.apply(timestamp(column, row))?.to_le_bytes());
            }
            Writer::Text => {
                start(out, tag::STRING);
                string(text(column, row), out)?;
            }
            Writer::ObjectIdText => {
                start(out, tag::OBJECT_ID);
                let id = ObjectId::parse_str(text(column, row).trim());
                out.extend_from_slice(&id.map_err(|_| "the text is no ObjectId")?.bytes());
            }
            Writer::ObjectIdBytes => {
                start(out, tag::OBJECT_ID);
                let id: [u8; 12] =
                    bytes(column, row).try_into().map_err(|_| "an ObjectId has 12 bytes")?;
                out.extend_from_slice(&id);
            }
            Writer::UuidText => {
                start(out, tag::BINARY);
                let uuid = uuid::Uuid::try_parse(text(column, row).trim());
                binary(4, uuid.map_err(|_| "the text is no UUID")?.as_bytes(), out)?;
            }
            Writer::UuidBytes => {
                start(out, tag::BINARY);
                binary(4, bytes(column, row), out)?;
            }
            Writer::Bytes => {
                start(out, tag::BINARY);
                binary(0, bytes(column, row), out)?;
            }
            Writer::Ip => {
                start(out, tag::STRING);
                let octets: [u8; 16] =
                    bytes(column, row).try_into().map_err(|_| "an address has 16 bytes")?;
                string(&Ipv6Addr::from(octets).to_canonical().to_string(), out)?;
            }
            Writer::Decimal(scale) => {
                start(out, tag::DECIMAL);
                let n = column.as_primitive::<Decimal128Type>().value(row);
                out.extend_from_slice(&decimal::encode(n, *scale)?);
            }
            Writer::DecimalInt => {
                start(out, tag::DECIMAL);
                out.extend_from_slice(&decimal::encode(whole(column, row), 0)?);
            }
            Writer::DecimalText => {
                start(out, tag::DECIMAL);
                let number: Result<Decimal128, _> = text(column, row).trim().parse();
                out.extend_from_slice(&number.map_err(|_| "the text is no Decimal128")?.bytes());
            }
            Writer::List(item) => {
                start(out, tag::ARRAY);
                let at = begin(out);
                let values = column.as_list::<i32>().value(row);
                for element in 0..values.len() {
                    let mut digits = Digits::default();
                    let index = digits.of(element);
                    // An array keeps its places.
                    if !item.write(index, &values, element, nulls, out)? {
                        null(index, out);
                    }
                }
                end(out, at)?;
            }
            Writer::Map(value) => {
                start(out, tag::DOCUMENT);
                let at = begin(out);
                let entries = column.as_map().value(row);
                let (keys, values) = (entries.column(0), entries.column(1));
                for entry in 0..entries.len() {
                    let key = text(keys, entry).as_bytes();
                    if key.contains(&0) {
                        return Err("the name of a field has a zero byte".into());
                    }
                    if !value.write(key, values, entry, nulls, out)? {
                        null(key, out);
                    }
                }
                end(out, at)?;
            }
            Writer::Struct(fields) => {
                start(out, tag::DOCUMENT);
                let at = begin(out);
                let values = column.as_struct();
                for ((name, writer), column) in fields.iter().zip(values.columns()) {
                    if !writer.write(name, column, row, nulls, out)? && nulls {
                        null(name, out);
                    }
                }
                end(out, at)?;
            }
        }
        Ok(true)
    }
}

/// A name as an element has it.
pub(crate) fn field_name(name: &str) -> Result<Box<[u8]>, String> {
    match name.bytes().any(|byte| byte == 0) {
        true => Err("the name of a field has a zero byte".into()),
        false => Ok(name.as_bytes().into()),
    }
}

/// Begins a document and gives the place of its length, for [`end`].
pub(crate) fn begin(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[0; 4]);
    out.len() - 4
}

pub(crate) fn end(out: &mut Vec<u8>, at: usize) -> Result<(), String> {
    out.push(0);
    let len = i32::try_from(out.len() - at).map_err(|_| "a document is larger than 2 GiB")?;
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
    Ok(())
}

pub(crate) fn begin_document(name: &[u8], out: &mut Vec<u8>) -> usize {
    begin_element(out, tag::DOCUMENT, name);
    begin(out)
}

pub(crate) fn begin_array(name: &[u8], out: &mut Vec<u8>) -> usize {
    begin_element(out, tag::ARRAY, name);
    begin(out)
}

pub(crate) fn null(name: &[u8], out: &mut Vec<u8>) {
    begin_element(out, tag::NULL, name);
}

pub(crate) fn boolean(name: &[u8], value: bool, out: &mut Vec<u8>) {
    begin_element(out, tag::BOOL, name);
    out.push(u8::from(value));
}

pub(crate) fn int(name: &[u8], value: i32, out: &mut Vec<u8>) {
    begin_element(out, tag::INT32, name);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn long(name: &[u8], value: i64, out: &mut Vec<u8>) {
    begin_element(out, tag::INT64, name);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn double(name: &[u8], value: f64, out: &mut Vec<u8>) {
    begin_element(out, tag::DOUBLE, name);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn words(name: &[u8], value: &str, out: &mut Vec<u8>) -> Result<(), String> {
    begin_element(out, tag::STRING, name);
    string(value, out)
}

pub(crate) fn object_id(name: &[u8], id: ObjectId, out: &mut Vec<u8>) {
    begin_element(out, tag::OBJECT_ID, name);
    out.extend_from_slice(&id.bytes());
}

/// An element whose type and value are bytes that were written under an empty name.
pub(crate) fn renamed(name: &[u8], nameless: &[u8], out: &mut Vec<u8>) {
    begin_element(out, nameless[0], name);
    out.extend_from_slice(&nameless[2..]);
}

/// A number's decimal digits, which name the elements of an array.
#[derive(Default)]
pub(crate) struct Digits([u8; 20]);

impl Digits {
    pub fn of(&mut self, mut n: usize) -> &[u8] {
        let mut at = self.0.len();
        loop {
            at -= 1;
            self.0[at] = b'0' + (n % 10) as u8;
            n /= 10;
            if n == 0 {
                return &self.0[at..];
            }
        }
    }
}

const TOO_LARGE: &str = "the number is larger than a long";

fn begin_element(out: &mut Vec<u8>, tag: u8, name: &[u8]) {
    out.push(tag);
    out.extend_from_slice(name);
    out.push(0);
}

fn string(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    let len = i32::try_from(text.len() + 1).map_err(|_| "a text is larger than 2 GiB")?;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    Ok(())
}

fn binary(subtype: u8, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let len = i32::try_from(bytes.len()).map_err(|_| "a value is larger than 2 GiB")?;
    out.extend_from_slice(&len.to_le_bytes());
    out.push(subtype);
    out.extend_from_slice(bytes);
    Ok(())
}

fn is_texts(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8)
}

impl Scale {
    fn of(unit: TimeUnit) -> Scale {
        match unit {
            TimeUnit::Second => Scale::Multiply(1000),
            TimeUnit::Millisecond => Scale::Multiply(1),
            TimeUnit::Microsecond => Scale::Divide(1000),
            TimeUnit::Nanosecond => Scale::Divide(1_000_000),
        }
    }

    fn apply(self, value: i64) -> Result<i64, String> {
        match self {
            Scale::Divide(by) => Ok(value.div_euclid(by)),
            Scale::Multiply(by) => {
                value.checked_mul(by).ok_or_else(|| "the time is out of range".into())
            }
        }
    }
}

fn timestamp(column: &ArrayRef, row: usize) -> i64 {
    match column.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            column.as_primitive::<TimestampSecondType>().value(row)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            column.as_primitive::<TimestampMicrosecondType>().value(row)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            column.as_primitive::<TimestampNanosecondType>().value(row)
        }
        _ => column.as_primitive::<TimestampMillisecondType>().value(row),
    }
}

fn whole(column: &ArrayRef, row: usize) -> i128 {
    match column.data_type() {
        DataType::Int8 => column.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => column.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
        DataType::UInt8 => column.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => column.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => column.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).into(),
        _ => column.as_primitive::<Int64Type>().value(row).into(),
    }
}

fn text(column: &ArrayRef, row: usize) -> &str {
    match column.data_type() {
        DataType::Utf8View => column.as_string_view().value(row),
        DataType::LargeUtf8 => column.as_string::<i64>().value(row),
        _ => column.as_string::<i32>().value(row),
    }
}

fn bytes(column: &ArrayRef, row: usize) -> &[u8] {
    match column.data_type() {
        DataType::BinaryView => column.as_binary_view().value(row),
        DataType::LargeBinary => column.as_binary::<i64>().value(row),
        DataType::FixedSizeBinary(_) => column.as_fixed_size_binary().value(row),
        _ => column.as_binary::<i32>().value(row),
    }
}

/// How a key of this type finds documents; an error for types whose values are not equal exactly.
pub(crate) fn key_writer(data_type: &DataType, stored: Stored) -> Result<Writer, String> {
    let inexact = match data_type {
        DataType::Float32 | DataType::Float64 | DataType::Decimal128(..) => true,
        t => t.is_nested() || stored == Stored::Decimal128,
    };
    if inexact {
        let is = name(data_type);
        return Err(format!(
            "values of {is} cannot be looked up exactly; CAST the key to bigint or string"
        ));
    }
    Writer::new(data_type, stored)
}

/// The path of a field that a sink writes as a whole.
pub(crate) fn whole_field(name: &str) -> Result<Box<[u8]>, String> {
    if name.is_empty() || name.starts_with('$') || name.contains('.') {
        return Err(format!(
            "`{name}` cannot be the name of a field: it is empty, begins with `$` or has a dot in \
             it; give it another name, or nest it in a struct"
        ));
    }
    field_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::Table;
    use crate::types::{ColumnType, schema};
    use arrow_array::{
        Decimal128Array, Float64Array, Int32Array, StringArray, StructArray, TimestampSecondArray,
        UInt64Array,
    };
    use arrow_schema::Field;
    use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
    use std::sync::Arc;

    fn written(column: ArrayRef, stored: Stored, nulls: bool) -> Result<Document, String> {
        let writer = Writer::new(column.data_type(), stored)?;
        let mut out = Vec::new();
        let at = begin(&mut out);
        if !writer.write(b"v", &column, 0, nulls, &mut out)? && nulls {
            null(b"v", &mut out);
        }
        end(&mut out, at)?;
        Ok(Document::try_from(&RawDocumentBuf::from_bytes(out).unwrap()).unwrap())
    }

    fn texts(text: &str) -> ArrayRef {
        Arc::new(StringArray::from(vec![text]))
    }

    #[test]
    fn values_become_elements() {
        let hex = "0123456789abcdef01234567";
        let uuid = "123e4567-e89b-12d3-a456-426614174000";
        let decimal = |n, scale| -> ArrayRef {
            Arc::new(Decimal128Array::from(vec![n]).with_precision_and_scale(38, scale).unwrap())
        };
        let id = ObjectId::parse_str(hex).unwrap();
        for (column, stored, expected) in [
            (texts("grün"), Stored::Plainly, Bson::from("grün")),
            (texts(hex), Stored::ObjectId, id.into()),
            (texts(uuid), Stored::Uuid, mongodb::bson::Uuid::parse_str(uuid).unwrap().into()),
            (texts("1.50"), Stored::Decimal128, Bson::Decimal128("1.50".parse().unwrap())),
            (decimal(150, 2), Stored::Plainly, Bson::Decimal128("1.50".parse().unwrap())),
            (Arc::new(Int32Array::from(vec![-7])), Stored::Plainly, (-7).into()),
            (
                Arc::new(Int32Array::from(vec![-7])),
                Stored::Decimal128,
                Bson::Decimal128("-7".parse().unwrap()),
            ),
            (
                Arc::new(Float64Array::from(vec![f64::INFINITY])),
                Stored::Plainly,
                f64::INFINITY.into(),
            ),
            (
                Arc::new(TimestampSecondArray::from(vec![-1])),
                Stored::Plainly,
                mongodb::bson::DateTime::from_millis(-1000).into(),
            ),
        ] {
            assert_eq!(written(column, stored, false).unwrap(), doc! { "v": expected });
        }
        for (column, stored, told) in [
            (texts("xyz"), Stored::ObjectId, "no ObjectId"),
            (texts("xyz"), Stored::Uuid, "no UUID"),
            (texts("1,5"), Stored::Decimal128, "no Decimal128"),
            (decimal(i128::MAX / 10, 0), Stored::Plainly, "34 digits"),
            (Arc::new(UInt64Array::from(vec![u64::MAX])) as ArrayRef, Stored::Plainly, "a long"),
        ] {
            let error = written(column, stored, false).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn a_null_is_left_out_or_written() {
        let nothing: ArrayRef = Arc::new(Int32Array::from(vec![None]));
        assert_eq!(written(nothing.clone(), Stored::Plainly, false).unwrap(), doc! {});
        assert_eq!(
            written(nothing.clone(), Stored::Plainly, true).unwrap(),
            doc! { "v": Bson::Null }
        );
        let fields = [("a", DataType::Int32), ("b", DataType::Utf8)];
        let fields = fields.map(|(name, of)| Field::new(name, of, true)).to_vec().into();
        let both: ArrayRef = Arc::new(StructArray::new(fields, vec![nothing, texts("x")], None));
        assert_eq!(
            written(both.clone(), Stored::Plainly, false).unwrap(),
            doc! { "v": { "b": "x" } }
        );
        let kept = doc! { "v": { "a": Bson::Null, "b": "x" } };
        assert_eq!(written(both, Stored::Plainly, true).unwrap(), kept);
    }

    #[test]
    fn nested_arrays_come_back_as_they_went() {
        let columns = vec![
            ("v".to_owned(), ColumnType::parse("int[][]").unwrap()),
            ("m".to_owned(), ColumnType::parse("map<string[]>").unwrap()),
        ];
        let sent = doc! { "v": [[1, 2], [], Bson::Null], "m": { "k": ["a", Bson::Null], "l": [] } };
        let mut table = Table::new(schema(&columns)).unwrap();
        table.push(&RawDocumentBuf::try_from(&sent).unwrap()).unwrap();
        let rows = table.finish().unwrap();
        let mut out = Vec::new();
        let at = begin(&mut out);
        for (column, (name, of)) in rows.columns().iter().zip(&columns) {
            let writer = Writer::new(&of.data_type, of.stored).unwrap();
            assert!(writer.write(name.as_bytes(), column, 0, false, &mut out).unwrap());
        }
        end(&mut out, at).unwrap();
        let came = Document::try_from(&RawDocumentBuf::from_bytes(out).unwrap()).unwrap();
        assert_eq!(came, sent);
    }
}
