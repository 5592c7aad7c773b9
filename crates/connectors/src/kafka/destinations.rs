//! What the sinks must know of the topics they write: how many partitions, how large a batch may be,
//! whether every record needs a key. Asked once in a while, shared by all tasks of a sink.

use super::cluster::Cluster;
use kafka_protocol::messages::DescribeConfigsRequest;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::protocol::StrBytes;
use millstream_core::{Error, Result};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::time::Instant;

/// What a broker takes when it does not say.
const BYTES_MAX_DEFAULT: usize = 1_048_588;
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
    learnt: Mutex<HashMap<Arc<str>, usize>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Destination {
    pub partitions: u32,
    /// A batch's bytes, at most.
    pub bytes_max: usize,
    /// A compacted topic takes no record without one.
    pub wants_keys: bool,
}

impl Destinations {
    pub fn new(cluster: Cluster) -> Self {
        Self {
            shared: Arc::new(Shared { cluster, known: Mutex::default(), learnt: Mutex::default() }),
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
                Some((_, destination))
                    if error.disposition() == millstream_core::Disposition::Retry =>
                {
                    destination
                }
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
        let settings = self.settings(topic).await.unwrap_or_default();
        let bytes_max = settings.get("max.message.bytes").and_then(|text| text.parse().ok());
        let learnt = shared.learnt.lock().get(topic).copied().unwrap_or(usize::MAX);
        Ok(Destination {
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
        let settings = response.results.into_iter().flat_map(|result| result.configs);
        Ok(settings
            .filter_map(|s| Some((s.name.as_str().to_owned(), s.value?.as_str().to_owned())))
            .collect())
    }

    /// A batch of this many bytes was refused: the next ones are smaller.
    pub(super) fn too_large(&self, topic: &Arc<str>, bytes: usize) {
        let shared = &self.shared;
        shared.known.lock().remove(topic);
        let mut learnt = shared.learnt.lock();
        let known = learnt.entry(topic.clone()).or_insert(usize::MAX);
        *known = (bytes / 2).max(1_024).min(*known);
    }
}
