//! Values of Arrow columns into cells.
//!
//! What fits is found once, when the statement is planned; a row then costs a call a column.

use crate::read::fixed_width;
use crate::types;
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
use num_bigint::BigInt;
use scylla::cluster::metadata::{CollectionType, ColumnType, NativeType};
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// How the values of one Arrow type become cells of one CQL type.
#[derive(Debug)]
pub(crate) enum Writer {
    Bool,
    /// A whole number of any width into one of so many bytes.
    Int(usize),
    Float,
    Double,
    Date,
    /// Nanoseconds in a unit.
    Time(i64),
    /// Units in a millisecond, or milliseconds in a unit.
    Timestamp(Scale),
    Duration,
    Text,
    Ascii,
    UuidText,
    UuidBytes,
    Blob,
    InetBytes,
    InetText,
    VarintInt,
    VarintText,
    DecimalInt,
    DecimalText,
    /// Digits after the point.
    Decimal(i8),
    List(Box<Writer>),
    Vector(Box<Writer>, usize, bool),
    Map(Box<[Writer; 2]>),
    /// For each field of the CQL type, the Arrow struct's field and how it is written.
    Struct(Vec<Option<(usize, Writer)>>),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Scale {
    Divide(i64),
    Multiply(i64),
}

impl Writer {
    /// How `arrow` is written as `cql`; the error is a sentence for the user.
    pub fn new(arrow: &DataType, cql: &ColumnType<'_>) -> Result<Writer, String> {
        let misfit = || {
            let hint = match types::arrow(cql) {
                Ok(wanted) => format!("; CAST it to {}", name(&wanted)),
                Err(_) => String::new(),
            };
            format!("{} cannot be written as {}{hint}", name(arrow), types::name(cql))
        };
        let list = |arrow: &DataType, cql: &ColumnType<'_>| match arrow {
            DataType::List(item) => Ok(Box::new(Writer::new(item.data_type(), cql)?)),
            _ => Err(misfit()),
        };
        match cql {
            ColumnType::Native(native) => leaf(arrow, native).ok_or_else(misfit),
            ColumnType::Vector { typ, dimensions } => {
                let fixed = fixed_width(typ).is_some();
                Ok(Writer::Vector(list(arrow, typ)?, usize::from(*dimensions), fixed))
            }
            ColumnType::Collection { typ, .. } => match (typ, arrow) {
                (CollectionType::List(of) | CollectionType::Set(of), _) => {
                    Ok(Writer::List(list(arrow, of)?))
                }
                (CollectionType::Map(key, value), DataType::Map(entries, _)) => {
                    let DataType::Struct(fields) = entries.data_type() else {
                        return Err(misfit());
                    };
                    let [k, v] = &**fields else { return Err(misfit()) };
                    let key = Writer::new(k.data_type(), key)?;
                    Ok(Writer::Map(Box::new([key, Writer::new(v.data_type(), value)?])))
                }
                _ => Err(misfit()),
            },
            ColumnType::UserDefinedType { definition, .. } => {
                let DataType::Struct(fields) = arrow else { return Err(misfit()) };
                if let Some(extra) = fields.iter().find(|field| {
                    !definition.field_types.iter().any(|(name, _)| name == field.name().as_str())
                }) {
                    return Err(format!("{} has no field `{}`", definition.name, extra.name()));
                }
                let fields = definition.field_types.iter().map(|(name, cql)| {
                    fields
                        .find(name)
                        .map(|(at, field)| Ok((at, Writer::new(field.data_type(), cql)?)))
                        .transpose()
                });
                Ok(Writer::Struct(fields.collect::<Result<_, String>>()?))
            }
            ColumnType::Tuple(types) => {
                let DataType::Struct(fields) = arrow else { return Err(misfit()) };
                if fields.len() != types.len() {
                    return Err(misfit());
                }
                let fields = fields.iter().zip(types).enumerate();
                let fields = fields
                    .map(|(at, (field, cql))| Ok(Some((at, Writer::new(field.data_type(), cql)?))));
                Ok(Writer::Struct(fields.collect::<Result<_, String>>()?))
            }
            _ => Err(misfit()),
        }
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
                    return Err(format!("{n} does not fit into {width} bytes"));
                }
                out.extend_from_slice(low);
            }
            Writer::Float => {
                out.extend_from_slice(
                    &column.as_primitive::<Float32Type>().value(row).to_be_bytes(),
                );
            }
            Writer::Double => {
                let value = match column.data_type() {
                    DataType::Float32 => f64::from(column.as_primitive::<Float32Type>().value(row)),
                    _ => column.as_primitive::<Float64Type>().value(row),
                };
                out.extend_from_slice(&value.to_be_bytes());
            }
            Writer::Date => {
                let days = column.as_primitive::<Date32Type>().value(row);
                out.extend_from_slice(&(days.cast_unsigned() ^ 1 << 31).to_be_bytes());
            }
            Writer::Time(nanos) => {
                let time = match column.data_type() {
                    DataType::Time64(TimeUnit::Microsecond) => {
                        column.as_primitive::<Time64MicrosecondType>().value(row)
                    }
                    _ => column.as_primitive::<Time64NanosecondType>().value(row),
                };
                out.extend_from_slice(&(time * nanos).to_be_bytes());
            }
            Writer::Timestamp(scale) => {
                out.extend_from_slice(&scale.of(timestamp(column, row))?.to_be_bytes());
            }
            Writer::Duration => {
                let value = column.as_primitive::<IntervalMonthDayNanoType>().value(row);
                let parts = [value.months.into(), value.days.into(), value.nanoseconds];
                if parts.iter().any(|n| *n < 0) && parts.iter().any(|n| *n > 0) {
                    return Err("the parts of a CQL duration have one sign".into());
                }
                parts.iter().for_each(|n| vint(*n, out));
            }
            Writer::Text => out.extend_from_slice(text(column, row).as_bytes()),
            Writer::Ascii => {
                let text = text(column, row);
                if !text.is_ascii() {
                    return Err("the text has characters that ASCII does not have".into());
                }
                out.extend_from_slice(text.as_bytes());
            }
            Writer::UuidText => {
                let uuid = uuid::Uuid::try_parse(text(column, row).trim());
                out.extend_from_slice(uuid.map_err(|_| "the text is no UUID")?.as_bytes());
            }
            Writer::UuidBytes | Writer::Blob => out.extend_from_slice(bytes(column, row)),
            Writer::InetBytes => {
                let octets: [u8; 16] =
                    bytes(column, row).try_into().map_err(|_| "an address has 16 bytes")?;
                inet(IpAddr::V6(Ipv6Addr::from(octets)), out);
            }
            Writer::InetText => {
                let address = IpAddr::from_str(text(column, row).trim());
                inet(address.map_err(|_| "the text is no IP address")?, out);
            }
            Writer::VarintInt => {
                out.extend_from_slice(&BigInt::from(whole(column, row)?).to_signed_bytes_be());
            }
            Writer::VarintText => {
                let number = BigInt::from_str(digits(text(column, row))?);
                let number = number.map_err(|_| "the text is no whole number")?;
                out.extend_from_slice(&number.to_signed_bytes_be());
            }
            Writer::DecimalInt => decimal(BigInt::from(whole(column, row)?), 0, out),
            Writer::DecimalText => {
                let (number, scale) = parse_decimal(digits(text(column, row))?)?;
                decimal(number, scale, out);
            }
            Writer::Decimal(scale) => {
                let number = column.as_primitive::<Decimal128Type>().value(row);
                decimal(BigInt::from(number), i32::from(*scale), out);
            }
            Writer::List(item) => {
                let values = column.as_list::<i32>().value(row);
                length(values.len(), out)?;
                for at in 0..values.len() {
                    element(item, &values, at, out)?;
                }
            }
            Writer::Vector(item, len, fixed) => {
                let values = column.as_list::<i32>().value(row);
                if values.len() != *len {
                    return Err(format!("a vector of {len} elements was given {}", values.len()));
                }
                for at in 0..values.len() {
                    let mut one = Vec::new();
                    if !item.write(&values, at, &mut one)? {
                        return Err("a vector has no nulls".into());
                    }
                    if !fixed {
                        unsigned_vint(one.len() as u64, out);
                    }
                    out.extend_from_slice(&one);
                }
            }
            Writer::Map(entry) => {
                let entries = column.as_map().value(row);
                let [key, value] = &**entry;
                length(entries.len(), out)?;
                for at in 0..entries.len() {
                    element(key, entries.column(0), at, out)?;
                    element(value, entries.column(1), at, out)?;
                }
            }
            Writer::Struct(fields) => {
                let values = column.as_struct();
                for field in fields {
                    match field {
                        Some((at, writer)) => cell(writer, values.column(*at), row, out)?,
                        None => out.extend_from_slice(&NULL),
                    }
                }
            }
        }
        Ok(true)
    }
}

