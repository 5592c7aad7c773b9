//! Numbers, sizes and times as people read them.

use jiff::Timestamp;

/// `1,234,567`.
pub fn count(number: impl Into<i128>) -> String {
    let number: i128 = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// `1 record`, `1,234 records`.
pub fn counted(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", count(number))
}

/// `1.5 MiB`.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{number} B"),
        _ if value < 10.0 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// A duration given in milliseconds: `250 µs`, `3.2 ms`, `1.5 s`, `7d`.
pub fn ms(ms: f64) -> String {
    const DAY: f64 = 86_400_000.0;
    match ms {
        ms if ms < 1.0 => format!("{:.0} µs", ms * 1000.0),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms if ms < 60_000.0 => format!("{:.1} s", ms / 1000.0),
        ms if ms < 3_600_000.0 => format!("{:.0}m", ms / 60_000.0),
        ms if ms < DAY => format!("{:.0}h", ms / 3_600_000.0),
        ms => format!("{:.0}d", ms / DAY),
    }
}

/// `99.4 %`.
pub fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".into(),
        _ => format!("{:.1} %", 100.0 * part as f64 / whole as f64),
    }
}

/// Milliseconds since 1970 in UTC, to the millisecond.
pub fn time(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(at) => format!("{at:.3}"),
        Err(_) => format!("{ms} ms"),
    }
}

/// The beginning of a text, on one line.
pub fn short(text: &str, characters: usize) -> String {
    let mut shown: String =
        text.chars().take(characters).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(characters).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(-1_234_567i64), "-1,234,567");
        assert_eq!(counted(1, "row"), "1 row");
        assert_eq!(counted(2_000, "row"), "2,000 rows");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(10 << 20), "10 MiB");
        assert_eq!(ms(0.25), "250 µs");
        assert_eq!(ms(3.21), "3.2 ms");
        assert_eq!(ms(604_800_000.0), "7d");
        assert_eq!(percent(994, 1000), "99.4 %");
        assert_eq!(percent(0, 0), "-");
        assert_eq!(time(1_769_860_800_123), "2026-01-31T12:00:00.123Z");
        assert_eq!(short("abc\ndef", 4), "abc …");
    }
}
