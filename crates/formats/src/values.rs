//! Single values between text and columns: what JSON strings, CSV fields and matched groups share.

use crate::columns::{Column, Kind, units_per_second};
use arrow_buffer::i256;
use arrow_schema::{DataType, TimeUnit};
use jiff::civil::{Date, Time};
use jiff::fmt::temporal::Pieces;
use jiff::tz::Offset;
use std::net::IpAddr;

/// Seconds of a day.
const DAY: i64 = 86_400;

/// Appends a value given as text. The error says what was expected and what was there.
pub(crate) fn append_text(column: &mut Column, text: &str) -> Result<(), String> {
    let data_type = column.data_type().clone();
    let wrong = |what: &str| format!("`{}` is not {what}", excerpt(text));
    match (&mut column.kind, &data_type) {
        (Kind::Str(runs), _) => runs.push_grown(text.as_bytes()).map_err(|_| FULL.to_owned())?,
        (Kind::Bool(values), _) => values.append(match text.trim() {
            "true" | "TRUE" | "True" | "1" => true,
            "false" | "FALSE" | "False" | "0" => false,
            _ => return Err(wrong("true or false")),
        }),
        (Kind::I32(values), DataType::Date32) => {
            let value = parse_date(text.trim());
            values.push(value.ok_or_else(|| wrong(&format!("a date as 2024-05-31, {DATES}")))?);
        }
        (Kind::I32(values), _) => {
            let value = text.trim().parse();
            values.push(value.map_err(|_| wrong("an integer of 32 bits"))?);
        }
        (Kind::I64(values), DataType::Timestamp(unit, _)) => {
            let value = parse_timestamp(text.trim(), *unit);
            values.push(value.ok_or_else(|| {
                wrong(&format!(
                    "a timestamp as 2024-05-31T12:00:00Z or milliseconds since 1970, {}",
                    timestamps_of(*unit)
                ))
            })?);
        }
        (Kind::I64(values), DataType::Time64(unit)) => {
            let value = parse_time(text.trim(), *unit);
            values.push(value.ok_or_else(|| wrong("a time of day as 12:30:00"))?);
        }
        (Kind::I64(values), _) => {
            let value = text.trim().parse();
            values.push(value.map_err(|_| wrong("an integer of 64 bits"))?);
        }
        (Kind::F32(values), _) => {
            values.push(text.trim().parse().map_err(|_| wrong("a number"))?);
        }
        (Kind::F64(values), _) => {
            values.push(text.trim().parse().map_err(|_| wrong("a number"))?);
        }
        (Kind::I128(values), DataType::Decimal128(precision, scale)) => {
            let value = parse_decimal(text.trim(), *precision, *scale).and_then(i256::to_i128);
            values.push(value.ok_or_else(|| wrong(&format!("a decimal({precision}, {scale})")))?);
        }
        (Kind::I256(values), DataType::Decimal256(precision, scale)) => {
            let value = parse_decimal(text.trim(), *precision, *scale);
            values.push(value.ok_or_else(|| wrong(&format!("a decimal({precision}, {scale})")))?);
        }
        (Kind::Bytes(runs), _) => {
            let bytes = base64_decode(text.trim()).ok_or_else(|| wrong("base64"))?;
            runs.push_grown(&bytes).map_err(|_| FULL.to_owned())?;
        }
        (Kind::Fixed(16, data), _) => {
            let address = parse_ip(text.trim()).ok_or_else(|| wrong("an IP address"))?;
            data.extend_from_slice(&address);
        }
        (_, other) => return Err(format!("text cannot become {other}")),
    }
    column.valid();
    Ok(())
}

pub(crate) const FULL: &str = "the column is over 2 GiB with this record";

