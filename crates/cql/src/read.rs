//! Cells into columns: the bytes of the protocol are taken apart once, straight into Arrow's buffers.

use crate::types;
use arrow_array::builder::{BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder, StringBuilder};
use arrow_array::types::IntervalMonthDayNano;
use arrow_array::{
    ArrayRef, Date32Array, Float32Array, Float64Array, Int32Array, Int64Array,
    IntervalMonthDayNanoArray, ListArray, MapArray, StructArray, Time64NanosecondArray,
    TimestampMillisecondArray,
};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field, Fields};
use num_bigint::BigInt;
use scylla::cluster::metadata::{CollectionType, ColumnType, NativeType};
use std::fmt::Write;
use std::sync::Arc;

/// A column that grows cell by cell.
pub(crate) struct Column {
    data_type: DataType,
    nulls: NullBufferBuilder,
    kind: Kind,
}

enum Kind {
    Bool(BooleanBuilder),
    /// Whole numbers of up to four bytes, and how many they have.
    I32(Vec<i32>, usize),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Date(Vec<i32>),
    Time(Vec<i64>),
    Timestamp(Vec<i64>),
    Duration(Vec<IntervalMonthDayNano>),
    Text(StringBuilder),
    Uuid(StringBuilder),
    Varint(StringBuilder),
    Decimal(StringBuilder),
    Blob(BinaryBuilder),
    Inet(FixedSizeBinaryBuilder),
    List(Vec<i32>, Box<Column>),
    /// A vector's length, and the bytes of an element where all have the same.
    Vector(Vec<i32>, Box<Column>, usize, Option<usize>),
    Map(Vec<i32>, Box<[Column; 2]>),
    Struct(Vec<Column>),
}

/// Bytes that are not of the type that they were said to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

type Read<T = ()> = Result<T, Malformed>;

impl Column {
    pub fn new(cql: &ColumnType<'_>) -> Result<Column, String> {
        let data_type = types::arrow(cql)?;
        let kind = match cql {
            ColumnType::Native(native) => leaf(native)?,
            ColumnType::Vector { typ, dimensions } => {
                let item = Box::new(Column::new(typ)?);
                Kind::Vector(vec![0], item, usize::from(*dimensions), fixed_width(typ))
            }
            ColumnType::Collection { typ, .. } => match typ {
                CollectionType::List(of) | CollectionType::Set(of) => {
                    Kind::List(vec![0], Box::new(Column::new(of)?))
                }
                CollectionType::Map(key, value) => {
                    Kind::Map(vec![0], Box::new([Column::new(key)?, Column::new(value)?]))
                }
                _ => return Err("a collection of an unknown kind".into()),
            },
            ColumnType::UserDefinedType { definition, .. } => {
                let fields = definition.field_types.iter().map(|(_, of)| Column::new(of));
                Kind::Struct(fields.collect::<Result<_, _>>()?)
            }
            ColumnType::Tuple(types) => {
                Kind::Struct(types.iter().map(Column::new).collect::<Result<_, _>>()?)
            }
            other => return Err(format!("the CQL type {} is not known", types::name(other))),
        };
        Ok(Column { data_type, nulls: NullBufferBuilder::new(0), kind })
    }

    /// Appends a cell; none is a null. After an error the column is uneven and of no use.
    pub fn push(&mut self, cell: Option<&[u8]>) -> Read {
        match cell {
            // Cassandra has empty values of types that have none: whoever reads them sees a null.
            Some([]) if !self.has_empty() => self.push_null(),
            Some(bytes) => {
                self.push_value(bytes)?;
                self.nulls.append_non_null();
                return Ok(());
            }
            None => self.push_null(),
        }
        Ok(())
    }

    fn has_empty(&self) -> bool {
        matches!(self.kind, Kind::Text(_) | Kind::Blob(_) | Kind::Struct(_))
    }

