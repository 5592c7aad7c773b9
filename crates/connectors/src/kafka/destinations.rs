//! What the sinks must know of the topics they write: how many partitions, how large a batch may be,
//! whether every record needs a key. Asked once in a while, shared by all tasks of a sink.

use super::cluster::Cluster;
use super::error::answered;
use kafka_protocol::messages::DescribeConfigsRequest;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::protocol::StrBytes;
use millstream_core::{Disposition, Error, Result};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// What a broker takes when it does not say.
const BYTES_MAX_DEFAULT: usize = 1_048_588;
/// How long a batch that was refused bounds the next ones: an operator may allow larger ones.
const LEARNT_FOR: Duration = Duration::from_secs(300);
/// How long a topic is written with care after one of its records was refused.
const CARE_FOR: Duration = Duration::from_secs(60);
/// The number of topics among the kinds of things that have settings.
const TOPIC: i8 = 2;

/// Cheap to clone.
#[derive(Clone)]
pub struct Destinations {
    shared: Arc<Shared>,
}

struct Shared {
    cluster: Cluster,
    known: Mutex<HashMap<Arc<str>, (Instant, Destination)>>,
    /// What brokers refused though their settings allow it.
    learnt: Mutex<HashMap<Arc<str>, (Instant, usize)>>,
    /// Topics that are being asked about for nobody who waits.
    asking: Mutex<HashSet<Arc<str>>>,
    /// When a broker last refused single records of a topic.
    refused: Mutex<HashMap<Arc<str>, Instant>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Destination {
    /// Nil where the brokers are too old to have ids.
    pub id: Uuid,
    pub partitions: u32,
    /// A batch's bytes, at most.
    pub bytes_max: usize,
    /// A compacted topic takes no record without one.
    pub wants_keys: bool,
}

impl Destinations {
    pub fn new(cluster: Cluster) -> Self {
        Self {
            shared: Arc::new(Shared {
                cluster,
                known: Mutex::default(),
                learnt: Mutex::default(),
                asking: Mutex::default(),
                refused: Mutex::default(),
            }),
        }
    }

    /// Sees that a topic is there and may be seen.
    pub async fn check(&self, topic: &Arc<str>) -> Result<()> {
        self.get(topic).await.map(drop)
    }

    /// How many partitions a topic has.
    pub async fn partitions(&self, topic: &Arc<str>) -> Result<u32> {
        self.get(topic).await.map(|destination| destination.partitions)
    }

    /// What a topic was when it was there and ours to write.
    pub(super) fn known(&self, topic: &Arc<str>) -> Option<Destination> {
        self.shared.known.lock().get(topic).map(|(_, destination)| *destination)
    }

    pub(super) async fn get(&self, topic: &Arc<str>) -> Result<Destination> {
        let shared = &self.shared;
        let fresh = shared.cluster.options().metadata_refresh;
        let known = shared.known.lock().get(topic).copied();
        if let Some((when, destination)) = known
            && when.elapsed() < fresh
        {
            return Ok(destination);
        }
        let destination = match self.ask(topic).await {
            Ok(destination) => destination,
            // What was so a moment ago will do while the brokers cannot be asked.
            Err(error) => match known {
                Some((_, destination)) if error.disposition() == Disposition::Retry => destination,
                _ => return Err(error),
            },
        };
        shared.known.lock().insert(topic.clone(), (Instant::now(), destination));
        Ok(destination)
    }

    async fn ask(&self, topic: &Arc<str>) -> Result<Destination> {
        let shared = &self.shared;
        let found = shared.cluster.refresh(Some(std::slice::from_ref(topic))).await?;
        let found =
            found.get(topic).filter(|found| !found.partitions.is_empty()).ok_or_else(|| {
                Error::stop(
                    "no_topic",
                    format!(
                        "there is no topic `{topic}` on {}: create it, or correct its name",
                        shared.cluster.brokers()
                    ),
                )
            })?;
        // Records are refused for what the settings say: a guess will not do where they will be told.
        let settings = match self.settings(topic).await {
            Err(error) if error.disposition() == Disposition::Retry => return Err(error),
            told => told.unwrap_or_default(),
        };
        let bytes_max = settings.get("max.message.bytes").and_then(|text| text.parse().ok());
        let learnt = self.learnt(topic);
        Ok(Destination {
            id: found.id,
            partitions: found.partitions.len() as u32,
            bytes_max: bytes_max.unwrap_or(BYTES_MAX_DEFAULT).min(learnt),
            wants_keys: settings.get("cleanup.policy").is_some_and(|text| text.contains("compact")),
        })
    }

