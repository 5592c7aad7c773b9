//! What a pipeline waits for, in words: for `millstream pipelines`, and said once in the log.

use millstream_connectors::kafka::Troubles;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub struct Waits {
    reasons: Mutex<BTreeMap<String, Reason>>,
    /// What the clients of its Kafka clusters wait for.
    pub troubles: Troubles,
}

#[derive(Debug)]
struct Reason {
    words: String,
    /// What the log was told, and when.
    said: String,
    when: Instant,
}

/// One trouble may have many words, which take turns: they are not all said.
const SAID_EVERY: Duration = Duration::from_secs(5);

impl Waits {
    pub fn set(&self, what: &str, reason: &str) {
        let mut reasons = self.reasons.lock();
        match reasons.get_mut(what) {
            Some(known) => {
                known.words = reason.to_owned();
                if known.said != reason && known.when.elapsed() >= SAID_EVERY {
                    tracing::warn!("waiting: {reason}");
                    known.said = reason.to_owned();
                    known.when = Instant::now();
                }
            }
            None => {
                tracing::warn!("waiting: {reason}");
                let (words, said) = (reason.to_owned(), reason.to_owned());
                reasons.insert(what.to_owned(), Reason { words, said, when: Instant::now() });
            }
        }
    }

    pub fn clear(&self, what: &str) {
        if self.reasons.lock().remove(what).is_some() {
            tracing::info!("{what} answers again");
        }
    }

    /// Whoever waited for it does not any more, though it did not come.
    pub fn give_up(&self, what: &str) {
        self.reasons.lock().remove(what);
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