/// The beginning of a text, for messages.
pub(crate) fn excerpt(text: &str) -> String {
    const CHARS: usize = 60;
    match text.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// An address as `ip` columns hold it: IPv4 mapped into IPv6.
pub(crate) fn parse_ip(text: &str) -> Option<[u8; 16]> {
    Some(match text.parse().ok()? {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    })
}

pub(crate) fn ip_text(bytes: [u8; 16]) -> String {
    let address = std::net::Ipv6Addr::from(bytes);
    match address.to_ipv4_mapped() {
        Some(address) => address.to_string(),
        None => address.to_string(),
    }
}

/// Days since 1970.
pub(crate) fn parse_date(text: &str) -> Option<i32> {
    let date: Date = text.parse().ok()?;
    i32::try_from(days_of(date)?).ok()
}

pub(crate) fn date_text(days: i32) -> Option<String> {
    date_of(i64::from(days)).map(|date| date.to_string())
}

/// RFC 3339, the same without an offset (then UTC), or milliseconds since 1970.
pub(crate) fn parse_timestamp(text: &str, unit: TimeUnit) -> Option<i64> {
    if let Ok(millis) = text.parse::<i64>() {
        return from_millis(millis, unit);
    }
    // jiff's own instants end a day before its dates do.
    let parts = Pieces::parse(text).ok()?;
    let time = parts.time().unwrap_or_else(Time::midnight);
    let offset = parts.to_numeric_offset().map_or(0, Offset::seconds);
    let of_day = time.duration_since(Time::midnight()).as_nanos();
    let seconds = days_of(parts.date())? * DAY - i64::from(offset);
    let nanos = i128::from(seconds) * 1_000_000_000 + of_day;
    let units = nanos.div_euclid(1_000_000_000 / i128::from(units_per_second(unit)));
    i64::try_from(units).ok().filter(|value| in_range(*value, unit))
}

pub(crate) fn from_millis(millis: i64, unit: TimeUnit) -> Option<i64> {
    let value = match units_per_second(unit) {
        1 => millis.div_euclid(1000),
        units => millis.checked_mul(units / 1000)?,
    };
    in_range(value, unit).then_some(value)
}

/// RFC 3339; without the `Z` where the column has no zone. `None` outside the years 1 to 9999.
pub(crate) fn timestamp_text(value: i64, unit: TimeUnit, zoned: bool) -> Option<String> {
    let units = units_per_second(unit);
    let date = date_of(value.div_euclid(units * DAY))?;
    let time = time_of(value.rem_euclid(units * DAY), unit)?;
    let text = date.to_datetime(time).to_string();
    Some(if zoned { text + "Z" } else { text })
}

/// The dates there are, for messages.
pub(crate) const DATES: &str = "from 0001-01-01 to 9999-12-31";

/// The timestamps of a unit, for messages.
pub(crate) fn timestamps_of(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Nanosecond => {
            "from 1677-09-21T00:12:43.145224192Z to 2262-04-11T23:47:16.854775807Z"
        }
        TimeUnit::Microsecond => "from 0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999999Z",
        TimeUnit::Millisecond => "from 0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999Z",
        TimeUnit::Second => "from 0001-01-01T00:00:00Z to 9999-12-31T23:59:59Z",
    }
}

/// A unit's word, for messages.
pub(crate) fn unit_word(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "seconds",
        TimeUnit::Millisecond => "milliseconds",
        TimeUnit::Microsecond => "microseconds",
        TimeUnit::Nanosecond => "nanoseconds",
    }
}

fn in_range(value: i64, unit: TimeUnit) -> bool {
    DAYS.contains(&value.div_euclid(units_per_second(unit) * DAY))
}

/// Days since 1970 from the year 1 to the year 9999.
const DAYS: std::ops::RangeInclusive<i64> = -719_162..=2_932_896;
const DAYS_OF_400_YEARS: i64 = 146_097;

/// Years begin in March here, so that a leap day is the last of its year.
fn days_of(date: Date) -> Option<i64> {
    let (month, day) = (i64::from(date.month()), i64::from(date.day()));
    let year = i64::from(date.year()) - i64::from(month < 3);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    let days = year.div_euclid(400) * DAYS_OF_400_YEARS + days - 719_468;
    DAYS.contains(&days).then_some(days)
}

fn date_of(days: i64) -> Option<Date> {
    if !DAYS.contains(&days) {
        return None;
    }
    let days = days + 719_468;
    let of_era = days.rem_euclid(DAYS_OF_400_YEARS);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = (march + 2) % 12 + 1;
    let year = days.div_euclid(DAYS_OF_400_YEARS) * 400 + year + i64::from(month < 3);
    Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()
}

pub(crate) fn parse_time(text: &str, unit: TimeUnit) -> Option<i64> {
    let time: Time = text.parse().ok()?;
    let nanos = time.duration_since(Time::midnight()).as_nanos();
    i64::try_from(nanos / (1_000_000_000 / i128::from(units_per_second(unit)))).ok()
}

pub(crate) fn time_text(value: i64, unit: TimeUnit) -> Option<String> {
    time_of(value, unit).map(|time| time.to_string())
}

fn time_of(value: i64, unit: TimeUnit) -> Option<Time> {
    let units = units_per_second(unit);
    if !(0..DAY * units).contains(&value) {
        return None;
    }
    let nanos = value % units * (1_000_000_000 / units);
    let seconds = value / units;
    let part = |value: i64| i8::try_from(value).ok();
    let time = Time::new(
        part(seconds / 3600)?,
        part(seconds / 60 % 60)?,
        part(seconds % 60)?,
        nanos as i32,
    );
    time.ok()
}

