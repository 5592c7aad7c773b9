//! Values of Arrow columns into cells.
//!
//! What fits is found once, when the statement is planned; a row then costs a call a column.

use crate::numeric;
use crate::read::{DAYS_MAX, DAYS_MIN, EPOCH_DAYS, EPOCH_MICROS, IPV4, IPV6};
use crate::read::{MICROS_MAX, MICROS_MIN};
use crate::types::Kind;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNanoType, Time64MicrosecondType, Time64NanosecondType,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, IntervalUnit, TimeUnit};
use millstream_core::types::{IP, name};
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// How the values of one Arrow type become cells of one of the server's.
#[derive(Debug, PartialEq)]
pub(crate) enum Writer {
    Bool,
    /// A whole number of any width into one of so many bytes.
    Int(usize),
    Oid,
    Float,
    Double,
    NumericInt,
    NumericText,
    /// Digits after the point.
    Numeric(i8),
    Text,
    Json,
    UuidText,
    Bytes,
    Date,
    /// Nanoseconds in the unit.
    Time(i64),
    Timestamp(TimeUnit),
    Interval,
    InetBytes,
    InetText,
    List(Box<Writer>, u32),
}

impl Writer {
    /// How `arrow` is written as `kind`, which users call `sql`; the error is a sentence for them.
    pub fn new(arrow: &DataType, kind: &Kind, sql: &str) -> Result<Writer, String> {
        fitting(arrow, kind).ok_or_else(|| {
            let wanted = name(&kind.arrow());
            format!("{} cannot be written as {sql}; CAST it to {wanted}", name(arrow))
        })
    }

    /// Appends the value's bytes; false when it is null. The error says why the value does not fit.
    pub fn write(&self, column: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<bool, String> {
        if column.is_null(row) {
            return Ok(false);
        }
        match self {
            Writer::Bool => out.push(u8::from(column.as_boolean().value(row))),
            Writer::Int(width) => {
                let n = whole(column, row)?;
                let bytes = n.to_be_bytes();
                let (high, low) = bytes.split_at(16 - width);
                let sign = if low[0] & 0x80 == 0 { 0 } else { 0xff };
                if high.iter().any(|byte| *byte != sign) {
                    return Err(format!("{n} is out of range"));
                }
                out.extend_from_slice(low);
            }
            Writer::Oid => {
                let n = whole(column, row)?;
                let oid = u32::try_from(n).map_err(|_| format!("{n} is out of range"))?;
                out.extend_from_slice(&oid.to_be_bytes());
            }
            Writer::Float => {
                let value = column.as_primitive::<Float32Type>().value(row);
                out.extend_from_slice(&value.to_be_bytes());
            }
            Writer::Double => {
                let value = match column.data_type() {
                    DataType::Float32 => f64::from(column.as_primitive::<Float32Type>().value(row)),
                    _ => column.as_primitive::<Float64Type>().value(row),
                };
                out.extend_from_slice(&value.to_be_bytes());
            }
            Writer::NumericInt => numeric::write_scaled(whole(column, row)?, 0, out)?,
            Writer::NumericText => numeric::write_text(text(column, row), out)?,
            Writer::Numeric(scale) => {
                let value = column.as_primitive::<Decimal128Type>().value(row);
                numeric::write_scaled(value, *scale, out)?;
            }
            Writer::Text | Writer::Json => {
                let text = text(column, row).as_bytes();
                if text.contains(&0) {
                    return Err("the text has a NUL byte, which PostgreSQL takes in no text".into());
                }
                if *self == Writer::Json {
                    out.push(1);
                }
                out.extend_from_slice(text);
            }
            Writer::UuidText => {
                let uuid = uuid::Uuid::try_parse(text(column, row).trim());
                out.extend_from_slice(uuid.map_err(|_| "the text is no UUID")?.as_bytes());
            }
            Writer::Bytes => out.extend_from_slice(bytes(column, row)),
            Writer::Date => {
                let days = match column.as_primitive::<Date32Type>().value(row) {
                    DAYS_MAX => i32::MAX,
                    DAYS_MIN => i32::MIN,
                    days => days.checked_sub(EPOCH_DAYS).ok_or("the date is out of range")?,
                };
                out.extend_from_slice(&days.to_be_bytes());
            }
            Writer::Time(nanos) => {
                let time = match column.data_type() {
                    DataType::Time64(TimeUnit::Microsecond) => {
                        column.as_primitive::<Time64MicrosecondType>().value(row)
                    }
                    _ => column.as_primitive::<Time64NanosecondType>().value(row),
                };
                out.extend_from_slice(&(time / nanos).to_be_bytes());
            }
            Writer::Timestamp(unit) => {
                let micros = micros(timestamp(column, row), *unit);
                let micros = match micros.ok_or("the time is out of range")? {
                    MICROS_MAX => i64::MAX,
                    MICROS_MIN => i64::MIN,
                    micros => micros.checked_sub(EPOCH_MICROS).ok_or("the time is out of range")?,
                };
                out.extend_from_slice(&micros.to_be_bytes());
            }
            Writer::Interval => {
                let value = column.as_primitive::<IntervalMonthDayNanoType>().value(row);
                out.extend_from_slice(&(value.nanoseconds / 1000).to_be_bytes());
                out.extend_from_slice(&value.days.to_be_bytes());
                out.extend_from_slice(&value.months.to_be_bytes());
            }
            Writer::InetBytes => {
                let octets: [u8; 16] =
                    bytes(column, row).try_into().map_err(|_| "an address has 16 bytes")?;
                inet(IpAddr::V6(Ipv6Addr::from(octets)), out);
            }
            Writer::InetText => {
                let address = IpAddr::from_str(text(column, row).trim());
                inet(address.map_err(|_| "the text is no IP address")?, out);
            }
            Writer::List(item, oid) => {
                let values = column.as_list::<i32>().value(row);
                let nulls = i32::from(values.null_count() > 0);
                array(*oid, values.len(), nulls, out)?;
                for at in 0..values.len() {
                    cell(item, &values, at, out)?;
                }
            }
        }
        Ok(true)
    }
}

/// A value with its length before it.
pub(crate) fn cell(
    writer: &Writer,
    column: &ArrayRef,
    row: usize,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let start = out.len();
    out.extend_from_slice(&NULL);
    if writer.write(column, row, out)? {
        let len = i32::try_from(out.len() - start - NULL.len());
        let len = len.map_err(|_| "a value is larger than 2 GiB")?;
        out[start..start + NULL.len()].copy_from_slice(&len.to_be_bytes());
    }
    Ok(())
}

/// The length of what is not there.
pub(crate) const NULL: [u8; 4] = (-1_i32).to_be_bytes();

/// What stands before the elements of an array.
pub(crate) fn array(oid: u32, len: usize, nulls: i32, out: &mut Vec<u8>) -> Result<(), String> {
    let len = i32::try_from(len).map_err(|_| "an array has too many elements")?;
    out.extend_from_slice(&i32::from(len > 0).to_be_bytes());
    out.extend_from_slice(&nulls.to_be_bytes());
    out.extend_from_slice(&oid.to_be_bytes());
    if len > 0 {
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&1_i32.to_be_bytes());
    }
    Ok(())
}

