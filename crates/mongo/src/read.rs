//! Documents into columns: their bytes are walked once, straight into Arrow's buffers.
//!
//! A missing field, `null` and `undefined` are null. A number fits a column when the column holds it
//! exactly; whatever else is of another type than its column is an error, which names the field.

use crate::decimal::Decimal;
use crate::text;
use arrow_array::builder::{BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array,
    Int64Array, ListArray, MapArray, RecordBatch, RecordBatchOptions, StructArray,
    TimestampMicrosecondArray, TimestampMillisecondArray,
};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field, Fields, SchemaRef, TimeUnit};
use millstream_core::types::{self, IP};
use mongodb::bson::{RawBsonRef, RawDocument};
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::Arc;

/// A column that grows value by value.
struct Column {
    nulls: NullBufferBuilder,
    data_type: DataType,
    kind: Kind,
}

enum Kind {
    Bool(BooleanBuilder),
    I32(Vec<i32>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Date(Vec<i32>),
    /// How many of the unit a millisecond has.
    Timestamp(Vec<i64>, i64),
    Decimal(Vec<i128>, u8, i8),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Ip(FixedSizeBinaryBuilder),
    List(Vec<i32>, Box<Column>),
    Map(Vec<i32>, StringBuilder, Box<Column>),
    Struct(Vec<String>, Vec<Column>),
}

/// Rows that are made of documents.
pub(crate) struct Table {
    schema: SchemaRef,
    paths: Vec<Vec<String>>,
    columns: Vec<Column>,
    rows: usize,
}

/// Why a document does not fit.
type Misfit = String;

impl Table {
    /// Columns are found by their names as paths.
    pub fn new(schema: SchemaRef) -> Result<Table, String> {
        let columns = schema.fields().iter().map(|field| Column::new(field.data_type()));
        let paths = schema.fields().iter().map(|field| path(field.name()));
        let paths = paths.collect();
        Ok(Table { columns: columns.collect::<Result<_, _>>()?, paths, schema, rows: 0 })
    }

    /// After an error the table is uneven and of no use.
    pub fn push(&mut self, document: &RawDocument) -> Result<(), Misfit> {
        let mut found = vec![None; self.columns.len()];
        let mut expected = 0;
        for element in document.iter_elements() {
            let element = element.map_err(|e| e.to_string())?;
            let name = element.key().as_str();
            // Documents mostly have their fields in one order.
            let known = (expected..self.paths.len()).chain(0..expected);
            let mut matched = None;
            for at in known.filter(|at| self.paths[*at][0] == name) {
                let value = element.value().map_err(|e| format!("`{name}`: {e}"))?;
                found[at] = within(value, &self.paths[at][1..])
                    .map_err(|why| format!("`{}` {why}", self.schema.field(at).name()))?;
                matched = Some(at);
            }
            if let Some(at) = matched {
                expected = at + 1;
            }
        }
        for (at, value) in found.into_iter().enumerate() {
            let pushed = self.columns[at].push(value);
            pushed.map_err(|why| format!("`{}`: {why}", self.schema.field(at).name()))?;
        }
        self.rows += 1;
        Ok(())
    }

    pub fn finish(self) -> Result<RecordBatch, ArrowError> {
        let columns = self.columns.into_iter().map(Column::finish).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        RecordBatch::try_new_with_options(self.schema, columns, &options)
    }
}

pub(crate) fn path(name: &str) -> Vec<String> {
    name.split('.').map(str::to_owned).collect()
}

/// What is at the end of a path. An array on the way has many values, and so none.
fn within<'a>(value: RawBsonRef<'a>, path: &[String]) -> Result<Option<RawBsonRef<'a>>, Misfit> {
    let Some((first, rest)) = path.split_first() else { return Ok(Some(value)) };
    match value {
        RawBsonRef::Document(document) => {
            match document.get(first).map_err(|e| format!("is malformed: {e}"))? {
                Some(value) => within(value, rest),
                None => Ok(None),
            }
        }
        RawBsonRef::Array(_) => Err("has an array on its path: declare the array itself".into()),
        _ => Ok(None),
    }
}

