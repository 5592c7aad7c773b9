//! What a pipeline waits for, in words: for `millstream pipelines`, and said once in the log.

use millstream_connectors::kafka::Troubles;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub struct Waits {
    reasons: Mutex<BTreeMap<String, Reason>>,
    /// How many have waited so far.
    waiters: AtomicU64,
    /// What the clients of its Kafka clusters wait for.
    pub troubles: Troubles,
}

#[derive(Debug)]
struct Reason {
    words: String,
    /// What the log was told, and when.
    said: String,
    when: Instant,
    /// Who waits for it; nobody where it was told to stay.
    by: BTreeSet<u64>,
}

/// One who may have to wait for something. When it is dropped it does not wait any more: it got what
/// it wanted, failed for another reason, or its task was ended.
pub struct Waiting<'a> {
    waits: &'a Waits,
    what: &'a str,
    /// Its number while it waits.
    number: Option<u64>,
}

/// One trouble may have many words, which take turns: they are not all said.
const SAID_EVERY: Duration = Duration::from_secs(5);

impl Waits {
    pub fn waiting<'a>(&'a self, what: &'a str) -> Waiting<'a> {
        Waiting { waits: self, what, number: None }
    }

    /// Stays until it is cleared.
    pub fn set(&self, what: &str, reason: &str) {
        self.tell(what, reason, None);
    }

    pub fn clear(&self, what: &str) {
        if self.reasons.lock().remove(what).is_some() {
            tracing::info!("{what} answers again");
        }
    }

    fn tell(&self, what: &str, reason: &str, by: Option<u64>) {
        let mut reasons = self.reasons.lock();
        let known = match reasons.get_mut(what) {
            Some(known) => {
                known.words = reason.to_owned();
                if known.said != reason && known.when.elapsed() >= SAID_EVERY {
                    tracing::warn!("waiting: {reason}");
                    known.said = reason.to_owned();
                    known.when = Instant::now();
                }
                known
            }
            None => {
                tracing::warn!("waiting: {reason}");
                let (words, said) = (reason.to_owned(), reason.to_owned());
                let reason = Reason { words, said, when: Instant::now(), by: BTreeSet::new() };
                reasons.entry(what.to_owned()).or_insert(reason)
            }
        };
        known.by.extend(by);
    }

    /// True when it was the last who waited.
    fn leave(&self, what: &str, number: u64) -> bool {
        let mut reasons = self.reasons.lock();
        let Some(reason) = reasons.get_mut(what) else { return false };
        let was_last = reason.by.remove(&number) && reason.by.is_empty();
        if was_last {
            reasons.remove(what);
        }
        was_last
    }

    /// Nobody waits any more: the tasks that did were stopped.
    pub fn forget(&self) {
        self.reasons.lock().clear();
    }

    pub fn all(&self) -> Vec<String> {
        let mut all: Vec<String> =
            self.reasons.lock().values().map(|reason| reason.words.clone()).collect();
        all.extend(self.troubles.all());
        all
    }
}

impl Waiting<'_> {
    pub fn set(&mut self, reason: &str) {
        let next = || self.waits.waiters.fetch_add(1, Ordering::Relaxed);
        let number = *self.number.get_or_insert_with(next);
        self.waits.tell(self.what, reason, Some(number));
    }

    /// It has what it waited for.
    pub fn done(&mut self) {
        if let Some(number) = self.number.take()
            && self.waits.leave(self.what, number)
        {
            tracing::info!("{} answers again", self.what);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.waits.leave(self.what, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_stays_while_somebody_waits() {
        let waits = Waits::default();
        let mut one = waits.waiting("store");
        let mut other = waits.waiting("store");
        one.set("it is away");
        other.set("it is away");
        drop(one);
        assert_eq!(waits.all(), ["it is away"], "the other waits still");
        other.done();
        assert!(waits.all().is_empty());
        drop(other);
        waits.set("group", "another has its place");
        let mut third = waits.waiting("store");
        third.set("it is away");
        drop(third);
        assert_eq!(waits.all(), ["another has its place"]);
    }
}
