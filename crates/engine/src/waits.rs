//! What a pipeline waits for, in words: for `millstream pipelines`, and said once in the log.

use millstream_connectors::kafka::Troubles;
use parking_lot::Mutex;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Waits {
    reasons: Mutex<BTreeMap<String, String>>,
    /// What the clients of its Kafka clusters wait for.
    pub troubles: Troubles,
}

impl Waits {
    pub fn set(&self, what: &str, reason: &str) {
        let mut reasons = self.reasons.lock();
        if reasons.get(what).map(String::as_str) != Some(reason) {
            tracing::warn!("waiting: {reason}");
            reasons.insert(what.to_owned(), reason.to_owned());
        }
    }

    pub fn clear(&self, what: &str) {
        if self.reasons.lock().remove(what).is_some() {
            tracing::info!("{what} answers again");
        }
    }

    /// Nobody waits any more: the tasks that did were stopped.
    pub fn forget(&self) {
        self.reasons.lock().clear();
    }

    pub fn all(&self) -> Vec<String> {
        let mut all: Vec<String> = self.reasons.lock().values().cloned().collect();
        all.extend(self.troubles.all());
        all
    }
}