const NULL: [u8; 4] = (-1_i32).to_be_bytes();

fn leaf(arrow: &DataType, native: &NativeType) -> Option<Writer> {
    use DataType as A;
    use NativeType as C;
    let is_text = matches!(arrow, A::Utf8 | A::Utf8View | A::LargeUtf8);
    let is_whole = arrow.is_integer();
    Some(match native {
        C::Boolean if *arrow == A::Boolean => Writer::Bool,
        C::TinyInt if is_whole => Writer::Int(1),
        C::SmallInt if is_whole => Writer::Int(2),
        C::Int if is_whole => Writer::Int(4),
        C::BigInt | C::Counter if is_whole => Writer::Int(8),
        C::Float if *arrow == A::Float32 => Writer::Float,
        C::Double if matches!(arrow, A::Float32 | A::Float64) => Writer::Double,
        C::Date if *arrow == A::Date32 => Writer::Date,
        C::Time => match arrow {
            A::Time64(TimeUnit::Microsecond) => Writer::Time(1000),
            A::Time64(TimeUnit::Nanosecond) => Writer::Time(1),
            _ => return None,
        },
        C::Timestamp => match arrow {
            A::Timestamp(unit, _) => Writer::Timestamp(Scale::to(TimeUnit::Millisecond, *unit)),
            _ => return None,
        },
        C::Duration if *arrow == A::Interval(IntervalUnit::MonthDayNano) => Writer::Duration,
        C::Text if is_text => Writer::Text,
        C::Ascii if is_text => Writer::Ascii,
        C::Uuid | C::Timeuuid if is_text => Writer::UuidText,
        C::Uuid | C::Timeuuid if *arrow == A::FixedSizeBinary(16) => Writer::UuidBytes,
        C::Blob => match arrow {
            A::Binary | A::BinaryView | A::LargeBinary | A::FixedSizeBinary(_) => Writer::Blob,
            _ => return None,
        },
        C::Inet if *arrow == IP => Writer::InetBytes,
        C::Inet if is_text => Writer::InetText,
        C::Varint if is_whole => Writer::VarintInt,
        C::Varint if is_text => Writer::VarintText,
        C::Decimal if is_whole => Writer::DecimalInt,
        C::Decimal if is_text => Writer::DecimalText,
        C::Decimal => match arrow {
            A::Decimal128(_, scale) => Writer::Decimal(*scale),
            _ => return None,
        },
        _ => return None,
    })
}

