//! What the service says of how much it takes. See <https://develop.sentry.dev/sdk/expected-features/rate-limiting/>.

use std::time::{Duration, Instant, SystemTime};

/// After a 429 that does not say for how long.
const PAUSE: Duration = Duration::from_secs(60);
/// Whatever is said, it is tried again after a day.
const PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Until when nothing may be sent.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    until: Option<Instant>,
}

impl Limits {
    pub fn forbid(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Takes in an answer: its status, its `X-Sentry-Rate-Limits` and its `Retry-After`.
    pub fn learn(
        &mut self,
        now: Instant,
        status: u16,
        limits: Option<&str>,
        retry_after: Option<&str>,
    ) {
        let pause = match limits {
            // It is more exact, and comes with other answers too.
            Some(limits) => of_errors(limits),
            None if status == 429 => Some(retry_after.and_then(period).unwrap_or(PAUSE)),
            None => None,
        };
        if let Some(pause) = pause {
            let until = now + pause.min(PAUSE_MAX);
            self.until = Some(self.until.map_or(until, |known| known.max(until)));
        }
    }
}

/// The longest pause that a list such as `60:error;default:key, 2700::organization` asks for events
/// of errors. A limit without categories is one of everything.
fn of_errors(limits: &str) -> Option<Duration> {
    let pauses = limits.split(',').filter_map(|limit| {
        let mut parts = limit.trim().split(':');
        let pause = period(parts.next()?)?;
        let categories = parts.next().unwrap_or_default().trim();
        let ours = |category: &str| matches!(category.trim(), "" | "error" | "default");
        categories.split(';').any(ours).then_some(pause)
    });
    pauses.max()
}

/// Seconds, or a date as HTTP writes it.
fn period(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds.ceil()).ok();
    }
    let parser = jiff::fmt::rfc2822::DateTimeParser::new();
    let at = SystemTime::from(parser.parse_timestamp(text).ok()?);
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For how many seconds nothing is sent after this answer.
    fn paused(status: u16, limits: Option<&str>, retry_after: Option<&str>) -> u64 {
        let now = Instant::now();
        let mut known = Limits::default();
        known.learn(now, status, limits, retry_after);
        known.until.map_or(0, |until| (until - now).as_secs())
    }

    #[test]
    fn limits_are_those_of_errors() {
        for (limits, seconds) in [
            ("60::organization", 60),
            ("60:error:key", 60),
            ("2700:default;error;security:organization", 2700),
            ("60:transaction:key, 30:error:project, 10::key", 30),
            ("60:transaction;session:key", 0),
            ("nonsense", 0),
            ("", 0),
            ("-5::key", 0),
            ("1e300::key", 0),
            ("99999999::key", 86400),
            ("2.5::key", 3),
        ] {
            assert_eq!(paused(200, Some(limits), None), seconds, "{limits}");
            assert_eq!(paused(429, Some(limits), Some("7")), seconds, "{limits}");
        }
    }

    #[test]
    fn without_them_a_429_says_when_or_a_minute_it_is() {
        assert_eq!(paused(429, None, Some("120")), 120);
        assert_eq!(paused(429, None, None), 60);
        assert_eq!(paused(429, None, Some("soon")), 60);
        assert_eq!(paused(429, None, Some("Wed, 21 Oct 2015 07:28:00 GMT")), 0);
        assert_eq!(paused(429, None, Some("Fri, 21 Oct 2095 07:28:00 GMT")), 86400);
        assert_eq!(paused(200, None, Some("120")), 0);
        assert_eq!(paused(503, None, Some("120")), 0);
    }

    #[test]
    fn a_shorter_limit_ends_no_longer_one() {
        let now = Instant::now();
        let mut known = Limits::default();
        known.learn(now, 429, None, Some("100"));
        known.learn(now, 429, None, Some("10"));
        assert!(known.forbid(now + Duration::from_secs(99)));
        assert!(!known.forbid(now + Duration::from_secs(100)));
    }
}