/// The unscaled value of a decimal; digits beyond the scale must be zeros.
pub(crate) fn parse_decimal(text: &str, precision: u8, scale: i8) -> Option<i256> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.as_bytes().first()? {
        b'-' => (true, &mantissa[1..]),
        b'+' => (false, &mantissa[1..]),
        _ => (false, mantissa),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.len() + part.len() == 0 || !(-100..=100).contains(&exponent) {
        return None;
    }
    // The place of a digit, counted from the last one that the scale keeps.
    let mut place = i32::try_from(whole.len()).ok()? + exponent + i32::from(scale);
    let mut value = i256::ZERO;
    let mut places = 0;
    for byte in whole.bytes().chain(part.bytes()) {
        if !byte.is_ascii_digit() {
            return None;
        }
        place -= 1;
        if place < 0 {
            if byte != b'0' {
                return None;
            }
            continue;
        }
        let digit = i256::from_i128((byte - b'0').into());
        value = value.checked_mul(i256::from_i128(10))?.checked_add(digit)?;
        places += 1;
        if places > 400 {
            return None;
        }
    }
    for _ in 0..place.max(0) {
        value = value.checked_mul(i256::from_i128(10))?;
    }
    let max = i256::from_i128(10).checked_pow(precision.into());
    let fits = max.is_none_or(|max| value < max);
    fits.then_some(if negative { value.wrapping_neg() } else { value })
}

pub(crate) fn decimal_text(value: i256, scale: i8) -> String {
    let text = value.to_string();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.as_str()),
    };
    let Ok(scale @ 1..) = usize::try_from(scale) else { return text };
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, part) = digits.split_at(digits.len() - scale);
    format!("{sign}{whole}.{part}")
}

/// A big-endian two's complement number; `None` when it takes more than 256 bits.
pub(crate) fn be_i256(bytes: &[u8]) -> Option<i256> {
    let sign = match bytes.first() {
        Some(first) if first & 0x80 != 0 => 0xff,
        _ => 0,
    };
    let mut wide = [sign; 32];
    match bytes.len().checked_sub(32) {
        None | Some(0) => wide[32 - bytes.len()..].copy_from_slice(bytes),
        Some(extra) => {
            if bytes[..extra].iter().any(|byte| *byte != sign) || (bytes[extra] ^ sign) & 0x80 != 0
            {
                return None;
            }
            wide.copy_from_slice(&bytes[extra..]);
        }
    }
    Some(i256::from_be_bytes(wide))
}

/// The fewest big-endian bytes that hold a number.
pub(crate) fn be_bytes(value: i256) -> ([u8; 32], usize) {
    let bytes = value.to_be_bytes();
    let sign = if bytes[0] & 0x80 != 0 { 0xff } else { 0 };
    let mut start = 0;
    while start < 31 && bytes[start] == sign && (bytes[start + 1] ^ sign) & 0x80 == 0 {
        start += 1;
    }
    (bytes, start)
}

pub(crate) fn uuid_text(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

pub(crate) fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0u8; 16];
    let mut digits = text.bytes().filter(|byte| *byte != b'-');
    for byte in &mut bytes {
        let mut digit = || char::from(digits.next()?).to_digit(16);
        *byte = (digit()? * 16 + digit()?) as u8;
    }
    let whole = digits.next().is_none() && (text.len() == 36 || text.len() == 32);
    whole.then_some(bytes)
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(crate) fn base64_into(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            match at <= chunk.len() {
                true => out.push(BASE64[(bits >> (18 - 6 * at)) as usize & 63]),
                false => out.push(b'='),
            }
        }
    }
}