impl Column {
    fn new(data_type: &DataType) -> Result<Column, String> {
        let kind = match data_type {
            DataType::Boolean => Kind::Bool(BooleanBuilder::new()),
            DataType::Int32 => Kind::I32(Vec::new()),
            DataType::Int64 => Kind::I64(Vec::new()),
            DataType::Float32 => Kind::F32(Vec::new()),
            DataType::Float64 => Kind::F64(Vec::new()),
            DataType::Date32 => Kind::Date(Vec::new()),
            DataType::Timestamp(TimeUnit::Millisecond, _) => Kind::Timestamp(Vec::new(), 1),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Kind::Timestamp(Vec::new(), 1000),
            DataType::Decimal128(precision, scale) => Kind::Decimal(Vec::new(), *precision, *scale),
            DataType::Utf8 => Kind::Text(StringBuilder::new()),
            DataType::Binary => Kind::Bytes(BinaryBuilder::new()),
            t if *t == IP => Kind::Ip(FixedSizeBinaryBuilder::new(16)),
            DataType::List(item) => Kind::List(vec![0], Box::new(Column::new(item.data_type())?)),
            DataType::Map(..) => {
                let (_, value) = entries(data_type).ok_or("a map has keys and values")?;
                let value = Column::new(value.data_type())?;
                Kind::Map(vec![0], StringBuilder::new(), Box::new(value))
            }
            DataType::Struct(fields) => {
                let columns = fields.iter().map(|field| Column::new(field.data_type()));
                let names = fields.iter().map(|field| field.name().clone()).collect();
                Kind::Struct(names, columns.collect::<Result<_, _>>()?)
            }
            other => {
                return Err(format!("documents have no values of the type {}", types::name(other)));
            }
        };
        Ok(Column { nulls: NullBufferBuilder::new(0), data_type: data_type.clone(), kind })
    }

    fn push(&mut self, value: Option<RawBsonRef<'_>>) -> Result<(), Misfit> {
        match value {
            None | Some(RawBsonRef::Null | RawBsonRef::Undefined) => self.push_null(),
            Some(value) => {
                if !self.push_value(value)? {
                    let (is, wanted) = (kind_of(value), types::name(&self.data_type));
                    return Err(format!("{is} does not fit into {wanted}"));
                }
                self.nulls.append_non_null();
            }
        }
        Ok(())
    }