impl Scale {
    /// From a unit of Arrow's to milliseconds or microseconds.
    pub fn to(wanted: TimeUnit, from: TimeUnit) -> Scale {
        let per_second = |unit| match unit {
            TimeUnit::Second => 1,
            TimeUnit::Millisecond => 1_000,
            TimeUnit::Microsecond => 1_000_000,
            TimeUnit::Nanosecond => 1_000_000_000,
        };
        let (wanted, from) = (per_second(wanted), per_second(from));
        if from > wanted { Scale::Divide(from / wanted) } else { Scale::Multiply(wanted / from) }
    }

    pub fn of(self, value: i64) -> Result<i64, String> {
        match self {
            Scale::Divide(by) => Ok(value.div_euclid(by)),
            Scale::Multiply(by) => {
                value.checked_mul(by).ok_or_else(|| "the time is out of range".into())
            }
        }
    }
}

/// The number that a timestamp column has, in its own unit.
pub(crate) fn timestamp(column: &ArrayRef, row: usize) -> i64 {
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

/// An address as CQL has it: IPv4 in four bytes.
fn inet(address: IpAddr, out: &mut Vec<u8>) {
    match address.to_canonical() {
        IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
    }
}

/// How many digits a number in text may have.
const DIGITS_MAX: usize = 9_000;

fn digits(text: &str) -> Result<&str, String> {
    if text.len() > DIGITS_MAX {
        return Err(format!("a number has at most {DIGITS_MAX} digits"));
    }
    Ok(text.trim())
}

/// A number as its digits and how many of them are after the point.
fn parse_decimal(text: &str) -> Result<(BigInt, i32), String> {
    let wrong = || "the text is no decimal number".to_owned();
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i16>().map_err(|_| wrong())?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number = BigInt::from_str(&format!("{whole}{fraction}")).map_err(|_| wrong())?;
    let scale = i32::try_from(fraction.len()).map_err(|_| wrong())?;
    Ok((number, scale - i32::from(exponent)))
}

fn decimal(number: BigInt, scale: i32, out: &mut Vec<u8>) {
    out.extend_from_slice(&scale.to_be_bytes());
    out.extend_from_slice(&number.to_signed_bytes_be());
}

fn length(len: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let len = i32::try_from(len).map_err(|_| "a value is larger than 2 GiB")?;
    out.extend_from_slice(&len.to_be_bytes());
    Ok(())
}

/// A value inside another, with its length before it.
fn cell(writer: &Writer, column: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let start = out.len();
    out.extend_from_slice(&NULL);
    if writer.write(column, row, out)? {
        let len = i32::try_from(out.len() - start - 4);
        let len = len.map_err(|_| "a value is larger than 2 GiB")?;
        out[start..start + 4].copy_from_slice(&len.to_be_bytes());
    }
    Ok(())
}

/// The same in a collection, which holds no nulls.
fn element(
    writer: &Writer,
    column: &ArrayRef,
    row: usize,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    if column.is_null(row) {
        return Err("a CQL collection has no nulls in it".into());
    }
    cell(writer, column, row, out)
}

fn vint(n: i64, out: &mut Vec<u8>) {
    unsigned_vint((n << 1 ^ n >> 63).cast_unsigned(), out);
}

/// As many ones before the number as bytes follow the first.
fn unsigned_vint(n: u64, out: &mut Vec<u8>) {
    let bits = 64 - n.leading_zeros().min(63) as usize;
    let following = ((bits - 1) / 7).min(8);
    let bytes = n.to_be_bytes();
    if following == 8 {
        out.push(0xff);
        out.extend_from_slice(&bytes);
        return;
    }
    let ones = !(0xff_u8.checked_shr(following as u32).unwrap_or(0));
    out.push(ones | bytes[7 - following]);
    out.extend_from_slice(&bytes[8 - following..]);
}