    fn push_value(&mut self, bytes: &[u8]) -> Read {
        match &mut self.kind {
            Kind::Bool(values) => match bytes {
                [byte] => values.append_value(*byte != 0),
                _ => return Err(Malformed),
            },
            Kind::I32(values, width) => {
                if bytes.len() != *width {
                    return Err(Malformed);
                }
                let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
                values.push(bytes.iter().fold(sign, |n, byte| n << 8 | i32::from(*byte)));
            }
            Kind::I64(values) | Kind::Time(values) | Kind::Timestamp(values) => {
                values.push(i64::from_be_bytes(exactly(bytes)?));
            }
            Kind::F32(values) => values.push(f32::from_be_bytes(exactly(bytes)?)),
            Kind::F64(values) => values.push(f64::from_be_bytes(exactly(bytes)?)),
            // Days since 1970 stand in the middle of what 32 bits can count.
            Kind::Date(values) => {
                let days = u32::from_be_bytes(exactly(bytes)?);
                values.push((days ^ 1 << 31).cast_signed());
            }
            Kind::Duration(values) => values.push(duration(bytes)?),
            Kind::Text(values) => {
                values.append_value(std::str::from_utf8(bytes).map_err(|_| Malformed)?);
            }
            Kind::Uuid(values) => {
                let uuid = uuid::Uuid::from_bytes(exactly(bytes)?);
                let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
                values.append_value(uuid.hyphenated().encode_lower(&mut text));
            }
            Kind::Varint(values) => {
                let number = integer(bytes)?;
                write!(values, "{number}").map_err(|_| Malformed)?;
                values.append_value("");
            }
            Kind::Decimal(values) => {
                let (scale, digits) = bytes.split_first_chunk().ok_or(Malformed)?;
                let text = decimal(i32::from_be_bytes(*scale), digits)?;
                values.append_value(text);
            }
            Kind::Blob(values) => values.append_value(bytes),
            Kind::Inet(values) => {
                let address: [u8; 16] = match bytes.len() {
                    4 => std::net::Ipv4Addr::from(exactly::<4>(bytes)?).to_ipv6_mapped().octets(),
                    _ => exactly(bytes)?,
                };
                values.append_value(address).map_err(|_| Malformed)?;
            }
            Kind::List(offsets, item) => {
                let mut rest = bytes;
                for _ in 0..count(&mut rest)? {
                    item.push(cell(&mut rest)?)?;
                }
                ends(rest)?;
                offsets.push(offset(item)?);
            }
            Kind::Vector(offsets, item, len, width) => {
                let mut rest = bytes;
                for _ in 0..*len {
                    let width = match width {
                        Some(width) => *width,
                        None => usize::try_from(vint(&mut rest)?).map_err(|_| Malformed)?,
                    };
                    let (one, more) = rest.split_at_checked(width).ok_or(Malformed)?;
                    item.push(Some(one))?;
                    rest = more;
                }
                ends(rest)?;
                offsets.push(offset(item)?);
            }
            Kind::Map(offsets, entry) => {
                let mut rest = bytes;
                let [key, value] = &mut **entry;
                for _ in 0..count(&mut rest)? {
                    key.push(Some(cell(&mut rest)?.ok_or(Malformed)?))?;
                    value.push(cell(&mut rest)?)?;
                }
                ends(rest)?;
                offsets.push(offset(value)?);
            }
            // A value that was written before a field was added to its type ends early.
            Kind::Struct(fields) => {
                let mut rest = bytes;
                for field in fields {
                    field.push(if rest.is_empty() { None } else { cell(&mut rest)? })?;
                }
                ends(rest)?;
            }
        }
        Ok(())
    }

    fn push_null(&mut self) {
        self.nulls.append_null();
        match &mut self.kind {
            Kind::Bool(values) => values.append_value(false),
            Kind::I32(values, _) | Kind::Date(values) => values.push(0),
            Kind::I64(values) | Kind::Time(values) | Kind::Timestamp(values) => values.push(0),
            Kind::F32(values) => values.push(0.0),
            Kind::F64(values) => values.push(0.0),
            Kind::Duration(values) => values.push(IntervalMonthDayNano::ZERO),
            Kind::Text(values)
            | Kind::Uuid(values)
            | Kind::Varint(values)
            | Kind::Decimal(values) => values.append_null(),
            Kind::Blob(values) => values.append_null(),
            Kind::Inet(values) => values.append_null(),
            Kind::List(offsets, _) | Kind::Vector(offsets, ..) | Kind::Map(offsets, _) => {
                offsets.push(offsets[offsets.len() - 1]);
            }
            Kind::Struct(fields) => fields.iter_mut().for_each(Column::push_null),
        }
    }