    /// False when the value does not fit.
    fn push_value(&mut self, value: RawBsonRef<'_>) -> Result<bool, Misfit> {
        match &mut self.kind {
            Kind::Bool(values) => match value {
                RawBsonRef::Boolean(value) => values.append_value(value),
                _ => return Ok(false),
            },
            Kind::I32(values) => match whole(value).and_then(|n| i32::try_from(n).ok()) {
                Some(value) => values.push(value),
                None => return Ok(false),
            },
            Kind::I64(values) => match whole(value) {
                Some(value) => values.push(value),
                None => return Ok(false),
            },
            Kind::F32(values) => match double(value) {
                Some(value) => values.push(value as f32),
                None => return Ok(false),
            },
            Kind::F64(values) => match double(value) {
                Some(value) => values.push(value),
                None => return Ok(false),
            },
            Kind::Date(values) => match millis(value).map(|at| at.div_euclid(86_400_000)) {
                Some(days) => values.push(i32::try_from(days).map_err(|_| OUT_OF_RANGE)?),
                None => return Ok(false),
            },
            Kind::Timestamp(values, scale) => match millis(value) {
                Some(at) => values.push(at.checked_mul(*scale).ok_or(OUT_OF_RANGE)?),
                None => return Ok(false),
            },
            Kind::Decimal(values, precision, scale) => {
                let number = match value {
                    RawBsonRef::Decimal128(number) => Decimal::of(number),
                    RawBsonRef::Int32(n) => exact(n.into()),
                    RawBsonRef::Int64(n) => exact(n),
                    _ => return Ok(false),
                };
                match number.scaled(*precision, *scale) {
                    Some(number) => values.push(number),
                    None => return Ok(false),
                }
            }
            Kind::Text(values) => match value {
                RawBsonRef::String(text) => values.append_value(text),
                RawBsonRef::ObjectId(id) => values.append_value(id.to_hex()),
                other => {
                    let mut shown = String::new();
                    text::write(other, &mut shown)?;
                    values.append_value(shown);
                }
            },
            Kind::Bytes(values) => match value {
                RawBsonRef::Binary(binary) => values.append_value(binary.bytes),
                RawBsonRef::ObjectId(id) => values.append_value(id.bytes()),
                _ => return Ok(false),
            },
            Kind::Ip(values) => match address(value) {
                Some(octets) => values.append_value(octets).map_err(|e| e.to_string())?,
                None => return Ok(false),
            },
            Kind::List(offsets, item) => {
                let RawBsonRef::Array(array) = value else { return Ok(false) };
                for value in array {
                    item.push(Some(value.map_err(|e| e.to_string())?))?;
                }
                offsets.push(offset(item.nulls.len())?);
            }
            Kind::Map(offsets, names, item) => {
                let RawBsonRef::Document(document) = value else { return Ok(false) };
                for element in document {
                    let (name, value) = element.map_err(|e| e.to_string())?;
                    names.append_value(name.as_str());
                    item.push(Some(value)).map_err(|why| format!("`{name}`: {why}"))?;
                }
                offsets.push(offset(item.nulls.len())?);
            }
            Kind::Struct(names, columns) => {
                let RawBsonRef::Document(document) = value else { return Ok(false) };
                let mut found = vec![None; columns.len()];
                for element in document.iter_elements() {
                    let element = element.map_err(|e| e.to_string())?;
                    let name = element.key().as_str();
                    if let Some(at) = names.iter().position(|known| known == name) {
                        found[at] = Some(element.value().map_err(|e| format!("`{name}`: {e}"))?);
                    }
                }
                for ((column, name), value) in columns.iter_mut().zip(names).zip(found) {
                    column.push(value).map_err(|why| format!("`{name}`: {why}"))?;
                }
            }
        }
        Ok(true)
    }

    fn push_null(&mut self) {
        self.nulls.append_null();
        match &mut self.kind {
            Kind::Bool(values) => values.append_value(false),
            Kind::I32(values) | Kind::Date(values) => values.push(0),
            Kind::I64(values) | Kind::Timestamp(values, _) => values.push(0),
            Kind::F32(values) => values.push(0.0),
            Kind::F64(values) => values.push(0.0),
            Kind::Decimal(values, ..) => values.push(0),
            Kind::Text(values) => values.append_null(),
            Kind::Bytes(values) => values.append_null(),
            Kind::Ip(values) => values.append_null(),
            Kind::List(offsets, _) | Kind::Map(offsets, ..) => {
                offsets.push(offsets[offsets.len() - 1]);
            }
            Kind::Struct(_, columns) => columns.iter_mut().for_each(Column::push_null),
        }
    }