fn fitting(arrow: &DataType, kind: &Kind) -> Option<Writer> {
    use DataType as A;
    let is_text = matches!(arrow, A::Utf8 | A::Utf8View | A::LargeUtf8);
    let is_whole = arrow.is_integer();
    Some(match kind {
        Kind::Bool if *arrow == A::Boolean => Writer::Bool,
        Kind::Int(width) if is_whole => Writer::Int(*width),
        Kind::Oid if is_whole => Writer::Oid,
        Kind::Float if *arrow == A::Float32 => Writer::Float,
        Kind::Double if matches!(arrow, A::Float32 | A::Float64) => Writer::Double,
        Kind::Numeric(_) if is_whole => Writer::NumericInt,
        Kind::Numeric(_) if is_text => Writer::NumericText,
        Kind::Numeric(_) => match arrow {
            A::Decimal128(_, scale) => Writer::Numeric(*scale),
            _ => return None,
        },
        Kind::Text | Kind::Cast if is_text => Writer::Text,
        Kind::Jsonb if is_text => Writer::Json,
        Kind::Uuid if is_text => Writer::UuidText,
        Kind::Uuid if *arrow == A::FixedSizeBinary(16) => Writer::Bytes,
        Kind::Bytes => match arrow {
            A::Binary | A::BinaryView | A::LargeBinary | A::FixedSizeBinary(_) => Writer::Bytes,
            _ => return None,
        },
        Kind::Date if *arrow == A::Date32 => Writer::Date,
        Kind::Time => match arrow {
            A::Time64(TimeUnit::Microsecond) => Writer::Time(1),
            A::Time64(TimeUnit::Nanosecond) => Writer::Time(1000),
            _ => return None,
        },
        Kind::Timestamp => match arrow {
            A::Timestamp(unit, _) => Writer::Timestamp(*unit),
            _ => return None,
        },
        Kind::Interval if *arrow == A::Interval(IntervalUnit::MonthDayNano) => Writer::Interval,
        Kind::Inet if *arrow == IP => Writer::InetBytes,
        Kind::Inet if is_text => Writer::InetText,
        Kind::List(item, oid) => match arrow {
            A::List(field) => {
                let nested = matches!(field.data_type(), A::List(_));
                let item = fitting(field.data_type(), item).filter(|_| !nested)?;
                Writer::List(Box::new(item), *oid)
            }
            _ => return None,
        },
        _ => return None,
    })
}

fn micros(value: i64, unit: TimeUnit) -> Option<i64> {
    match unit {
        TimeUnit::Second => value.checked_mul(1_000_000),
        TimeUnit::Millisecond => value.checked_mul(1_000),
        TimeUnit::Microsecond => Some(value),
        TimeUnit::Nanosecond => Some(value.div_euclid(1_000)),
    }
}

/// The number that a timestamp column has, in its own unit.
fn timestamp(column: &ArrayRef, row: usize) -> i64 {
    match column.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            column.as_primitive::<TimestampSecondType>().value(row)
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            column.as_primitive::<TimestampMillisecondType>().value(row)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            column.as_primitive::<TimestampNanosecondType>().value(row)
        }
        _ => column.as_primitive::<TimestampMicrosecondType>().value(row),
    }
}

fn whole(column: &ArrayRef, row: usize) -> Result<i128, String> {
    Ok(match column.data_type() {
        DataType::Int8 => column.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => column.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::UInt8 => column.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => column.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => column.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).into(),
        other => return Err(format!("{other} is no whole number")),
    })
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

/// Family, bits of the prefix, whether it is a network, length, address.
fn inet(address: IpAddr, out: &mut Vec<u8>) {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            out.extend_from_slice(&[IPV4, 32, 0, 4]);
            out.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            out.extend_from_slice(&[IPV6, 128, 0, 16]);
            out.extend_from_slice(&address.octets());
        }
    }
}