    pub fn len(&self) -> usize {
        self.nulls.len()
    }

    pub fn finish(mut self) -> Result<ArrayRef, ArrowError> {
        let nulls = self.nulls.finish();
        Ok(match self.kind {
            Kind::Bool(mut values) => {
                let (values, _) = values.finish().into_parts();
                Arc::new(arrow_array::BooleanArray::new(values, nulls))
            }
            Kind::I32(values, _) => Arc::new(Int32Array::new(values.into(), nulls)),
            Kind::I64(values) => Arc::new(Int64Array::new(values.into(), nulls)),
            Kind::F32(values) => Arc::new(Float32Array::new(values.into(), nulls)),
            Kind::F64(values) => Arc::new(Float64Array::new(values.into(), nulls)),
            Kind::Date(values) => Arc::new(Date32Array::new(values.into(), nulls)),
            Kind::Time(values) => Arc::new(Time64NanosecondArray::new(values.into(), nulls)),
            Kind::Timestamp(values) => {
                let array = TimestampMillisecondArray::new(values.into(), nulls);
                Arc::new(array.with_timezone("UTC"))
            }
            Kind::Duration(values) => {
                Arc::new(IntervalMonthDayNanoArray::new(values.into(), nulls))
            }
            Kind::Text(mut values)
            | Kind::Uuid(mut values)
            | Kind::Varint(mut values)
            | Kind::Decimal(mut values) => Arc::new(values.finish()),
            Kind::Blob(mut values) => Arc::new(values.finish()),
            Kind::Inet(mut values) => Arc::new(values.finish()),
            Kind::List(offsets, item) | Kind::Vector(offsets, item, ..) => {
                let field = Arc::new(Field::new("item", item.data_type.clone(), true));
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                Arc::new(ListArray::try_new(field, offsets, item.finish()?, nulls)?)
            }
            Kind::Map(offsets, entry) => {
                let DataType::Map(field, _) = &self.data_type else {
                    return Err(ArrowError::SchemaError("a map has entries".into()));
                };
                let DataType::Struct(fields) = field.data_type() else {
                    return Err(ArrowError::SchemaError("entries are a struct".into()));
                };
                let [key, value] = *entry;
                let columns = vec![key.finish()?, value.finish()?];
                let entries = StructArray::try_new(fields.clone(), columns, None)?;
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                Arc::new(MapArray::try_new(field.clone(), offsets, entries, nulls, false)?)
            }
            Kind::Struct(columns) => {
                let DataType::Struct(fields) = &self.data_type else {
                    return Err(ArrowError::SchemaError("a struct has fields".into()));
                };
                structs(fields, columns, nulls)?
            }
        })
    }
}

fn structs(
    fields: &Fields,
    columns: Vec<Column>,
    nulls: Option<arrow_buffer::NullBuffer>,
) -> Result<ArrayRef, ArrowError> {
    let columns = columns.into_iter().map(Column::finish).collect::<Result<_, _>>()?;
    Ok(Arc::new(StructArray::try_new(fields.clone(), columns, nulls)?))
}

fn leaf(native: &NativeType) -> Result<Kind, String> {
    Ok(match native {
        NativeType::Ascii | NativeType::Text => Kind::Text(StringBuilder::new()),
        NativeType::Uuid | NativeType::Timeuuid => Kind::Uuid(StringBuilder::new()),
        NativeType::Varint => Kind::Varint(StringBuilder::new()),
        NativeType::Decimal => Kind::Decimal(StringBuilder::new()),
        NativeType::Boolean => Kind::Bool(BooleanBuilder::new()),
        NativeType::Blob => Kind::Blob(BinaryBuilder::new()),
        NativeType::TinyInt => Kind::I32(Vec::new(), 1),
        NativeType::SmallInt => Kind::I32(Vec::new(), 2),
        NativeType::Int => Kind::I32(Vec::new(), 4),
        NativeType::BigInt | NativeType::Counter => Kind::I64(Vec::new()),
        NativeType::Float => Kind::F32(Vec::new()),
        NativeType::Double => Kind::F64(Vec::new()),
        NativeType::Date => Kind::Date(Vec::new()),
        NativeType::Time => Kind::Time(Vec::new()),
        NativeType::Timestamp => Kind::Timestamp(Vec::new()),
        NativeType::Duration => Kind::Duration(Vec::new()),
        NativeType::Inet => Kind::Inet(FixedSizeBinaryBuilder::new(16)),
        other => return Err(format!("the CQL type {other:?} is not known")),
    })
}