/// Standard or URL alphabet, padded or not.
pub(crate) fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    if text.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.chunks(4) {
        let mut bits = 0u32;
        for byte in chunk {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - chunk.len());
        out.extend_from_slice(&bits.to_be_bytes()[1..chunk.len()]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_read_back() {
        for (text, precision, scale, unscaled) in [
            ("12.34", 10, 2, Some(1234)),
            ("-0.5", 10, 2, Some(-50)),
            ("7", 10, 2, Some(700)),
            ("1.230", 10, 2, Some(123)),
            ("1.234", 10, 2, None),
            ("1e3", 10, 2, Some(100_000)),
            ("99999999999", 10, 0, None),
            ("1e-2147483648", 10, 2, None),
            ("1e2147483647", 10, 2, None),
            ("", 10, 0, None),
            ("-", 10, 0, None),
            ("1.2.3", 10, 1, None),
        ] {
            let value = parse_decimal(text, precision, scale).and_then(i256::to_i128);
            assert_eq!(value, unscaled, "{text}");
        }
        assert_eq!(decimal_text(i256::from_i128(-5), 2), "-0.05");
        assert_eq!(decimal_text(i256::from_i128(1234), 0), "1234");
        for value in [0, 1, -1, 127, 128, -128, -129, i128::MAX, i128::MIN] {
            let (bytes, start) = be_bytes(i256::from_i128(value));
            assert_eq!(be_i256(&bytes[start..]), Some(i256::from_i128(value)));
        }
    }

    #[test]
    fn base64_and_addresses_read_back() {
        for bytes in [&b""[..], b"f", b"fo", b"foo", b"foobar", &[0xff, 0xfe]] {
            let mut text = Vec::new();
            base64_into(bytes, &mut text);
            assert_eq!(base64_decode(std::str::from_utf8(&text).unwrap()).unwrap(), bytes);
        }
        assert_eq!(base64_decode("Zm9v!"), None);
        for text in ["1.2.3.4", "2001:db8::1"] {
            assert_eq!(ip_text(parse_ip(text).unwrap()), text);
        }
        let uuid = "00112233-4455-6677-8899-aabbccddeeff";
        assert_eq!(uuid_text(&parse_uuid(uuid).unwrap()), uuid);
        assert_eq!(parse_uuid("zz"), None);
    }

    #[test]
    fn moments_read_back() {
        let millis = TimeUnit::Millisecond;
        assert_eq!(parse_timestamp("2024-05-31T12:00:00.5Z", millis), Some(1_717_156_800_500));
        assert_eq!(parse_timestamp("2024-05-31T14:00:00.5+02:00", millis), Some(1_717_156_800_500));
        assert_eq!(parse_timestamp("2024-05-31 12:00:00", millis), Some(1_717_156_800_000));
        assert_eq!(
            parse_timestamp("1717156800500", TimeUnit::Microsecond),
            Some(1_717_156_800_500_000)
        );
        assert_eq!(parse_timestamp("yesterday", millis), None);
        assert_eq!(timestamp_text(-1, millis, true).unwrap(), "1969-12-31T23:59:59.999Z");
        assert_eq!(timestamp_text(0, millis, false).unwrap(), "1970-01-01T00:00:00");
        assert_eq!(timestamp_text(i64::MAX, millis, true), None);
        assert_eq!(date_text(parse_date("1969-12-31").unwrap()).unwrap(), "1969-12-31");
        assert_eq!(parse_date("1970-01-01"), Some(0));
        // jiff's calendar agrees with ours on every day that there is.
        let mut date = Date::new(1, 1, 1).unwrap();
        for days in DAYS {
            assert_eq!((days_of(date), date_of(days)), (Some(days), Some(date)));
            date = date.tomorrow().unwrap_or(date);
        }
        assert_eq!(date, Date::new(9999, 12, 31).unwrap());
        let micros = TimeUnit::Microsecond;
        assert_eq!(
            time_text(parse_time("12:30:00.25", micros).unwrap(), micros).unwrap(),
            "12:30:00.25"
        );
    }

    #[test]
    fn the_first_and_the_last_moment_read_back_and_those_beyond_are_none() {
        for text in ["0001-01-01", "9999-12-31"] {
            assert_eq!(date_text(parse_date(text).unwrap()).unwrap(), text);
        }
        for (unit, last) in [
            (TimeUnit::Second, "9999-12-31T23:59:59Z"),
            (TimeUnit::Millisecond, "9999-12-31T23:59:59.999Z"),
            (TimeUnit::Microsecond, "9999-12-31T23:59:59.999999Z"),
        ] {
            for text in ["0001-01-01T00:00:00Z", last] {
                let value = parse_timestamp(text, unit).unwrap();
                assert_eq!(timestamp_text(value, unit, true).unwrap(), text);
                let beyond = if text == last { value + 1 } else { value - 1 };
                assert_eq!(timestamp_text(beyond, unit, true), None, "{text}");
            }
            assert_eq!(parse_timestamp("9999-12-31T23:59:59-00:01", unit), None);
            assert_eq!(parse_timestamp("0001-01-01T00:00:00+00:01", unit), None);
            assert!(parse_timestamp("9999-12-31T23:59:59+23:00", unit).is_some());
        }
        let nanos = TimeUnit::Nanosecond;
        for text in ["1677-09-21T00:12:43.145224192Z", "2262-04-11T23:47:16.854775807Z"] {
            let value = parse_timestamp(text, nanos).unwrap();
            assert_eq!(timestamp_text(value, nanos, true).unwrap(), text);
        }
        assert_eq!(parse_timestamp("2262-04-11T23:47:16.854775808Z", nanos), None);
        assert_eq!(
            parse_timestamp("253402300799999", TimeUnit::Millisecond),
            Some(253402300799999)
        );
        assert_eq!(parse_timestamp("253402300800000", TimeUnit::Millisecond), None);
    }
}