    fn finish(mut self) -> Result<ArrayRef, ArrowError> {
        let nulls = self.nulls.finish();
        Ok(match self.kind {
            Kind::Bool(mut values) => {
                let (values, _) = values.finish().into_parts();
                Arc::new(BooleanArray::new(values, nulls))
            }
            Kind::I32(values) => Arc::new(Int32Array::new(values.into(), nulls)),
            Kind::I64(values) => Arc::new(Int64Array::new(values.into(), nulls)),
            Kind::F32(values) => Arc::new(Float32Array::new(values.into(), nulls)),
            Kind::F64(values) => Arc::new(Float64Array::new(values.into(), nulls)),
            Kind::Date(values) => Arc::new(Date32Array::new(values.into(), nulls)),
            Kind::Timestamp(values, scale) => {
                let zone = match &self.data_type {
                    DataType::Timestamp(_, zone) => zone.clone(),
                    _ => None,
                };
                match scale {
                    1 => Arc::new(
                        TimestampMillisecondArray::new(values.into(), nulls)
                            .with_timezone_opt(zone),
                    ),
                    _ => Arc::new(
                        TimestampMicrosecondArray::new(values.into(), nulls)
                            .with_timezone_opt(zone),
                    ),
                }
            }
            Kind::Decimal(values, precision, scale) => Arc::new(
                Decimal128Array::new(values.into(), nulls)
                    .with_precision_and_scale(precision, scale)?,
            ),
            Kind::Text(mut values) => Arc::new(values.finish()),
            Kind::Bytes(mut values) => Arc::new(values.finish()),
            Kind::Ip(mut values) => Arc::new(values.finish()),
            Kind::List(offsets, item) => {
                let DataType::List(field) = &self.data_type else { return Err(odd()) };
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                Arc::new(ListArray::try_new(field.clone(), offsets, item.finish()?, nulls)?)
            }
            Kind::Map(offsets, mut names, item) => {
                let DataType::Map(field, _) = &self.data_type else { return Err(odd()) };
                let DataType::Struct(fields) = field.data_type() else { return Err(odd()) };
                let columns: Vec<ArrayRef> = vec![Arc::new(names.finish()), item.finish()?];
                let entries = StructArray::try_new(fields.clone(), columns, None)?;
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                Arc::new(MapArray::try_new(field.clone(), offsets, entries, nulls, false)?)
            }
            Kind::Struct(_, columns) => {
                let DataType::Struct(fields) = &self.data_type else { return Err(odd()) };
                let columns = columns.into_iter().map(Column::finish).collect::<Result<_, _>>()?;
                Arc::new(StructArray::try_new(Fields::clone(fields), columns, nulls)?)
            }
        })
    }
}

const OUT_OF_RANGE: &str = "the time is out of range";

fn odd() -> ArrowError {
    ArrowError::SchemaError("a column is not of its type".into())
}

fn entries(map: &DataType) -> Option<(&Field, &Field)> {
    let DataType::Map(entries, _) = map else { return None };
    let DataType::Struct(fields) = entries.data_type() else { return None };
    let [key, value] = &**fields else { return None };
    Some((key, value))
}

fn offset(len: usize) -> Result<i32, Misfit> {
    i32::try_from(len).map_err(|_| "the lists together are too long".to_owned())
}

fn exact(n: i64) -> Decimal {
    Decimal::Finite { negative: n < 0, coefficient: n.unsigned_abs().into(), exponent: 0 }
}

/// The whole number that a number is, whatever its type: shells write 5 as a double.
pub(crate) fn whole(value: RawBsonRef<'_>) -> Option<i64> {
    /// The first double that 64 bits do not hold.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    match value {
        RawBsonRef::Int32(n) => Some(n.into()),
        RawBsonRef::Int64(n) => Some(n),
        RawBsonRef::Double(n) if n.fract() == 0.0 && (-LIMIT..LIMIT).contains(&n) => Some(n as i64),
        RawBsonRef::Decimal128(n) => Decimal::of(n).whole(),
        _ => None,
    }
}

fn double(value: RawBsonRef<'_>) -> Option<f64> {
    match value {
        RawBsonRef::Double(n) => Some(n),
        RawBsonRef::Int32(n) => Some(n.into()),
        // What the double does not hold exactly is not passed off as it.
        RawBsonRef::Int64(n) if (n as f64) as i128 == i128::from(n) => Some(n as f64),
        _ => None,
    }
}

fn millis(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::DateTime(at) => Some(at.timestamp_millis()),
        RawBsonRef::Timestamp(at) => Some(i64::from(at.time) * 1000),
        _ => None,
    }
}

