//! Cells into columns: the bytes of the protocol are taken apart once, straight into Arrow's buffers.

use crate::numeric;
use crate::types::Kind;
use arrow_array::builder::{BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder, StringBuilder};
use arrow_array::types::IntervalMonthDayNano;
use arrow_array::{
    ArrayRef, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array,
    IntervalMonthDayNanoArray, ListArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Days from 1970 to 2000, from where the server counts.
pub(crate) const EPOCH_DAYS: i32 = 10_957;
pub(crate) const EPOCH_MICROS: i64 = EPOCH_DAYS as i64 * 86_400_000_000;

/// What stands for the server's `infinity` and `-infinity`: the ends of the years with four digits.
pub(crate) const DAYS_MAX: i32 = 2_932_896;
pub(crate) const DAYS_MIN: i32 = -719_162;
pub(crate) const MICROS_MAX: i64 = (DAYS_MAX as i64 + 1) * 86_400_000_000 - 1;
pub(crate) const MICROS_MIN: i64 = DAYS_MIN as i64 * 86_400_000_000;

/// The server's address families.
pub(crate) const IPV4: u8 = 2;
pub(crate) const IPV6: u8 = 3;

/// A column that grows cell by cell.
pub(crate) struct Column {
    data_type: DataType,
    nulls: NullBufferBuilder,
    cells: Cells,
}

enum Cells {
    Bool(BooleanBuilder),
    I32(Vec<i32>),
    I64(Vec<i64>),
    Oid(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Decimal(Vec<i128>, i8),
    Numeric(StringBuilder),
    Text(StringBuilder),
    Jsonb(StringBuilder),
    Uuid(StringBuilder),
    Bytes(BinaryBuilder),
    Date(Vec<i32>),
    Time(Vec<i64>),
    Timestamp(Vec<i64>),
    Interval(Vec<IntervalMonthDayNano>),
    Inet(FixedSizeBinaryBuilder),
    List(Vec<i32>, Box<Column>),
}

impl Column {
    pub fn new(kind: &Kind) -> Column {
        let cells = match kind {
            Kind::Bool => Cells::Bool(BooleanBuilder::new()),
            Kind::Int(2 | 4) => Cells::I32(Vec::new()),
            Kind::Int(_) => Cells::I64(Vec::new()),
            Kind::Oid => Cells::Oid(Vec::new()),
            Kind::Float => Cells::F32(Vec::new()),
            Kind::Double => Cells::F64(Vec::new()),
            Kind::Numeric(Some((_, scale))) => Cells::Decimal(Vec::new(), *scale),
            Kind::Numeric(None) => Cells::Numeric(StringBuilder::new()),
            Kind::Text | Kind::Cast => Cells::Text(StringBuilder::new()),
            Kind::Jsonb => Cells::Jsonb(StringBuilder::new()),
            Kind::Uuid => Cells::Uuid(StringBuilder::new()),
            Kind::Bytes => Cells::Bytes(BinaryBuilder::new()),
            Kind::Date => Cells::Date(Vec::new()),
            Kind::Time => Cells::Time(Vec::new()),
            Kind::Timestamp => Cells::Timestamp(Vec::new()),
            Kind::Interval => Cells::Interval(Vec::new()),
            Kind::Inet => Cells::Inet(FixedSizeBinaryBuilder::new(16)),
            Kind::List(item, _) => Cells::List(vec![0], Box::new(Column::new(item))),
        };
        Column { data_type: kind.arrow(), nulls: NullBufferBuilder::new(0), cells }
    }

    /// The error says what is wrong with the bytes.
    pub fn push(&mut self, cell: Option<&[u8]>) -> Result<(), String> {
        let Some(bytes) = cell else {
            self.push_null();
            return Ok(());
        };
        match &mut self.cells {
            Cells::Bool(values) => values.append_value(fixed::<1>(bytes)? != [0]),
            Cells::I32(values) => values.push(match bytes.len() {
                2 => i16::from_be_bytes(fixed(bytes)?).into(),
                _ => i32::from_be_bytes(fixed(bytes)?),
            }),
            Cells::I64(values) => values.push(i64::from_be_bytes(fixed(bytes)?)),
            Cells::Oid(values) => values.push(u32::from_be_bytes(fixed(bytes)?).into()),
            Cells::F32(values) => values.push(f32::from_be_bytes(fixed(bytes)?)),
            Cells::F64(values) => values.push(f64::from_be_bytes(fixed(bytes)?)),
            Cells::Decimal(values, scale) => {
                let value = numeric::scaled(bytes, *scale);
                values.push(value.ok_or("a numeric that is no decimal number of its column's")?);
            }
            Cells::Numeric(values) => {
                let mut text = String::new();
                numeric::text(bytes, &mut text).ok_or_else(wrong)?;
                values.append_value(text);
            }
            Cells::Text(values) => values.append_value(utf8(bytes)?),
            Cells::Jsonb(values) => {
                let (version, text) = bytes.split_first().ok_or_else(wrong)?;
                if *version != 1 {
                    return Err(format!("a jsonb of the unknown version {version}"));
                }
                values.append_value(utf8(text)?);
            }
            Cells::Uuid(values) => {
                let mut room = uuid::Uuid::encode_buffer();
                let id = uuid::Uuid::from_bytes(fixed(bytes)?);
                values.append_value(id.as_hyphenated().encode_lower(&mut room));
            }
            Cells::Bytes(values) => values.append_value(bytes),
            Cells::Date(values) => values.push(match i32::from_be_bytes(fixed(bytes)?) {
                i32::MAX => DAYS_MAX,
                i32::MIN => DAYS_MIN,
                days => days.checked_add(EPOCH_DAYS).ok_or_else(wrong)?,
            }),
            Cells::Time(values) => values.push(i64::from_be_bytes(fixed(bytes)?)),
            Cells::Timestamp(values) => values.push(match i64::from_be_bytes(fixed(bytes)?) {
                i64::MAX => MICROS_MAX,
                i64::MIN => MICROS_MIN,
                micros => micros.checked_add(EPOCH_MICROS).ok_or_else(wrong)?,
            }),
            Cells::Interval(values) => {
                let all: [u8; 16] = fixed(bytes)?;
                let (micros, rest) = all.split_first_chunk::<8>().ok_or_else(wrong)?;
                let (days, months) = rest.split_first_chunk::<4>().ok_or_else(wrong)?;
                let nanos = i64::from_be_bytes(*micros).checked_mul(1000);
                values.push(IntervalMonthDayNano {
                    months: i32::from_be_bytes(fixed(months)?),
                    days: i32::from_be_bytes(*days),
                    nanoseconds: nanos.ok_or("an interval of more than 292 years of time")?,
                });
            }
            Cells::Inet(values) => {
                let octets = inet(bytes).ok_or_else(wrong)?;
                values.append_value(octets).map_err(|e| e.to_string())?;
            }
            Cells::List(ends, items) => {
                elements(bytes, items)?;
                let end = i32::try_from(items.len()).map_err(|_| "too many elements")?;
                ends.push(end);
            }
        }
        self.nulls.append_non_null();
        Ok(())
    }

    fn push_null(&mut self) {
        self.nulls.append_null();
        match &mut self.cells {
            Cells::Bool(values) => values.append_value(false),
            Cells::I32(values) | Cells::Date(values) => values.push(0),
            Cells::I64(values)
            | Cells::Oid(values)
            | Cells::Time(values)
            | Cells::Timestamp(values) => values.push(0),
            Cells::F32(values) => values.push(0.0),
            Cells::F64(values) => values.push(0.0),
            Cells::Decimal(values, _) => values.push(0),
            Cells::Numeric(values)
            | Cells::Text(values)
            | Cells::Jsonb(values)
            | Cells::Uuid(values) => values.append_null(),
            Cells::Bytes(values) => values.append_null(),
            Cells::Interval(values) => values.push(IntervalMonthDayNano::new(0, 0, 0)),
            Cells::Inet(values) => values.append_null(),
            Cells::List(ends, items) => ends.push(items.len() as i32),
        }
    }

    fn len(&self) -> usize {
        self.nulls.len()
    }

    pub fn finish(mut self) -> Result<ArrayRef, ArrowError> {
        let nulls = self.nulls.finish();
        Ok(match self.cells {
            Cells::Bool(mut values) => {
                let (values, _) = values.finish().into_parts();
                Arc::new(arrow_array::BooleanArray::new(values, nulls))
            }
            Cells::I32(values) => Arc::new(Int32Array::new(values.into(), nulls)),
            Cells::I64(values) | Cells::Oid(values) => {
                Arc::new(Int64Array::new(values.into(), nulls))
            }
            Cells::F32(values) => Arc::new(Float32Array::new(values.into(), nulls)),
            Cells::F64(values) => Arc::new(Float64Array::new(values.into(), nulls)),
            Cells::Decimal(values, _) => {
                Arc::new(Decimal128Array::new(values.into(), nulls).with_data_type(self.data_type))
            }
            Cells::Numeric(mut values)
            | Cells::Text(mut values)
            | Cells::Jsonb(mut values)
            | Cells::Uuid(mut values) => Arc::new(values.finish()),
            Cells::Bytes(mut values) => Arc::new(values.finish()),
            Cells::Date(values) => Arc::new(Date32Array::new(values.into(), nulls)),
            Cells::Time(values) => Arc::new(Time64MicrosecondArray::new(values.into(), nulls)),
            Cells::Timestamp(values) => {
                Arc::new(TimestampMicrosecondArray::new(values.into(), nulls).with_timezone("UTC"))
            }
            Cells::Interval(values) => {
                Arc::new(IntervalMonthDayNanoArray::new(values.into(), nulls))
            }
            Cells::Inet(mut values) => Arc::new(values.finish()),
            Cells::List(ends, items) => {
                let field = match self.data_type {
                    DataType::List(field) => field,
                    other => Arc::new(Field::new("item", other, true)),
                };
                let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
                Arc::new(ListArray::try_new(field, ends, items.finish()?, nulls)?)
            }
        })
    }
}

/// ```text
///  i32 dimensions │ i32 has nulls │ u32 type │ i32 length, i32 lower bound │ (i32 length, bytes) …
/// ```
fn elements(bytes: &[u8], items: &mut Column) -> Result<(), String> {
    let mut rest = bytes;
    let dimensions = int(&mut rest)?;
    let (_nulls, _type) = (int(&mut rest)?, int(&mut rest)?);
    match dimensions {
        0 => return Ok(()),
        1 => {}
        many => return Err(format!("an array of {many} dimensions")),
    }
    let (count, _lower) = (int(&mut rest)?, int(&mut rest)?);
    for _ in 0..count {
        let element = match usize::try_from(int(&mut rest)?) {
            Ok(len) => {
                let (element, after) = rest.split_at_checked(len).ok_or_else(wrong)?;
                rest = after;
                Some(element)
            }
            Err(_) => None,
        };
        items.push(element)?;
    }
    Ok(())
}

fn int(rest: &mut &[u8]) -> Result<i32, String> {
    let (word, after) = rest.split_first_chunk::<4>().ok_or_else(wrong)?;
    *rest = after;
    Ok(i32::from_be_bytes(*word))
}

/// Family, bits of the prefix, whether it is a network, length, address.
fn inet(bytes: &[u8]) -> Option<[u8; 16]> {
    match *bytes {
        [IPV4, _, _, 4, a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d).to_ipv6_mapped().octets()),
        [IPV6, _, _, 16, ref octets @ ..] => {
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).octets())
        }
        _ => None,
    }
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], String> {
    bytes.try_into().map_err(|_| wrong())
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "a text that is not UTF-8".into())
}

