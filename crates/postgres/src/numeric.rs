//! The server's `numeric`: digits to the base of 10,000, and where the point is among them.
//!
//! ```text
//!  i16 how many │ i16 weight of the first │ u16 sign │ u16 digits shown after the point │ i16 …
//! ```

use std::fmt::Write;

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xc000;
const INFINITY: u16 = 0xd000;
const MINUS_INFINITY: u16 = 0xf000;

const BASE: i128 = 10_000;

/// How many decimal digits one of the base has.
const GROUP: usize = 4;

/// What the server takes before the point, and after it.
const WHOLE_MAX: i64 = 131_072;
const FRACTION_MAX: i64 = 16_383;

struct Parts<'a> {
    weight: i16,
    sign: u16,
    shown: u16,
    digits: &'a [u8],
}

fn parts(bytes: &[u8]) -> Option<Parts<'_>> {
    let (head, digits) = bytes.split_first_chunk::<8>()?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let parts = Parts { weight: word(2) as i16, sign: word(4), shown: word(6), digits };
    let whole = usize::from(word(0)) * 2 == digits.len();
    let known = matches!(parts.sign, 0 | NEGATIVE | NAN | INFINITY | MINUS_INFINITY);
    let based = digits.chunks_exact(2).all(|d| u16::from_be_bytes([d[0], d[1]]) < BASE as u16);
    (whole && known && based).then_some(parts)
}

impl Parts<'_> {
    /// The digit that counts `BASE ** weight`s.
    fn digit(&self, weight: i32) -> u16 {
        let at = i32::from(self.weight) - weight;
        let pair = usize::try_from(at).ok().and_then(|at| self.digits.get(at * 2..at * 2 + 2));
        pair.map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]))
    }
}

/// As the server writes it; `None` for bytes that are no numeric.
pub(crate) fn text(bytes: &[u8], out: &mut String) -> Option<()> {
    let parts = parts(bytes)?;
    match parts.sign {
        NAN => out.push_str("NaN"),
        INFINITY => out.push_str("Infinity"),
        MINUS_INFINITY => out.push_str("-Infinity"),
        sign => {
            if sign == NEGATIVE {
                out.push('-');
            }
            write!(out, "{}", parts.digit(i32::from(parts.weight).max(0))).ok()?;
            for weight in (0..i32::from(parts.weight).max(0)).rev() {
                write!(out, "{:04}", parts.digit(weight)).ok()?;
            }
            let shown = usize::from(parts.shown);
            if shown > 0 {
                out.push('.');
                let end = out.len() + shown;
                for group in 1..=shown.div_ceil(GROUP) as i32 {
                    write!(out, "{:04}", parts.digit(-group)).ok()?;
                }
                out.truncate(end);
            }
        }
    }
    Some(())
}

/// The number times `10 ** scale`. `None` where it has more digits after the point, too many before
/// it, or is no number.
pub(crate) fn scaled(bytes: &[u8], scale: i8) -> Option<i128> {
    let parts = parts(bytes)?;
    if !matches!(parts.sign, 0 | NEGATIVE) {
        return None;
    }
    let scale = usize::try_from(scale).ok()?;
    let groups = scale.div_ceil(GROUP) as i32;
    let last = i32::from(parts.weight) - (parts.digits.len() / 2) as i32 + 1;
    if (last..-groups).any(|weight| parts.digit(weight) != 0) {
        return None;
    }
    let mut value = 0_i128;
    for weight in (-groups..=i32::from(parts.weight).max(0)).rev() {
        let digit = i128::from(parts.digit(weight));
        if weight == -groups && groups > 0 {
            // Of the last group only so many digits are within the scale.
            let kept = scale - (groups as usize - 1) * GROUP;
            let beyond = 10_i128.pow((GROUP - kept) as u32);
            if digit % beyond != 0 {
                return None;
            }
            value = value.checked_mul(10_i128.pow(kept as u32))?.checked_add(digit / beyond)?;
        } else {
            value = value.checked_mul(BASE)?.checked_add(digit)?;
        }
    }
    Some(if parts.sign == NEGATIVE { -value } else { value })
}

/// Appends `value / 10 ** scale`.
pub(crate) fn write_scaled(value: i128, scale: i8, out: &mut Vec<u8>) -> Result<(), String> {
    let mut digits = value.unsigned_abs().to_string();
    let fraction = match usize::try_from(scale) {
        Ok(scale) => scale,
        Err(_) => {
            digits.extend(std::iter::repeat_n('0', usize::from(scale.unsigned_abs())));
            0
        }
    };
    if digits.len() < fraction {
        digits.insert_str(0, &"0".repeat(fraction - digits.len()));
    }
    let (whole, fraction) = digits.split_at(digits.len() - fraction);
    write_digits(value < 0, whole, fraction, out)
}

