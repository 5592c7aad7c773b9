//! Columns as Avro values, row by row: a walk over typed slices that appends to one buffer.
//! [`super::bind`] makes what is walked.

use super::cursor::Fault;
use super::json::{Style, decimal_bytes, put_bytes, put_long, write_json};
use super::schema::{Id, Schema};
use crate::columns::CHUNK;
use crate::values;
use arrow_array::types::IntervalMonthDayNano;
use arrow_array::{BinaryViewArray, BooleanArray, FixedSizeBinaryArray, StringViewArray};
use arrow_buffer::{NullBuffer, i256};
use arrow_schema::TimeUnit;

/// Writes the values of one column (or of a field's default).
pub(crate) enum Put<'a> {
    Null,
    Default(Vec<u8>),
    /// In a union: the tag of null, the tag of the value.
    Optional(Option<NullBuffer>, i64, i64, Box<Put<'a>>),
    /// In a union without null: the tag of the value.
    Tagged(i64, Box<Put<'a>>),
    /// Nulls are rejected here.
    Required(NullBuffer, Box<Put<'a>>),
    Dictionary(Vec<usize>, Box<Put<'a>>),
    Boolean(&'a BooleanArray),
    Int(&'a [i32]),
    Long(&'a [i64]),
    /// Integers of another width, which must fit: `true` where 32 bits are the most.
    Integers(Vec<i64>, bool),
    Unsigned(&'a [u64]),
    /// Times `.1`, then divided by `.2`; `.3` where 32 bits are the most; `.4` where
    /// it is a timestamp, what that counts.
    Scaled(&'a [i64], i64, i64, bool, Option<TimeUnit>),
    Days(&'a [i32], i64),
    Float(&'a [f32]),
    FloatToDouble(&'a [f32]),
    IntToFloat(&'a [i32]),
    IntToDouble(&'a [i32]),
    Double(&'a [f64]),
    Bytes(Slices<'a>),
    /// Bytes that must have this size.
    Fixed(Slices<'a>, usize),
    Enum(Slices<'a>, &'a [String]),
    Ip(&'a FixedSizeBinaryArray),
    UuidText(&'a FixedSizeBinaryArray),
    UuidFixed(Slices<'a>),
    /// Unscaled values times ten to the `.1`; size of the `fixed`; digits at most.
    Decimal128(&'a [i128], u32, Option<usize>, u8),
    Decimal256(&'a [i256], u32, Option<usize>, u8),
    Duration(&'a [IntervalMonthDayNano]),
    List(Offsets<'a>, Box<Put<'a>>),
    Map(Offsets<'a>, Slices<'a>, Box<Put<'a>>),
    Record(Vec<(&'a str, Put<'a>)>),
    /// A struct of branches: its nulls, the tag of null, and a tag and nulls for each branch.
    Branches(Option<NullBuffer>, Option<i64>, Vec<(i64, Option<NullBuffer>, Put<'a>)>),
    /// JSON text as a value of this type.
    Json(Slices<'a>, &'a Schema, Id),
}

/// Byte strings of any Arrow layout.
pub(crate) enum Slices<'a> {
    Short(&'a [i32], &'a [u8]),
    Long(&'a [i64], &'a [u8]),
    Text(&'a StringViewArray),
    Binary(&'a BinaryViewArray),
    Fixed(&'a FixedSizeBinaryArray),
}

pub(crate) enum Offsets<'a> {
    Short(&'a [i32]),
    Long(&'a [i64]),
}

impl Slices<'_> {
    /// Appends the bytes of a row behind their number; short ones as a whole chunk cut back.
    #[inline]
    fn put(&self, row: usize, out: &mut Vec<u8>) {
        if let Slices::Short(offsets, data) = self {
            let (from, to) = (offsets[row] as usize, offsets[row + 1] as usize);
            let len = to - from;
            if len <= CHUNK
                && let Some(chunk) = data[from..].first_chunk::<CHUNK>()
            {
                // The number of so few bytes is a byte itself.
                out.push((len as u8) << 1);
                let end = out.len() + len;
                out.extend_from_slice(chunk);
                return out.truncate(end);
            }
        }
        put_bytes(self.get(row), out);
    }

    #[inline]
    fn get(&self, row: usize) -> &[u8] {
        match self {
            Slices::Short(offsets, data) => &data[offsets[row] as usize..offsets[row + 1] as usize],
            Slices::Long(offsets, data) => &data[offsets[row] as usize..offsets[row + 1] as usize],
            Slices::Text(array) => array.value(row).as_bytes(),
            Slices::Binary(array) => array.value(row),
            Slices::Fixed(array) => array.value(row),
        }
    }
}

impl Offsets<'_> {
    #[inline]
    fn get(&self, row: usize) -> (usize, usize) {
        match self {
            Offsets::Short(offsets) => (offsets[row] as usize, offsets[row + 1] as usize),
            Offsets::Long(offsets) => (offsets[row] as usize, offsets[row + 1] as usize),
        }
    }
}

impl Put<'_> {
    /// Appends the value of a row. After an error the buffer holds a part of it.
    pub fn put(&self, row: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
        match self {
            Put::Optional(nulls, null, some, inner) => {
                if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                    put_long(*null, out);
                } else {
                    put_long(*some, out);
                    inner.put(row, out)?;
                }
            }
            Put::Required(nulls, inner) => {
                if nulls.is_null(row) {
                    return Err(Fault::new("null, which the schema does not allow"));
                }
                inner.put(row, out)?;
            }
            Put::Tagged(tag, inner) => {
                put_long(*tag, out);
                inner.put(row, out)?;
            }
            Put::Bytes(slices) => slices.put(row, out),
            Put::Int(values) => put_long(values[row].into(), out),
            Put::Long(values) => put_long(values[row], out),
            Put::Double(values) => out.extend_from_slice(&values[row].to_le_bytes()),
            Put::Float(values) => out.extend_from_slice(&values[row].to_le_bytes()),
            Put::Boolean(values) => out.push(values.value(row).into()),
            Put::Null => {}
            Put::Default(bytes) => out.extend_from_slice(bytes),
            Put::Dictionary(keys, values) => values.put(keys[row], out)?,
            Put::Integers(values, narrow) => put_long(fit(values[row], *narrow)?, out),
            Put::Unsigned(values) => {
                let value = i64::try_from(values[row]);
                put_long(value.map_err(|_| out_of_range(values[row]))?, out);
            }
            Put::Scaled(values, times, per, narrow, unit) => {
                let scaled = values[row].checked_mul(*times);
                let scaled = scaled.ok_or_else(|| beyond(values[row], *unit))?.div_euclid(*per);
                put_long(fit(scaled, *narrow)?, out);
            }
            Put::Days(values, units) => put_long(i64::from(values[row]) * units, out),
            Put::FloatToDouble(values) => {
                out.extend_from_slice(&f64::from(values[row]).to_le_bytes());
            }
            Put::IntToFloat(values) => {
                out.extend_from_slice(&(values[row] as f32).to_le_bytes());
            }
            Put::IntToDouble(values) => {
                out.extend_from_slice(&f64::from(values[row]).to_le_bytes());
            }
            Put::Fixed(slices, size) => {
                let bytes = slices.get(row);
                if bytes.len() != *size {
                    let len = bytes.len();
                    return Err(Fault::new(format!("{len} bytes, where {size} are due")));
                }
                out.extend_from_slice(bytes);
            }
            Put::Enum(slices, symbols) => {
                let text = slices.get(row);
                let at = symbols.iter().position(|symbol| symbol.as_bytes() == text);
                let at = at.ok_or_else(|| {
                    let text = String::from_utf8_lossy(text);
                    let known = values::excerpt(&symbols.join(", "));
                    Fault::new(format!("`{}` is none of {known}", values::excerpt(&text)))
                })?;
                put_long(at as i64, out);
            }
            Put::Ip(array) => {
                put_bytes(values::ip_text(sixteen(array.value(row))?).as_bytes(), out)
            }
            Put::UuidText(array) => {
                put_bytes(values::uuid_text(&sixteen(array.value(row))?).as_bytes(), out);
            }
            Put::UuidFixed(slices) => {
                let text = String::from_utf8_lossy(slices.get(row));
                let uuid = values::parse_uuid(&text).ok_or_else(|| {
                    Fault::new(format!("`{}` is not a UUID", values::excerpt(&text)))
                })?;
                out.extend_from_slice(&uuid);
            }
            Put::Decimal128(values, zeros, size, digits) => {
                put_decimal(i256::from_i128(values[row]), *zeros, *size, *digits, out)?;
            }
            Put::Decimal256(values, zeros, size, digits) => {
                put_decimal(values[row], *zeros, *size, *digits, out)?;
            }
            Put::Duration(values) => {
                let value = values[row];
                let millis = value.nanoseconds / 1_000_000;
                for part in [value.months.into(), value.days.into(), millis] {
                    let part = u32::try_from(part)
                        .map_err(|_| Fault::new("an interval with a negative or too large part"))?;
                    out.extend_from_slice(&part.to_le_bytes());
                }
            }
            Put::List(offsets, items) => {
                let (from, to) = offsets.get(row);
                if from != to {
                    put_long((to - from) as i64, out);
                    for item in from..to {
                        items.put(item, out)?;
                    }
                }
                out.push(0);
            }
            Put::Map(offsets, keys, items) => {
                let (from, to) = offsets.get(row);
                if from != to {
                    put_long((to - from) as i64, out);
                    for item in from..to {
                        keys.put(item, out);
                        items.put(item, out)?;
                    }
                }
                out.push(0);
            }
            Put::Record(fields) => {
                for (name, field) in fields {
                    field.put(row, out).map_err(|fault| fault.within(name))?;
                }
            }
            Put::Branches(nulls, null, branches) => {
                let absent = nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
                let mut there = branches.iter().filter(|(_, nulls, _)| {
                    !absent && nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row))
                });
                match (there.next(), there.next(), null) {
                    (Some((tag, _, branch)), None, _) => {
                        put_long(*tag, out);
                        branch.put(row, out)?;
                    }
                    (None, _, Some(null)) => put_long(*null, out),
                    (None, _, None) => {
                        return Err(Fault::new("null, which the schema does not allow"));
                    }
                    (Some(_), Some(_), _) => {
                        return Err(Fault::new("more than one branch of a union is set"));
                    }
                }
            }
            Put::Json(slices, schema, id) => {
                let value = serde_json::from_slice(slices.get(row))
                    .map_err(|error| Fault::new(format!("the text is not JSON: {error}")))?;
                write_json(schema, *id, &value, Style::Text, out).map_err(Fault::new)?;
            }
        }
        Ok(())
    }
}

fn fit(value: i64, narrow: bool) -> Result<i64, Fault> {
    if narrow && i32::try_from(value).is_err() {
        return Err(out_of_range(value));
    }
    Ok(value)
}

#[cold]
fn beyond(value: i64, unit: Option<TimeUnit>) -> Fault {
    match unit {
        Some(unit) => {
            let range = values::timestamps_of(unit);
            Fault::new(format!("the timestamp {value} is out of range: {range}"))
        }
        None => out_of_range(value),
    }
}

#[cold]
fn out_of_range(value: impl std::fmt::Display) -> Fault {
    Fault::new(format!("{value} is out of range"))
}

fn sixteen(bytes: &[u8]) -> Result<[u8; 16], Fault> {
    bytes.try_into().map_err(|_| Fault::new("an address is not 16 bytes"))
}

fn put_decimal(
    value: i256,
    zeros: u32,
    size: Option<usize>,
    digits: u8,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let ten = i256::from_i128(10);
    let scaled = ten.checked_pow(zeros).and_then(|factor| value.checked_mul(factor));
    let max = ten.checked_pow(digits.into());
    let bytes = scaled
        .filter(|v| max.is_none_or(|max| v.checked_abs().is_some_and(|v| v < max)))
        .and_then(|value| decimal_bytes(value, size))
        .ok_or_else(|| Fault::new(format!("a decimal of more than {digits} digits")))?;
    match size {
        Some(_) => out.extend_from_slice(&bytes),
        None => put_bytes(&bytes, out),
    }
    Ok(())
}