fn address(value: RawBsonRef<'_>) -> Option<[u8; 16]> {
    let address = match value {
        RawBsonRef::String(text) => IpAddr::from_str(text.trim()).ok()?,
        RawBsonRef::Binary(binary) => match binary.bytes.len() {
            4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(binary.bytes).ok()?)),
            _ => return binary.bytes.try_into().ok(),
        },
        _ => return None,
    };
    Some(match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    })
}

/// What a value is, in MongoDB's words.
pub(crate) fn kind_of(value: RawBsonRef<'_>) -> &'static str {
    match value {
        RawBsonRef::Double(_) => "a double",
        RawBsonRef::String(_) => "a string",
        RawBsonRef::Array(_) => "an array",
        RawBsonRef::Document(_) => "a document",
        RawBsonRef::Boolean(_) => "a bool",
        RawBsonRef::Int32(_) => "an int",
        RawBsonRef::Int64(_) => "a long",
        RawBsonRef::Binary(_) => "a binary",
        RawBsonRef::ObjectId(_) => "an ObjectId",
        RawBsonRef::DateTime(_) => "a date",
        RawBsonRef::Timestamp(_) => "a timestamp",
        RawBsonRef::Decimal128(_) => "a Decimal128",
        RawBsonRef::RegularExpression(_) => "a regular expression",
        RawBsonRef::Null | RawBsonRef::Undefined => "a null",
        _ => "a value of a rare type",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ColumnType, schema};
    use arrow_array::Array;
    use arrow_cast::display::array_value_to_string;
    use mongodb::bson::{
        Binary, Bson, DateTime, Document, RawDocumentBuf, Timestamp, doc, oid::ObjectId,
        spec::BinarySubtype,
    };

    fn read(columns: &[(&str, &str)], document: Document) -> Result<Vec<String>, String> {
        let columns = columns
            .iter()
            .map(|(name, of)| ((*name).to_owned(), ColumnType::parse(of).unwrap()))
            .collect();
        let mut table = Table::new(schema(&columns)).unwrap();
        table.push(&RawDocumentBuf::try_from(&document).unwrap())?;
        let rows = table.finish().unwrap();
        let show = |column: &ArrayRef| match column.is_null(0) {
            true => "null".to_owned(),
            false => array_value_to_string(column, 0).unwrap(),
        };
        Ok(rows.columns().iter().map(show).collect())
    }

    #[test]
    fn every_type_is_read() {
        let id = ObjectId::parse_str("0123456789abcdef01234567").unwrap();
        let uuid = mongodb::bson::Uuid::parse_str("123e4567-e89b-12d3-a456-426614174000").unwrap();
        let bytes = |subtype, bytes: &[u8]| Binary { subtype, bytes: bytes.to_vec() };
        let decimal = |text: &str| Bson::Decimal128(text.parse().unwrap());
        for (of, value, expected) in [
            ("boolean", Bson::Boolean(true), "true"),
            ("int", 7_i64.into(), "7"),
            ("int", 7.0.into(), "7"),
            ("bigint", i64::MIN.into(), "-9223372036854775808"),
            ("bigint", decimal("1E+3"), "1000"),
            ("double", 3_i32.into(), "3.0"),
            ("double", f64::NAN.into(), "NaN"),
            ("float", 0.5.into(), "0.5"),
            ("decimal(10, 2)", decimal("12.5"), "12.50"),
            ("decimal(10, 2)", (-3).into(), "-3.00"),
            ("decimal128", decimal("1.2300"), "1.2300"),
            ("string", decimal("NaN"), "NaN"),
            ("string", id.into(), "0123456789abcdef01234567"),
            ("object_id", id.into(), "0123456789abcdef01234567"),
            ("bytes", id.into(), "0123456789abcdef01234567"),
            ("uuid", uuid.into(), "123e4567-e89b-12d3-a456-426614174000"),
            ("bytes", bytes(BinarySubtype::Generic, &[0, 255]).into(), "00ff"),
            ("string", bytes(BinarySubtype::Generic, &[0, 255]).into(), "AP8="),
            ("timestamp", DateTime::from_millis(-1).into(), "1969-12-31T23:59:59.999Z"),
            ("timestamp_us", DateTime::from_millis(1).into(), "1970-01-01T00:00:00.001Z"),
            ("timestamp", Timestamp { time: 1, increment: 9 }.into(), "1970-01-01T00:00:01Z"),
            ("date", DateTime::from_millis(-1).into(), "1969-12-31"),
            ("string", DateTime::from_millis(0).into(), "1970-01-01T00:00:00Z"),
            ("ip", "10.1.2.3".into(), "00000000000000000000ffff0a010203"),
            ("string", Bson::MinKey, "MinKey"),
            ("bigint", Bson::Undefined, "null"),
            ("bigint", Bson::Null, "null"),
            ("int[]", vec![1, 2].into(), "[1, 2]"),
            ("int[][]", vec![Bson::from(vec![1]), Bson::Null].into(), "[[1], ]"),
            ("map<int>", doc! { "a": 1, "b": Bson::Null }.into(), "{a: 1, b: }"),
            (
                "struct<b string, a int[], c struct<d bigint>>",
                doc! { "a": [1], "x": 5, "b": "t", "c": { "d": 4 } }.into(),
                "{b: t, a: [1], c: {d: 4}}",
            ),
            ("string", doc! { "a": [1, "x"] }.into(), "{\"a\":[1,\"x\"]}"),
        ] {
            let got = read(&[("v", of)], doc! { "_id": 1, "v": value.clone() });
            assert_eq!(got.as_deref(), Ok(&[expected.to_owned()][..]), "{of} of {value:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_by_its_field() {
        for (of, value, told) in [
            ("int", Bson::from(1_i64 << 40), "`v`: a long does not fit into int"),
            ("bigint", 1.5.into(), "`v`: a double does not fit into bigint"),
            ("bigint", f64::NAN.into(), "a double does not fit"),
            ("bigint", "1".into(), "a string does not fit into bigint"),
            ("double", i64::MAX.into(), "a long does not fit into double"),
            ("decimal(4, 2)", 100.into(), "an int does not fit into decimal(4, 2)"),
            ("decimal(4, 2)", 0.5.into(), "a double does not fit"),
            ("date", DateTime::MAX.into(), "out of range"),
            ("timestamp_us", DateTime::MAX.into(), "out of range"),
            ("int[]", vec![Bson::from("x")].into(), "`v`: a string does not fit into int"),
            ("struct<a int>", doc! { "a": "x" }.into(), "`v`: `a`: a string does not fit into int"),
        ] {
            let got = read(&[("v", of)], doc! { "v": value }).unwrap_err();
            assert!(got.contains(told), "{got}");
        }
    }

    #[test]
    fn columns_are_paths_in_any_order() {
        let document = doc! { "b": { "c": 2, "d": { "e": "deep" } }, "a": 1, "z": 0 };
        let columns =
            [("a", "int"), ("b.d.e", "string"), ("b.c", "int"), ("b.x.y", "int"), ("z.z", "int")];
        assert_eq!(read(&columns, document).unwrap(), ["1", "deep", "2", "null", "null"]);
        let told = read(&[("a.b", "int")], doc! { "a": [{ "b": 1 }] }).unwrap_err();
        assert!(told.contains("`a.b` has an array on its path"), "{told}");
    }

    #[test]
    fn broken_bytes_are_an_error() {
        let whole = RawDocumentBuf::try_from(&doc! { "v": "text", "w": [1, 2] }).unwrap();
        let whole = whole.as_bytes();
        let columns: crate::types::Columns = vec![
            ("v".into(), ColumnType::parse("string").unwrap()),
            ("w".into(), ColumnType::parse("int[]").unwrap()),
        ];
        for at in 4..whole.len() - 1 {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.to_vec();
                bytes[at] = byte;
                let mut table = Table::new(schema(&columns)).unwrap();
                if let Ok(document) = RawDocument::from_bytes(&bytes) {
                    let _ = table.push(document);
                }
            }
        }
    }
}