/// Appends a number that is given in text.
pub(crate) fn write_text(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    let text = text.trim();
    let special = match text.to_ascii_lowercase().as_str() {
        "nan" => Some(NAN),
        "infinity" | "+infinity" | "inf" | "+inf" => Some(INFINITY),
        "-infinity" | "-inf" => Some(MINUS_INFINITY),
        _ => None,
    };
    if let Some(sign) = special {
        [0, 0, sign, 0].iter().for_each(|word| out.extend_from_slice(&word.to_be_bytes()));
        return Ok(());
    }
    let wrong = || "the text is no decimal number".to_owned();
    let (negative, number) = match text.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| wrong())?),
        None => (number, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    // Where the point is among the digits.
    let point = whole.len() as i64 + i64::from(exponent);
    let count = digits.len() as i64;
    if point > WHOLE_MAX || count - point > FRACTION_MAX {
        return Err("the number has more digits than a numeric takes".into());
    }
    let zeros = |n: i64| "0".repeat(n.max(0) as usize);
    let split = point.clamp(0, count) as usize;
    let whole = format!("{}{}", &digits[..split], zeros(point - count));
    let fraction = format!("{}{}", zeros(-point), &digits[split..]);
    write_digits(negative, &whole, &fraction, out)
}

fn write_digits(
    negative: bool,
    whole: &str,
    fraction: &str,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let whole = whole.trim_start_matches('0');
    let shown = u16::try_from(fraction.len()).map_err(|_| "the number has too many digits")?;
    let mut digits: Vec<u16> = Vec::with_capacity(whole.len() / GROUP + fraction.len() / GROUP + 2);
    let number = |group: &[u8]| group.iter().fold(0, |n, digit| n * 10 + u16::from(digit - b'0'));
    let (first, groups) = whole.as_bytes().split_at(whole.len() % GROUP);
    if !first.is_empty() {
        digits.push(number(first));
    }
    digits.extend(groups.chunks(GROUP).map(number));
    let mut weight = digits.len() as i64 - 1;
    for group in fraction.as_bytes().chunks(GROUP) {
        digits.push(number(group) * 10_u16.pow((GROUP - group.len()) as u32));
    }
    let leading = digits.iter().take_while(|digit| **digit == 0).count();
    digits.drain(..leading);
    weight -= leading as i64;
    while digits.last() == Some(&0) {
        digits.pop();
    }
    if digits.is_empty() {
        weight = 0;
    }
    let too_many = |_| "the number has too many digits".to_owned();
    let count = u16::try_from(digits.len()).map_err(too_many)?;
    let weight = i16::try_from(weight).map_err(|_| "the number has too many digits")?;
    let sign = if negative && !digits.is_empty() { NEGATIVE } else { 0 };
    for word in [count, weight as u16, sign, shown].iter().chain(&digits) {
        out.extend_from_slice(&word.to_be_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(number: &str) -> Vec<u8> {
        let mut out = Vec::new();
        write_text(number, &mut out).unwrap();
        out
    }

    #[test]
    fn a_number_comes_back_as_it_was_written() {
        for number in [
            "0",
            "0.00",
            "1",
            "-1",
            "10000",
            "99999999",
            "0.0001",
            "0.00001",
            "-12.340",
            "1234.5678",
            "123456789012345678901234567890.123456789",
            "10000.0001",
            "NaN",
            "Infinity",
            "-Infinity",
        ] {
            let mut text = String::new();
            super::text(&written(number), &mut text).unwrap();
            assert_eq!(text, number);
        }
        for (number, expected) in
            [("1e3", "1000"), ("1.5E-3", "0.0015"), (" +7 ", "7"), ("007", "7"), (".5", "0.5")]
        {
            let mut text = String::new();
            super::text(&written(number), &mut text).unwrap();
            assert_eq!(text, expected);
        }
        for wrong in ["", ".", "1.2.3", "x", "1e", "--1", "1e2147483647", "1e-99999"] {
            assert!(write_text(wrong, &mut Vec::new()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_scaled_number_comes_back_and_what_does_not_fit_is_told() {
        for (value, scale) in [
            (0, 0),
            (0, 5),
            (1, 4),
            (-12_345, 2),
            (i128::from(i64::MAX), 9),
            (10_i128.pow(38) - 1, 38),
            (-(10_i128.pow(38) - 1), 0),
        ] {
            let mut out = Vec::new();
            write_scaled(value, scale, &mut out).unwrap();
            assert_eq!(scaled(&out, scale), Some(value), "{value} {scale}");
        }
        let mut out = Vec::new();
        write_scaled(5, -2, &mut out).unwrap();
        assert_eq!(scaled(&out, 0), Some(500));
        assert_eq!(scaled(&written("0.125"), 2), None, "a digit would be lost");
        assert_eq!(scaled(&written("0.120"), 2), Some(12));
        assert_eq!(scaled(&written("0.12000001"), 2), None);
        assert_eq!(scaled(&written("3.00001"), 0), None);
        assert_eq!(scaled(&written("1e60"), 2), None);
        assert_eq!(scaled(&written("NaN"), 2), None);
        assert_eq!(scaled(&[0, 1, 0, 0], 2), None, "cut off");
    }
}
