//! What a server answers, and what that asks of the one who asked.

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header;
use millstream_core::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A server that wants to be left alone for longer is asked again after this.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// As much of a body is told as a reason.
const SAID_MAX: usize = 200;

/// An answer that was read to its end, but for what is longer than may be read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub pause: Option<Duration>,
    pub location: bool,
    /// `None` when it is too long.
    pub body: Option<Bytes>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Done,
    /// Nothing is there.
    Absent,
    TooLarge,
    /// The content is to blame.
    Refused,
    /// It may go well later.
    Again,
    /// It goes well when somebody has changed something.
    Held,
}

impl Answer {
    pub fn meaning(&self) -> Meaning {
        match self.status {
            200..=299 => Meaning::Done,
            404 | 410 => Meaning::Absent,
            413 => Meaning::TooLarge,
            400 | 409 | 412 | 414 | 416 | 417 | 422 | 431 => Meaning::Refused,
            408 | 421 | 423 | 424 | 425 | 429 | 500..=599 => Meaning::Again,
            _ => Meaning::Held,
        }
    }

    /// `asked` names the method and the address.
    pub fn error(&self, asked: &str) -> Error {
        let status = self.status;
        let said = self.said();
        match self.meaning() {
            Meaning::Again if status == 429 => {
                Error::retry("throttled", format!("{asked}: HTTP {status}{said}"))
            }
            Meaning::Again => Error::retry("unavailable", format!("{asked}: HTTP {status}{said}")),
            Meaning::Held => {
                let (kind, change) = match status {
                    401 | 403 | 407 => {
                        ("not_allowed", "give it a user or a token that may do this")
                    }
                    300..=399 if self.location => {
                        ("refused", "it sends us elsewhere: write that address")
                    }
                    _ => ("refused", "is this its address, and its method?"),
                };
                Error::retry(kind, format!("{asked}: HTTP {status}; {change}{said}"))
            }
            Meaning::TooLarge => {
                Error::reject("too_large", format!("{asked}: HTTP {status}, it is too large{said}"))
            }
            _ => Error::reject("refused", format!("{asked}: HTTP {status}{said}")),
        }
    }

    /// The beginning of its text.
    fn said(&self) -> String {
        let Some(body) = &self.body else { return String::new() };
        let text = String::from_utf8_lossy(&body[..body.len().min(SAID_MAX)]);
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        match text.trim() {
            "" => String::new(),
            text => format!(": {text}"),
        }
    }
}

/// What `Retry-After` says.
pub(crate) fn pause(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = UNIX_EPOCH + Duration::from_secs(http_date(text)?);
            at.duration_since(now).unwrap_or_default()
        }
    };
    Some(pause.min(PAUSE_MAX))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in seconds since 1970.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut parts = text.split_once(", ")?.1.split(' ');
    let day: i64 = parts.next()?.parse().ok()?;
    let word = parts.next()?;
    let month = MONTHS.iter().position(|month| *month == word)? as i64 + 1;
    let year: i64 = parts.next()?.parse().ok()?;
    let mut clock = parts.next()?.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if !(1970..10_000).contains(&year) || parts.next() != Some("GMT") {
        return None;
    }
    // Years begin with March, so that leap days come last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    u64::try_from(days * 86_400 + hour * 3_600 + minute * 60 + second).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_in_seconds_or_until_a_date() {
        let pause = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            super::pause(&headers, UNIX_EPOCH + Duration::from_secs(784_111_777 - 5))
        };
        assert_eq!(pause("7"), Some(Duration::from_secs(7)));
        assert_eq!(pause("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(5)));
        assert_eq!(pause("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO));
        assert_eq!(pause("999999999"), Some(PAUSE_MAX));
        for wrong in ["soon", "Sun, 06 Now 1994 08:49:37 GMT", "-1", "Sun, 06 Nov"] {
            assert_eq!(pause(wrong), None, "{wrong}");
        }
    }
}
