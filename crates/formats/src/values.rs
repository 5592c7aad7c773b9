//! Single values between text and columns: what JSON strings, CSV fields and matched groups share.

use crate::columns::{Column, Kind, units_per_second};
use arrow_buffer::i256;
use arrow_schema::{DataType, TimeUnit};
use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
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
            values.push(parse_date(text.trim()).ok_or_else(|| wrong("a date as 2024-05-31"))?);
        }
        (Kind::I32(values), _) => {
            let value = text.trim().parse();
            values.push(value.map_err(|_| wrong("an integer of 32 bits"))?);
        }
        (Kind::I64(values), DataType::Timestamp(unit, _)) => {
            let value = parse_timestamp(text.trim(), *unit);
            values.push(value.ok_or_else(|| {
                wrong("a timestamp as 2024-05-31T12:00:00Z or milliseconds since 1970")
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
    let instant = Offset::UTC.to_timestamp(date.to_datetime(Time::midnight())).ok()?;
    i32::try_from(instant.as_second().div_euclid(DAY)).ok()
}

pub(crate) fn date_text(days: i32) -> Option<String> {
    let instant = Timestamp::from_second(i64::from(days) * DAY).ok()?;
    Some(Offset::UTC.to_datetime(instant).date().to_string())
}

/// RFC 3339, the same without an offset (then UTC), or milliseconds since 1970.
pub(crate) fn parse_timestamp(text: &str, unit: TimeUnit) -> Option<i64> {
    if let Ok(millis) = text.parse::<i64>() {
        return from_millis(millis, unit);
    }
    let instant = match text.parse::<Timestamp>() {
        Ok(instant) => instant,
        Err(_) => Offset::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok()?,
    };
    let nanos = instant.as_nanosecond();
    i64::try_from(nanos.div_euclid(1_000_000_000 / i128::from(units_per_second(unit)))).ok()
}

pub(crate) fn from_millis(millis: i64, unit: TimeUnit) -> Option<i64> {
    match units_per_second(unit) {
        1 => Some(millis.div_euclid(1000)),
        units => millis.checked_mul(units / 1000),
    }
}

/// RFC 3339; without the `Z` where the column has no zone. `None` outside the years ±9999.
pub(crate) fn timestamp_text(value: i64, unit: TimeUnit, zoned: bool) -> Option<String> {
    let units = units_per_second(unit);
    let nanos = value.rem_euclid(units) * (1_000_000_000 / units);
    let instant = Timestamp::new(value.div_euclid(units), nanos as i32).ok()?;
    Some(match zoned {
        true => instant.to_string(),
        false => Offset::UTC.to_datetime(instant).to_string(),
    })
}

pub(crate) fn parse_time(text: &str, unit: TimeUnit) -> Option<i64> {
    let time: Time = text.parse().ok()?;
    let nanos = time.duration_since(Time::midnight()).as_nanos();
    i64::try_from(nanos / (1_000_000_000 / i128::from(units_per_second(unit)))).ok()
}

pub(crate) fn time_text(value: i64, unit: TimeUnit) -> Option<String> {
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
    Some(time.ok()?.to_string())
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
    if whole.len() + part.len() == 0 || exponent.abs() > 100 {
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
        let micros = TimeUnit::Microsecond;
        assert_eq!(
            time_text(parse_time("12:30:00.25", micros).unwrap(), micros).unwrap(),
            "12:30:00.25"
        );
    }
}
