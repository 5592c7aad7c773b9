//! The values of a column as JSON: the common types by their own slices, the others by a look at the
//! type for every value.

use crate::columns::{CHUNK, units_per_second};
use crate::values;
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, StringArray};
use arrow_buffer::{BooleanBuffer, NullBuffer, i256};
use arrow_schema::{DataType, IntervalUnit, TimeUnit};
use std::cell::Cell;
use std::fmt;

/// A column of one batch with what is nested in it, taken apart once.
pub(crate) struct Writer<'a> {
    /// `None` where no value is null.
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    Boolean(&'a BooleanBuffer),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    /// Text of which no byte has to be escaped.
    Plain(&'a StringArray),
    Moment(&'a [i64], Moments),
    Leaf(&'a ArrayRef),
    Dictionary(Vec<usize>, Box<Writer<'a>>),
    List(&'a [i32], Box<Writer<'a>>),
    LargeList(&'a [i64], Box<Writer<'a>>),
    Map(&'a [i32], Box<Writer<'a>>, Box<Writer<'a>>),
    Struct(Vec<(Vec<u8>, Writer<'a>)>),
}

impl<'a> Writer<'a> {
    pub fn new(array: &'a ArrayRef) -> Self {
        let values = match array.data_type() {
            DataType::Boolean => Values::Boolean(array.as_boolean().values()),
            DataType::Int32 => Values::Int32(array.as_primitive::<Int32Type>().values()),
            DataType::Int64 => Values::Int64(array.as_primitive::<Int64Type>().values()),
            DataType::Utf8 if is_plain(array.as_string()) => Values::Plain(array.as_string()),
            DataType::Timestamp(unit, zone) => {
                Values::Moment(moments(array, *unit), Moments::new(*unit, zone.is_some()))
            }
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                Values::List(list.value_offsets(), Box::new(Writer::new(list.values())))
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                Values::LargeList(list.value_offsets(), Box::new(Writer::new(list.values())))
            }
            DataType::Map(..) => {
                let map = array.as_map();
                let (keys, values) = (Writer::new(map.keys()), Writer::new(map.values()));
                Values::Map(map.value_offsets(), Box::new(keys), Box::new(values))
            }
            DataType::Struct(fields) => {
                let children = fields.iter().zip(array.as_struct().columns()).enumerate();
                let child = |(at, (field, child)): (usize, (&arrow_schema::FieldRef, _))| {
                    let opening = if at == 0 { "" } else { "," };
                    (key(opening, field.name()), Writer::new(child))
                };
                Values::Struct(children.map(child).collect())
            }
            DataType::Dictionary(..) => {
                let dictionary = array.as_any_dictionary();
                let keys = match dictionary.values().is_empty() {
                    true => Vec::new(),
                    false => dictionary.normalized_keys(),
                };
                Values::Dictionary(keys, Box::new(Writer::new(dictionary.values())))
            }
            _ => Values::Leaf(array),
        };
        Writer { nulls: array.nulls().filter(|nulls| nulls.null_count() > 0), values }
    }

    #[inline]
    pub fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        if let Some(nulls) = self.nulls
            && nulls.is_null(row)
        {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        match &self.values {
            Values::Plain(texts) => plain(texts, row, out),
            Values::Int32(values) => integer(values[row], out),
            Values::Int64(values) => integer(values[row], out),
            Values::Boolean(values) => {
                out.extend_from_slice(if values.value(row) { b"true" } else { b"false" });
            }
            Values::Moment(values, moments) => return moments.write(values[row], out),
            Values::Leaf(array) => return leaf(array, row, out),
            Values::Dictionary(keys, values) => return values.write(keys[row], out),
            Values::List(ends, items) => {
                return list(items, ends[row] as usize, ends[row + 1] as usize, out);
            }
            Values::LargeList(ends, items) => {
                return list(items, ends[row] as usize, ends[row + 1] as usize, out);
            }
            Values::Map(ends, keys, values) => {
                out.push(b'{');
                let first = ends[row] as usize;
                for item in first..ends[row + 1] as usize {
                    if item > first {
                        out.push(b',');
                    }
                    keys.write(item, out)?;
                    out.push(b':');
                    values.write(item, out)?;
                }
                out.push(b'}');
            }
            Values::Struct(fields) => {
                out.push(b'{');
                for (key, writer) in fields {
                    out.extend_from_slice(key);
                    writer.write(row, out)?;
                }
                out.push(b'}');
            }
        }
        Ok(())
    }
}

/// What stands before a member's value.
pub(crate) fn key(opening: &str, name: &str) -> Vec<u8> {
    let mut key = opening.as_bytes().to_vec();
    quote(name, &mut key);
    key.push(b':');
    key
}

fn list(items: &Writer<'_>, from: usize, to: usize, out: &mut Vec<u8>) -> Result<(), String> {
    out.push(b'[');
    for item in from..to {
        if item > from {
            out.push(b',');
        }
        items.write(item, out)?;
    }
    out.push(b']');
    Ok(())
}

fn integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Whether no byte of any of these texts has to be escaped.
fn is_plain(texts: &StringArray) -> bool {
    let ends = texts.value_offsets();
    let (Some(from), Some(to)) = (ends.first(), ends.last()) else { return true };
    let bytes = &texts.value_data()[*from as usize..*to as usize];
    let escaped = |byte: u8| (byte < 0x20) | (byte == b'"') | (byte == b'\\');
    // A whole chunk without a branch: the compiler does it sixteen or more bytes at a time.
    bytes.chunks(256).all(|chunk| !chunk.iter().fold(false, |any, byte| any | escaped(*byte)))
}

#[inline]
fn plain(texts: &StringArray, row: usize, out: &mut Vec<u8>) {
    let ends = texts.value_offsets();
    let (from, to) = (ends[row] as usize, ends[row + 1] as usize);
    let rest = &texts.value_data()[from..];
    let len = to - from;
    out.push(b'"');
    match rest.first_chunk::<CHUNK>() {
        // A short one is copied as a whole chunk and cut back: a few stores in place of a call.
        Some(chunk) if len <= CHUNK => {
            let end = out.len() + len;
            out.extend_from_slice(chunk);
            out.truncate(end);
        }
        _ => out.extend_from_slice(&rest[..len]),
    }
    out.push(b'"');
}

fn moments(array: &ArrayRef, unit: TimeUnit) -> &[i64] {
    match unit {
        TimeUnit::Second => array.as_primitive::<TimestampSecondType>().values(),
        TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().values(),
        TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().values(),
        TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().values(),
    }
}

/// Timestamps as text, which mostly differ from the one before in their time of day only.
struct Moments {
    unit: TimeUnit,
    zoned: bool,
    units: i64,
    /// The day of the one before: where it begins, and its text.
    day: Cell<Option<(i64, [u8; 10])>>,
}

const DAY_SECONDS: i64 = 24 * 60 * 60;

impl Moments {
    fn new(unit: TimeUnit, zoned: bool) -> Self {
        Self { unit, zoned, units: units_per_second(unit), day: Cell::new(None) }
    }

    /// The same text as [`values::timestamp_text`] gives, in quotes.
    fn write(&self, value: i64, out: &mut Vec<u8>) -> Result<(), String> {
        let day_units = self.units * DAY_SECONDS;
        let known = self.day.get().filter(|(begin, _)| {
            value.checked_sub(*begin).is_some_and(|within| (0..day_units).contains(&within))
        });
        let (begin, date) = match known {
            Some(known) => known,
            None => {
                let number = value.div_euclid(day_units);
                let text = i32::try_from(number).ok().and_then(values::date_text);
                let date = text.as_ref().and_then(|text| text.as_bytes().first_chunk());
                // The first day of nanoseconds begins before they do.
                let begin = number.checked_mul(day_units);
                let (Some(date), Some(begin)) = (date, begin) else {
                    return self.by_the_calendar(value, out);
                };
                self.day.set(Some((begin, *date)));
                (begin, *date)
            }
        };
        // By constants: a division by a number that is not known here takes ten times as long.
        let within = (value - begin) as u64;
        let (seconds, part, digits) = match self.unit {
            TimeUnit::Second => (within, 0, 0),
            TimeUnit::Millisecond => (within / 1_000, within % 1_000, 3),
            TimeUnit::Microsecond => (within / 1_000_000, within % 1_000_000, 6),
            TimeUnit::Nanosecond => (within / 1_000_000_000, within % 1_000_000_000, 9),
        };
        let (seconds, part) = (seconds as u32, part as u32);
        let mut text = *b"\"0000-00-00T00:00:00.000000000";
        text[1..11].copy_from_slice(&date);
        two_digits(seconds / 3600, &mut text, 12);
        two_digits(seconds / 60 % 60, &mut text, 15);
        two_digits(seconds % 60, &mut text, 18);
        let mut len = 20;
        if part != 0 {
            // Digits to the last that is not 0.
            let mut left = part;
            for at in (21..21 + digits).rev() {
                text[at] = b'0' + (left % 10) as u8;
                left /= 10;
            }
            len = 21 + digits;
            while text[len - 1] == b'0' {
                len -= 1;
            }
        }
        out.extend_from_slice(&text[..len]);
        out.extend_from_slice(if self.zoned { b"Z\"" } else { b"\"" });
        Ok(())
    }

    #[cold]
    fn by_the_calendar(&self, value: i64, out: &mut Vec<u8>) -> Result<(), String> {
        let text = values::timestamp_text(value, self.unit, self.zoned);
        quote(&text.ok_or_else(|| out_of_range(value, self.unit))?, out);
        Ok(())
    }
}

fn two_digits(value: u32, text: &mut [u8; 30], at: usize) {
    text[at] = b'0' + (value / 10) as u8;
    text[at + 1] = b'0' + (value % 10) as u8;
}

fn leaf(array: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
    macro_rules! plain {
        ($type:ty) => {
            put(out, array.as_primitive::<$type>().value(row))
        };
    }
    match array.data_type() {
        DataType::Null => out.extend_from_slice(b"null"),
        DataType::Int8 => plain!(Int8Type),
        DataType::Int16 => plain!(Int16Type),
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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{
        BooleanArray, Int32Array, Int64Array, TimestampMicrosecondArray, TimestampMillisecondArray,
        TimestampNanosecondArray, TimestampSecondArray,
    };
    use proptest::prelude::*;
    use std::sync::Arc;

    fn written(array: ArrayRef) -> Vec<Result<String, String>> {
        let writer = Writer::new(&array);
        let one = |row| {
            let mut out = b"[".to_vec();
            writer.write(row, &mut out).map(|()| String::from_utf8(out.split_off(1)).unwrap())
        };
        (0..array.len()).map(one).collect()
    }

    fn shown<T>(values: Vec<Option<T>>, show: impl Fn(T) -> String) -> Vec<Result<String, String>> {
        values.into_iter().map(|value| Ok(value.map_or("null".into(), &show))).collect()
    }

    fn stamps(values: Vec<Option<i64>>, unit: TimeUnit) -> ArrayRef {
        match unit {
            TimeUnit::Second => Arc::new(TimestampSecondArray::from(values)),
            TimeUnit::Millisecond => Arc::new(TimestampMillisecondArray::from(values)),
            TimeUnit::Microsecond => Arc::new(TimestampMicrosecondArray::from(values)),
            TimeUnit::Nanosecond => Arc::new(TimestampNanosecondArray::from(values)),
        }
    }

    const UNITS: [TimeUnit; 4] =
        [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond];

    fn check_stamps(values: Vec<Option<i64>>) {
        for unit in UNITS {
            let expected: Vec<_> = values
                .iter()
                .map(|value| match value {
                    None => Ok("null".to_owned()),
                    Some(value) => values::timestamp_text(*value, unit, false)
                        .map(|text| format!("\"{text}\""))
                        .ok_or_else(|| out_of_range(*value, unit)),
                })
                .collect();
            assert_eq!(written(stamps(values.clone(), unit)), expected, "{unit:?}");
        }
    }

    #[test]
    fn moments_at_the_edges_are_those_of_the_calendar() {
        let days = [0, 1, -1, DAY_SECONDS, -DAY_SECONDS, 951_782_400, 1_767_225_600];
        let near = days.into_iter().flat_map(|at| {
            [1, 1_000, 1_000_000, 1_000_000_000]
                .into_iter()
                .flat_map(move |units| [-1, 0, 1, 10, 120, 86_399].map(|by| Some(at * units + by)))
        });
        let ends = [i64::MIN, i64::MIN + 1, i64::MAX, i64::MAX - 1].map(Some);
        check_stamps(near.chain(ends).chain([None]).collect());
    }

    proptest! {
        #[test]
        fn texts_are_written_as_serde_does(
            values in prop::collection::vec(
                prop::option::of(prop_oneof!["[a-z0-9]{0,80}", "\\PC{0,40}", ".{0,20}", "[\u{0}-\u{40}\"\\\\]{0,9}"]),
                0..20,
            ),
            from in 0usize..5,
        ) {
            let array = StringArray::from(values.clone());
            let from = from.min(array.len());
            let sliced: ArrayRef = Arc::new(array.slice(from, array.len() - from));
            let show = |value: String| serde_json::to_string(&value).unwrap();
            prop_assert_eq!(written(sliced), shown(values[from..].to_vec(), show));
        }

        #[test]
        fn numbers_and_truth_are_written_as_rust_does(
            ints in prop::collection::vec(prop::option::of(any::<i32>()), 0..20),
            longs in prop::collection::vec(prop::option::of(any::<i64>()), 0..20),
            truth in prop::collection::vec(prop::option::of(any::<bool>()), 0..20),
        ) {
            prop_assert_eq!(written(Arc::new(Int32Array::from(ints.clone()))), shown(ints, |v| v.to_string()));
            prop_assert_eq!(written(Arc::new(Int64Array::from(longs.clone()))), shown(longs, |v| v.to_string()));
            prop_assert_eq!(written(Arc::new(BooleanArray::from(truth.clone()))), shown(truth, |v| v.to_string()));
        }

        #[test]
        fn moments_are_those_of_the_calendar(
            near in any::<i64>(),
            shift in 0u32..40,
            steps in prop::collection::vec(prop::option::of(-200_000_000i64..200_000_000), 0..20),
        ) {
            let near = near >> shift;
            check_stamps(steps.iter().map(|step| step.map(|step| near.wrapping_add(step))).collect());
        }
    }
}
