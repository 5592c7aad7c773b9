//! Values that people write: places in a topic, durations, sizes, columns.

use jiff::{SignedDuration, Timestamp};
use millstream_console::Position;

/// `earliest`, `latest`, an offset, a time (`2026-01-31T12:00:00Z`), or how long ago (`15m`).
pub fn position(text: &str) -> Result<Position, String> {
    match text {
        "earliest" => return Ok(Position::Earliest),
        "latest" => return Ok(Position::Latest),
        _ => {}
    }
    if let Ok(offset) = text.parse::<i64>() {
        return match offset {
            0.. => Ok(Position::Offset(offset)),
            _ => Ok(Position::Last(offset.unsigned_abs())),
        };
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(Position::Time(at.as_millisecond()));
    }
    if let Ok(date) = text.parse::<jiff::civil::Date>()
        && let Ok(at) = date.to_zoned(jiff::tz::TimeZone::UTC)
    {
        return Ok(Position::Time(at.timestamp().as_millisecond()));
    }
    if let Ok(ms) = duration_ms(text)
        && let Ok(ms) = i64::try_from(ms)
        && let Ok(at) = Timestamp::now().checked_sub(SignedDuration::from_millis(ms))
    {
        return Ok(Position::Time(at.as_millisecond()));
    }
    Err("write `earliest`, `latest`, an offset, -N for the last N records, a time as \
         2026-01-31T12:00:00Z, or how long ago as 15m"
        .into())
}

/// The same without `-N`: where a pipeline may be set to.
pub fn reset_position(text: &str) -> Result<Position, String> {
    match position(text) {
        Ok(Position::Last(_)) => Err("an offset is 0 or more".into()),
        Ok(position) => Ok(position),
        Err(_) => Err("write `earliest`, `latest`, an offset, a time as 2026-01-31T12:00:00Z, or \
                       how long ago as 15m"
            .into()),
    }
}

/// How long something lives.
pub fn lifetime_ms(text: &str) -> Result<u64, String> {
    match duration_ms(text)? {
        0 => Err("what lives for no time is never there: write at least 1ms".into()),
        ms => Ok(ms),
    }
}

/// `300ms`, `30s`, `15m`, `12h`, `7d`, `1w`.
pub fn duration_ms(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 7 * 86_400_000,
        _ => 0,
    };
    match number.parse::<u64>() {
        Ok(number) if unit > 0 => {
            number.checked_mul(unit).ok_or_else(|| format!("{text} is too long a time"))
        }
        _ => Err("write a number and ms, s, m, h, d or w, as in 30s or 7d".into()),
    }
}

/// `512`, `64KiB`, `1GiB`; `k`, `M` and `G` stand for the same.
pub fn size_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "B" => Some(0),
        "k" | "K" | "KB" | "KiB" => Some(10),
        "M" | "MB" | "MiB" => Some(20),
        "G" | "GB" | "GiB" => Some(30),
        _ => None,
    };
    match (number.parse::<u64>(), shift) {
        (Ok(number), Some(shift)) => {
            number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is too much"))
        }
        _ => Err("write a number and KiB, MiB or GiB, as in 512MiB".into()),
    }
}

/// `NAME:TYPE`.
pub fn column(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, kind)) if !name.is_empty() && !kind.is_empty() => {
            millstream_core::types::parse(kind)?;
            Ok((name.to_owned(), kind.to_owned()))
        }
        _ => Err("write NAME:TYPE, as in id:bigint".into()),
    }
}

/// `PARTITION:OFFSET`.
pub fn letter(text: &str) -> Result<(u32, i64), String> {
    let parts = text.split_once(':').and_then(|(partition, offset)| {
        Some((partition.parse().ok()?, offset.parse().ok().filter(|offset| *offset >= 0)?))
    });
    parts.ok_or_else(|| "write PARTITION:OFFSET, as `millstream dead-letters list` shows it".into())
}

/// `NAME=SUBJECT:VERSION`.
pub fn reference(text: &str) -> Result<(String, String, i64), String> {
    let parts = text.split_once('=').and_then(|(name, rest)| {
        let (subject, version) = rest.rsplit_once(':')?;
        Some((name.to_owned(), subject.to_owned(), version.parse().ok()?))
    });
    parts.ok_or_else(|| "write NAME=SUBJECT:VERSION, as in shop.Item=item-value:1".into())
}

/// One character that fits in a byte; `\t` is a tab.
pub fn delimiter(text: &str) -> Result<char, String> {
    let mut characters = text.chars();
    match (text, characters.next(), characters.next()) {
        ("\\t", _, _) => Ok('\t'),
        (_, Some(one), None) if one.is_ascii() => Ok(one),
        _ => Err("write one ASCII character, or \\t for a tab".into()),
    }
}

/// A separator of one or more characters; `\t` is a tab.
pub fn separator(text: &str) -> Result<String, String> {
    match text {
        "" => Err("write at least one character".into()),
        "\\t" => Ok("\t".into()),
        text => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_people_write_them() {
        for (text, expected) in [
            ("earliest", Position::Earliest),
            ("latest", Position::Latest),
            ("0", Position::Offset(0)),
            ("42", Position::Offset(42)),
            ("-5", Position::Last(5)),
            ("2026-01-31T12:00:00Z", Position::Time(1_769_860_800_000)),
            ("1970-01-02", Position::Time(86_400_000)),
        ] {
            assert_eq!(position(text), Ok(expected), "{text}");
        }
        let Ok(Position::Time(at)) = position("1h") else { panic!("a time") };
        let age = Timestamp::now().as_millisecond() - at;
        assert!((3_600_000..3_660_000).contains(&age), "{age}");
        for text in ["", "soon", "12x", "2026-13-01", "99999999999999999999"] {
            assert!(position(text).is_err(), "{text}");
        }
        assert!(reset_position("-1").is_err());
        assert!(!reset_position("soon").unwrap_err().contains("-N"));
    }

    #[test]
    fn durations_and_sizes_have_units() {
        assert_eq!(duration_ms("300ms"), Ok(300));
        assert_eq!(duration_ms("7d"), Ok(604_800_000));
        assert_eq!(duration_ms("1w"), Ok(604_800_000));
        assert!(lifetime_ms("0s").is_err() && lifetime_ms("1ms") == Ok(1));
        assert_eq!(size_bytes("64KiB"), Ok(65_536));
        assert_eq!(size_bytes("10"), Ok(10));
        for text in ["", "5", "d", "-1s", "99999999999999999999d", "1.5h"] {
            assert!(duration_ms(text).is_err(), "{text}");
        }
        for text in ["", "KiB", "1TiB", "99999999999999999999"] {
            assert!(size_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_with_a_type_a_letter_a_reference() {
        assert_eq!(column("id:bigint"), Ok(("id".into(), "bigint".into())));
        assert!(column("id:bigin").is_err() && column("id").is_err());
        assert_eq!(letter("3:17"), Ok((3, 17)));
        assert!(letter("3").is_err() && letter("3:-1").is_err());
        assert_eq!(reference("a.B=s-value:2"), Ok(("a.B".into(), "s-value".into(), 2)));
        assert_eq!(delimiter("\\t"), Ok('\t'));
        assert!(delimiter(";;").is_err());
    }
}