fn wrong() -> String {
    "bytes that are not of the type that the server named".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_time_have_four_digits() {
        let day = |days: i32| {
            let array = Date32Array::from(vec![days]);
            array.value_as_date(0).map(|date| date.to_string())
        };
        assert_eq!(day(DAYS_MAX).as_deref(), Some("9999-12-31"));
        assert_eq!(day(DAYS_MIN).as_deref(), Some("0001-01-01"));
        assert_eq!(day(EPOCH_DAYS).as_deref(), Some("2000-01-01"));
    }

    #[test]
    fn wrong_bytes_are_told_and_never_panic() {
        let list = || Kind::List(Box::new(Kind::Int(4)), 23);
        let kinds = [
            Kind::Bool,
            Kind::Int(4),
            Kind::Int(8),
            Kind::Oid,
            Kind::Float,
            Kind::Double,
            Kind::Numeric(None),
            Kind::Numeric(Some((10, 2))),
            Kind::Jsonb,
            Kind::Date,
            Kind::Time,
            Kind::Timestamp,
            Kind::Interval,
            Kind::Uuid,
            Kind::Inet,
            list(),
        ];
        for kind in kinds {
            for bytes in [&b""[..], b"\x01", b"\xff\xff\xff", &[0xff; 9], &[0x7f; 33]] {
                let told = Column::new(&kind).push(Some(bytes));
                let may_be = matches!(kind, Kind::Bool | Kind::Jsonb) && bytes == b"\x01";
                assert!(told.is_err() || may_be, "{kind:?} {bytes:?}");
            }
        }
        // An array that says that it has more than it has.
        let mut lying = Vec::new();
        for word in [1, 0, 23, i32::MAX, 1, 4] {
            lying.extend_from_slice(&i32::to_be_bytes(word));
        }
        assert!(Column::new(&list()).push(Some(&lying)).is_err());
    }
}
