//! The topics that a source reads, looked at again and again: a list, or those that a pattern
//! matches.

use super::super::cluster::{Cluster, Topic};
use super::super::fetcher::Backoff;
use super::assignor::TopicPartition;
use millstream_core::{Error, Result};
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone)]
pub enum Topics {
    Named(Vec<Arc<str>>),
    /// All topics whose whole name matches.
    Matching(Regex),
}

/// What the brokers have of them now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in super::super) struct Subscribed {
    pub topics: BTreeMap<Arc<str>, Topic>,
}

impl Topics {
    /// A pattern that must match a topic's whole name.
    pub fn matching(pattern: &str) -> Result<Self> {
        let whole = Regex::new(&format!("^(?:{pattern})$")).map_err(|e| {
            Error::stop("pattern", format!("`{pattern}` is not a regular expression")).because(e)
        })?;
        Ok(Topics::Matching(whole))
    }

    pub(in super::super) async fn look(&self, cluster: &Cluster) -> Result<Subscribed> {
        let topics = match self {
            Topics::Named(names) => cluster.refresh(Some(names)).await?,
            Topics::Matching(pattern) => {
                let mut topics = cluster.refresh(None).await?;
                topics.retain(|name, _| pattern.is_match(name));
                topics
            }
        };
        Ok(Subscribed { topics })
    }

    /// The topics that are named but not there.
    pub(in super::super) fn missing(&self, found: &Subscribed) -> Vec<Arc<str>> {
        match self {
            Topics::Named(names) => {
                names.iter().filter(|name| !found.topics.contains_key(*name)).cloned().collect()
            }
            Topics::Matching(_) => Vec::new(),
        }
    }
}

impl Subscribed {
    pub fn names(&self) -> BTreeSet<Arc<str>> {
        self.topics.keys().cloned().collect()
    }

    pub fn partitions(&self) -> impl Iterator<Item = TopicPartition> {
        self.topics.iter().flat_map(|(name, topic)| {
            (0..topic.partitions.len() as i32).map(move |index| (name.clone(), index))
        })
    }

    /// The same topics with as many partitions, whoever leads them.
    pub fn same_shape(&self, other: &Subscribed) -> bool {
        let shape = |s: &Subscribed| -> Vec<_> {
            s.topics.iter().map(|(n, t)| (n.clone(), t.id, t.partitions.len())).collect()
        };
        shape(self) == shape(other)
    }
}

/// Keeps `told` at what the brokers have. `now` asks for a look at once.
pub(super) async fn watch(
    topics: Topics,
    cluster: Cluster,
    told: watch::Sender<Arc<Subscribed>>,
    now: Arc<Notify>,
    stop: CancellationToken,
) {
    let trouble = cluster.trouble("looking for topics");
    let mut backoff = Backoff::new();
    loop {
        let every = cluster.options().metadata_refresh;
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = now.notified() => {}
            () = stop.cancelled() => return,
        }
        let looked = tokio::select! {
            looked = topics.look(&cluster) => looked,
            () = stop.cancelled() => return,
        };
        match looked {
            Ok(found) => {
                let missing = topics.missing(&found);
                match missing.is_empty() {
                    true => trouble.goes_on(0),
                    false => {
                        let told = format!("there is no topic `{}`", missing.join("`, `"));
                        trouble.waits(0, &Error::retry("no_topic", told));
                    }
                }
                backoff = Backoff::new();
                let changed = !told.borrow().same_shape(&found);
                if changed {
                    told.send_replace(Arc::new(found));
                }
            }
            Err(error) => {
                trouble.waits(0, &error);
                now.notify_one();
                tokio::select! {
                    () = backoff.wait() => {}
                    () = stop.cancelled() => return,
                }
            }
        }
    }
}