/// The bytes of a vector's elements, where the protocol does not write their length.
pub(crate) fn fixed_width(cql: &ColumnType<'_>) -> Option<usize> {
    let ColumnType::Native(native) = cql else {
        let ColumnType::Vector { typ, dimensions } = cql else { return None };
        return Some(fixed_width(typ)? * usize::from(*dimensions));
    };
    match native {
        NativeType::Boolean => Some(1),
        NativeType::Int | NativeType::Float => Some(4),
        NativeType::BigInt | NativeType::Double | NativeType::Timestamp => Some(8),
        NativeType::Uuid | NativeType::Timeuuid => Some(16),
        _ => None,
    }
}

fn exactly<const N: usize>(bytes: &[u8]) -> Read<[u8; N]> {
    bytes.try_into().map_err(|_| Malformed)
}

fn ends(rest: &[u8]) -> Read {
    if rest.is_empty() { Ok(()) } else { Err(Malformed) }
}

fn offset(column: &Column) -> Read<i32> {
    i32::try_from(column.len()).map_err(|_| Malformed)
}

fn count(rest: &mut &[u8]) -> Read<usize> {
    let (count, more) = rest.split_first_chunk().ok_or(Malformed)?;
    *rest = more;
    usize::try_from(i32::from_be_bytes(*count)).map_err(|_| Malformed)
}

/// A value inside another: its length, negative for a null, and its bytes.
fn cell<'a>(rest: &mut &'a [u8]) -> Read<Option<&'a [u8]>> {
    let (length, more) = rest.split_first_chunk().ok_or(Malformed)?;
    *rest = more;
    let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else { return Ok(None) };
    let (value, more) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = more;
    Ok(Some(value))
}

/// A whole number whose first byte begins with as many ones as bytes follow.
pub(crate) fn vint(rest: &mut &[u8]) -> Read<u64> {
    let (first, more) = rest.split_first().ok_or(Malformed)?;
    let following = first.leading_ones() as usize;
    let (bytes, more) = more.split_at_checked(following).ok_or(Malformed)?;
    *rest = more;
    let mask = 0xff_u8.checked_shr(following as u32 + 1).unwrap_or(0);
    let high = u64::from(first & mask);
    Ok(bytes.iter().fold(high, |n, byte| n << 8 | u64::from(*byte)))
}

fn duration(bytes: &[u8]) -> Read<IntervalMonthDayNano> {
    let mut rest = bytes;
    let mut signed = || {
        let n = vint(&mut rest)?;
        Ok((n >> 1).cast_signed() ^ -((n & 1).cast_signed()))
    };
    let (months, days, nanos) = (signed()?, signed()?, signed()?);
    ends(rest)?;
    let part = |n: i64| i32::try_from(n).map_err(|_| Malformed);
    Ok(IntervalMonthDayNano::new(part(months)?, part(days)?, nanos))
}

/// How many zeros a scale may add.
const SCALE_MAX: i32 = 1000;
/// Making text of more bytes would take more time than any number is worth.
const NUMBER_BYTES_MAX: usize = 4096;

fn integer(bytes: &[u8]) -> Read<BigInt> {
    if bytes.len() > NUMBER_BYTES_MAX {
        return Err(Malformed);
    }
    Ok(BigInt::from_signed_bytes_be(bytes))
}

fn decimal(scale: i32, digits: &[u8]) -> Read<String> {
    if !(-SCALE_MAX..=SCALE_MAX).contains(&scale) {
        return Err(Malformed);
    }
    let number = integer(digits)?;
    let negative = number.sign() == num_bigint::Sign::Minus;
    let mut text = number.magnitude().to_string();
    if scale > 0 {
        let scale = scale as usize;
        if text.len() <= scale {
            text.insert_str(0, &"0".repeat(scale + 1 - text.len()));
        }
        text.insert(text.len() - scale, '.');
    } else if text != "0" {
        text.extend(std::iter::repeat_n('0', scale.unsigned_abs() as usize));
    }
    if negative {
        text.insert(0, '-');
    }
    Ok(text)
}