    /// A user who may write a topic need not be allowed to see its settings.
    async fn settings(&self, topic: &str) -> Result<HashMap<String, String>> {
        let keys = ["max.message.bytes", "cleanup.policy"].map(StrBytes::from_static_str);
        let request = DescribeConfigsRequest::default().with_resources(vec![
            DescribeConfigsResource::default()
                .with_resource_type(TOPIC)
                .with_resource_name(StrBytes::from_string(topic.to_owned()))
                .with_configuration_keys(Some(keys.to_vec())),
        ]);
        let response = self.shared.cluster.ask(&request, 4).await?;
        if let Some(refused) = response.results.iter().find(|result| result.error_code != 0) {
            return Err(answered(
                format!("asking for the settings of topic `{topic}`"),
                refused.error_code,
            ));
        }
        let settings = response.results.into_iter().flat_map(|result| result.configs);
        Ok(settings
            .filter_map(|s| Some((s.name.as_str().to_owned(), s.value?.as_str().to_owned())))
            .collect())
    }

    /// Records were refused for what they are: for a while each batch is waited for, so that the
    /// next such record costs itself only.
    pub(super) fn refused(&self, topic: &Arc<str>) {
        self.shared.refused.lock().insert(topic.clone(), Instant::now());
    }

    pub(super) fn wants_care(&self, topic: &Arc<str>) -> bool {
        let refused = self.shared.refused.lock();
        refused.get(topic).is_some_and(|when| when.elapsed() < CARE_FOR)
    }

    /// A batch of this many bytes was refused: the next ones are smaller.
    pub(super) fn too_large(&self, topic: &Arc<str>, bytes: usize) {
        let shared = &self.shared;
        shared.known.lock().remove(topic);
        let less = (bytes / 2).max(1_024).min(self.learnt(topic));
        shared.learnt.lock().insert(topic.clone(), (Instant::now(), less));
    }

    fn learnt(&self, topic: &Arc<str>) -> usize {
        match self.shared.learnt.lock().get(topic) {
            Some((when, bytes)) if when.elapsed() < LEARNT_FOR => *bytes,
            _ => usize::MAX,
        }
    }

    /// A batch's bytes, at most, for who cannot wait: what was asked last, or `before`.
    pub(super) fn bytes_max_now(&self, topic: &Arc<str>, before: usize) -> usize {
        let known = self.shared.known.lock().get(topic).copied();
        let fresh = self.shared.cluster.options().metadata_refresh;
        let stale = known.is_none_or(|(when, _)| when.elapsed() >= fresh);
        if stale && self.shared.asking.lock().insert(topic.clone()) {
            let (destinations, topic) = (self.clone(), topic.clone());
            self.shared.cluster.io().spawn(async move {
                let _ = destinations.get(&topic).await;
                destinations.shared.asking.lock().remove(&topic);
            });
        }
        known.map_or(before, |(_, destination)| destination.bytes_max).min(self.learnt(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::ClusterOptions;
    use super::super::scripted::{Broker, Script, TOPIC};
    use super::*;
    use tokio::runtime::Handle;

    const TIMED_OUT: i16 = 7;
    const NOT_AUTHORISED: i16 = 29;

    #[tokio::test]
    async fn a_broker_that_does_not_say_now_is_not_taken_for_one_that_has_no_settings() {
        let broker = Broker::start(Script::default()).await;
        broker.change(|script| script.settings = Err(TIMED_OUT));
        let mut options = ClusterOptions::new(vec![broker.address.clone()], "test");
        options.metadata_refresh = Duration::ZERO;
        let cluster = Cluster::new(options, Handle::current()).unwrap();
        let (destinations, topic) = (Destinations::new(cluster.clone()), TOPIC.into());
        let error = destinations.get(&topic).await.expect_err("it does not say");
        assert_eq!(error.disposition(), Disposition::Retry, "{}", error.chain());

        let large = 5 << 20;
        broker.change(|script| script.settings = Ok(vec![("max.message.bytes", "5242880")]));
        assert_eq!(destinations.get(&topic).await.unwrap().bytes_max, large);
        broker.change(|script| script.settings = Err(TIMED_OUT));
        assert_eq!(destinations.get(&topic).await.unwrap().bytes_max, large);

        broker.change(|script| script.settings = Err(NOT_AUTHORISED));
        let found = Destinations::new(cluster).get(&topic).await.unwrap();
        assert_eq!((found.bytes_max, found.wants_keys), (BYTES_MAX_DEFAULT, false));
    }

    #[tokio::test]
    async fn what_was_refused_once_is_tried_again_later() {
        let broker = Broker::start(Script::default()).await;
        let options = ClusterOptions::new(vec![broker.address.clone()], "test");
        let cluster = Cluster::new(options, Handle::current()).unwrap();
        let (destinations, topic) = (Destinations::new(cluster), TOPIC.into());
        destinations.too_large(&topic, 100_000);
        assert_eq!(destinations.get(&topic).await.unwrap().bytes_max, 50_000);
        assert_eq!(destinations.bytes_max_now(&topic, 70_000), 50_000);
        destinations.too_large(&topic, 40_000);
        assert_eq!(destinations.bytes_max_now(&topic, 70_000), 20_000);
        tokio::time::pause();
        tokio::time::advance(LEARNT_FOR).await;
        tokio::time::resume();
        assert_eq!(destinations.get(&topic).await.unwrap().bytes_max, BYTES_MAX_DEFAULT);
    }
}
