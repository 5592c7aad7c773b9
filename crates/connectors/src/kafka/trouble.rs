//! What the clients of a cluster wait for: said in one line when it begins and in one when it is over,
//! and told to whoever asks meanwhile.
//!
//! ```text
//!  Trouble of a producer, part: a partition ──┐
//!  Trouble of another,    part: a partition ──┼─► subject `writing to …` ─► one line, one reason
//!  Trouble of the fetcher, part: a broker ────┴─► subject `fetching for …`
//! ```
//!
//! A subject is in trouble while one of its parts is, however many there are and however often each
//! is tried again.

use millstream_core::Error;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// What is over so soon is no news to those who ask.
const NEWS_AFTER: Duration = Duration::from_secs(1);
/// A subject that was out of trouble for less has not changed for a reader of the log.
const CALM_AFTER: Duration = Duration::from_secs(2);

/// Tells the parts of one subject apart when they belong to several tasks.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The troubles of one or more clusters. Cheap to clone.
#[derive(Clone, Default)]
pub struct Troubles {
    subjects: Arc<Mutex<BTreeMap<Arc<str>, Subject>>>,
}

#[derive(Default)]
struct Subject {
    parts: BTreeMap<(u64, i64), Part>,
    /// The kinds of trouble that are in the log since it began.
    said: BTreeSet<&'static str>,
    /// Something was said that is not over.
    is_told: bool,
    ended: Option<Instant>,
}

struct Part {
    since: Instant,
    reason: String,
}

/// One who has troubles with a subject; dropped, it has none.
pub(super) struct Trouble {
    troubles: Troubles,
    /// What is being tried.
    subject: Arc<str>,
    number: u64,
}

impl Troubles {
    /// What is waited for now, a line a subject.
    pub fn all(&self) -> Vec<String> {
        let subjects = self.subjects.lock();
        let lasting = |subject: &Subject| {
            let oldest = subject.parts.values().min_by_key(|part| part.since)?;
            (oldest.since.elapsed() >= NEWS_AFTER).then(|| oldest.reason.clone())
        };
        subjects
            .iter()
            .filter_map(|(name, subject)| Some(format!("{name}: {}", lasting(subject)?)))
            .collect()
    }

    pub(super) fn of(&self, subject: impl Into<Arc<str>>) -> Trouble {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Trouble { troubles: self.clone(), subject: subject.into(), number }
    }
}

impl fmt::Debug for Troubles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

impl Trouble {
    /// A part cannot go on now. Parts are the caller's to number.
    pub fn waits(&self, part: i64, error: &Error) {
        let mut subjects = self.troubles.subjects.lock();
        let subject = subjects.entry(self.subject.clone()).or_default();
        let reason = error.chain();
        let now = Instant::now();
        if subject.ended.take_if(|ended| now - *ended >= CALM_AFTER).is_some() {
            subject.said.clear();
        }
        if subject.said.insert(error.kind()) {
            tracing::warn!("{}: trying again: {reason}", self.subject);
            subject.is_told = true;
        }
        let part = subject.parts.entry((self.number, part));
        part.or_insert(Part { since: now, reason: String::new() }).reason = reason;
    }

    /// The part goes on.
    pub fn goes_on(&self, part: i64) {
        self.remove(|of, number| of == self.number && number == part, true);
    }

    /// Keeps those of its parts that are still somebody's.
    pub fn retain(&self, keep: impl Fn(i64) -> bool) {
        self.remove(|of, number| of == self.number && !keep(number), true);
    }

    fn remove(&self, gone: impl Fn(u64, i64) -> bool, goes_on: bool) {
        let mut subjects = self.troubles.subjects.lock();
        let Some(subject) = subjects.get_mut(&self.subject) else { return };
        if subject.parts.is_empty() {
            return;
        }
        subject.parts.retain(|(of, number), _| !gone(*of, *number));
        if subject.parts.is_empty() {
            subject.ended = Some(Instant::now());
            if std::mem::take(&mut subject.is_told) && goes_on {
                tracing::info!("{}: goes on", self.subject);
            }
        }
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.remove(|of, _| of == self.number, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: &'static str) -> Error {
        Error::retry(kind, format!("it is {kind}"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_subject_is_in_trouble_while_one_of_its_parts_is() {
        let troubles = Troubles::default();
        let (one, other) = (troubles.of("writing"), troubles.of("writing"));
        one.waits(0, &error("away"));
        other.waits(0, &error("full"));
        assert_eq!(troubles.all(), [""; 0], "what passes at once is no news");
        tokio::time::advance(NEWS_AFTER).await;
        assert_eq!(troubles.all(), ["writing: it is away"]);
        one.goes_on(0);
        one.goes_on(1);
        assert_eq!(troubles.all(), ["writing: it is full"]);
        drop(other);
        assert_eq!(troubles.all(), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_is_said_once_until_there_was_calm() {
        let troubles = Troubles::default();
        let one = troubles.of("reading");
        let said = || troubles.subjects.lock()["reading"].said.len();
        for _ in 0..9 {
            one.waits(3, &error("away"));
            one.waits(4, &error("full"));
            one.goes_on(4);
        }
        one.retain(|part| part != 3);
        assert_eq!(said(), 2);
        one.waits(3, &error("away"));
        assert_eq!(said(), 2, "it is the same trouble");
        one.goes_on(3);
        tokio::time::advance(CALM_AFTER).await;
        one.waits(3, &error("away"));
        assert_eq!(said(), 1, "it is a new one");
    }
}
