//! A cluster: its brokers, who leads what, and a connection for each purpose.

use super::connection::Connection;
use super::eras::EpochEnd;
use super::error::{
    COORDINATOR_LOADING, COORDINATOR_NOT_AVAILABLE, UNKNOWN_TOPIC_OR_PARTITION, answered,
};
use super::options::ClusterOptions;
use super::tls::Tls;
use super::trouble::Trouble;
use super::writes::Writes;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{
    FindCoordinatorRequest, ListOffsetsRequest, MetadataRequest, MetadataResponse,
    OffsetForLeaderEpochRequest, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes};
use millstream_core::{Disposition, Error, Result};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use uuid::Uuid;

/// What a connection is for. A request that waits at the broker holds up those behind it, so that
/// each of these has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    General,
    Fetch,
    /// By the membership's number.
    Member(u64),
    Commit,
    Produce,
    /// Questions to the coordinator of a transaction.
    Transaction,
}

/// Where lists of offsets begin and end, in the words of ListOffsets.
pub(super) const EARLIEST: i64 = -2;
pub(super) const LATEST: i64 = -1;

/// Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    io: Handle,
    options: ClusterOptions,
    seeds: Vec<(String, u16)>,
    next_seed: AtomicUsize,
    tls: Option<Tls>,
    known: Mutex<Known>,
    /// Who we are was good enough once: when it is not any more, that may pass.
    was_let_in: AtomicBool,
    connections: Mutex<HashMap<(i32, Purpose), Arc<Connection>>>,
    /// By broker.
    writes: Mutex<HashMap<i32, Arc<Writes>>>,
}

#[derive(Default)]
struct Known {
    brokers: HashMap<i32, (String, u16)>,
    topics: BTreeMap<Arc<str>, Topic>,
}

/// A topic as the brokers describe it. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topic {
    /// Nil where the broker is too old to have ids.
    pub id: Uuid,
    pub partitions: Arc<[Led]>,
}

/// Who leads a partition; -1 where nobody does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Led {
    pub leader: i32,
    pub epoch: i32,
}

impl Cluster {
    /// Nothing is connected yet; what is connected later lives on `io`.
    pub fn new(options: ClusterOptions, io: Handle) -> Result<Self> {
        let seeds: Result<Vec<_>> = options.brokers.iter().map(|text| address(text)).collect();
        let seeds = seeds?;
        if seeds.is_empty() {
            return Err(Error::stop(
                "brokers",
                "`brokers` names none: give at least one host:port",
            ));
        }
        let tls = options.tls.clone().map(Tls::new);
        Ok(Self {
            shared: Arc::new(Shared {
                io,
                options,
                seeds,
                next_seed: AtomicUsize::new(0),
                tls,
                known: Mutex::default(),
                was_let_in: AtomicBool::new(false),
                connections: Mutex::default(),
                writes: Mutex::default(),
            }),
        })
    }

    /// Where sockets and timers live.
    pub(super) fn io(&self) -> &Handle {
        &self.shared.io
    }

    pub(super) fn options(&self) -> &ClusterOptions {
        &self.shared.options
    }

    /// Where somebody says what keeps it from doing something.
    pub(super) fn trouble(&self, doing: impl Into<Arc<str>>) -> Trouble {
        self.shared.options.troubles.of(doing)
    }

    /// The brokers as the operator named them.
    pub fn brokers(&self) -> String {
        self.shared.options.brokers.join(", ")
    }

    pub(super) fn timeout(&self) -> Duration {
        self.shared.options.request_timeout
    }

    /// Who leads a partition, as far as it is known.
    pub(super) fn leader(&self, topic: &str, partition: i32) -> Option<Led> {
        let known = self.shared.known.lock();
        let topic = known.topics.get(topic)?;
        topic.partitions.get(usize::try_from(partition).ok()?).copied().filter(|p| p.leader >= 0)
    }

    /// Asks for these topics, or all. Topics that are not there are left out; one that the user may
    /// not see is an error.
    pub(super) async fn refresh(
        &self,
        topics: Option<&[Arc<str>]>,
    ) -> Result<BTreeMap<Arc<str>, Topic>> {
        let request = MetadataRequest::default().with_allow_auto_topic_creation(false).with_topics(
            topics.map(|topics| {
                let named = |name: &Arc<str>| {
                    MetadataRequestTopic::default().with_name(Some(topic_name(name)))
                };
                topics.iter().map(named).collect()
            }),
        );
        let response = self.ask(&request, 12).await?;
        self.take(response, topics)
    }

    fn take(
        &self,
        response: MetadataResponse,
        asked: Option<&[Arc<str>]>,
    ) -> Result<BTreeMap<Arc<str>, Topic>> {
        let mut found = BTreeMap::new();
        for topic in response.topics {
            let Some(name) = topic.name else { continue };
            let name: Arc<str> = name.as_str().into();
            match topic.error_code {
                // Partitions without a leader are told one by one.
                0 | 5 => {}
                UNKNOWN_TOPIC_OR_PARTITION => continue,
                code if asked.is_some() => {
                    return Err(answered(format!("asking for topic `{name}`"), code));
                }
                _ => continue,
            }
            if topic.is_internal && asked.is_none() {
                continue;
            }
            let mut partitions = vec![Led { leader: -1, epoch: -1 }; topic.partitions.len()];
            for partition in topic.partitions {
                let at = usize::try_from(partition.partition_index).unwrap_or(usize::MAX);
                if let Some(led) = partitions.get_mut(at) {
                    *led = Led { leader: partition.leader_id.0, epoch: partition.leader_epoch };
                }
            }
            found.insert(name, Topic { id: topic.topic_id, partitions: partitions.into() });
        }
        let mut known = self.shared.known.lock();
        for (name, topic) in &mut found {
            if let Some(before) = known.topics.get(name) {
                topic.keep_newer(before);
            }
        }
        known.brokers = response
            .brokers
            .into_iter()
            .map(|b| (b.node_id.0, (b.host.as_str().to_owned(), b.port as u16)))
            .collect();
        match asked {
            Some(asked) => {
                for name in asked {
                    known.topics.remove(name);
                }
                known
                    .topics
                    .extend(found.iter().map(|(name, topic)| (name.clone(), topic.clone())));
            }
            None => known.topics = found.clone(),
        }
        Ok(found)
    }

    /// What tells it from other clusters, whatever brokers are named.
    pub async fn id(&self) -> Result<Option<String>> {
        let request = MetadataRequest::default().with_topics(Some(Vec::new()));
        let response = self.ask(&request, 12);
        Ok(response.await?.cluster_id.map(|id| id.as_str().to_owned()))
    }

    /// Calls any broker that answers.
    pub(super) async fn ask<R: Request>(&self, request: &R, cap: i16) -> Result<R::Response> {
        let connection = self.any().await?;
        let version = connection.version::<R>(cap)?;
        connection.call(request, version, self.timeout()).await
    }

    async fn any(&self) -> Result<Arc<Connection>> {
        let open = {
            let connections = self.shared.connections.lock();
            let general = connections.iter().filter(|((_, p), _)| *p == Purpose::General);
            general.map(|(_, c)| c).find(|c| c.is_usable()).cloned()
        };
        if let Some(connection) = open {
            return Ok(connection);
        }
        let known: Vec<i32> = self.shared.known.lock().brokers.keys().copied().collect();
        let mut last = None;
        for node in known {
            match self.broker(node, Purpose::General).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        let seeds = &self.shared.seeds;
        for _ in 0..seeds.len() {
            let at = self.shared.next_seed.fetch_add(1, Ordering::Relaxed) % seeds.len();
            // Seeds have no number yet; theirs are below every broker's.
            let key = (-1 - at as i32, Purpose::General);
            match self.connect(key, &seeds[at]).await {
                Ok(connection) => return Ok(connection),
                Err(error) if error.disposition() == Disposition::Stop => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        let error = Error::retry("unreachable", format!("no broker of {} answers", self.brokers()));
        Err(match last {
            Some(last) => error.because(last),
            None => error,
        })
    }

    /// The same where there is one already.
    pub(super) fn open_connection(&self, node: i32, purpose: Purpose) -> Option<Arc<Connection>> {
        let connections = self.shared.connections.lock();
        connections.get(&(node, purpose)).filter(|c| c.is_usable()).cloned()
    }

    /// What all producers write to a broker.
    pub(super) fn writes(&self, node: i32) -> Arc<Writes> {
        let mut writes = self.shared.writes.lock();
        writes.entry(node).or_insert_with(|| Arc::new(Writes::new(node))).clone()
    }

    /// The connection to a broker for a purpose.
    pub(super) async fn broker(&self, node: i32, purpose: Purpose) -> Result<Arc<Connection>> {
        let open = self.shared.connections.lock().get(&(node, purpose)).cloned();
        if let Some(connection) = open.filter(|c| c.is_usable()) {
            return Ok(connection);
        }
        let address = self.shared.known.lock().brokers.get(&node).cloned();
        let address = address.ok_or_else(|| {
            Error::retry("no_broker", format!("broker {node} is not in the cluster now"))
        })?;
        self.connect((node, purpose), &address).await
    }

    async fn connect(
        &self,
        key: (i32, Purpose),
        address: &(String, u16),
    ) -> Result<Arc<Connection>> {
        let (shared, (host, port)) = (self.shared.clone(), address.clone());
        let opening = self.shared.io.spawn(async move {
            Connection::open(&host, port, &shared.options, shared.tls.as_ref()).await
        });
        let open =
            opening.await.map_err(|e| Error::retry("unreachable", "connecting").because(e))?;
        let shared = &self.shared;
        let open = open.map_err(|error| match shared.was_let_in.load(Ordering::Relaxed) {
            // A token that has just run out, a certificate that is being replaced.
            true => Error::retry(error.kind(), error.chain()),
            false => error,
        })?;
        shared.was_let_in.store(true, Ordering::Relaxed);
        let mut connections = shared.connections.lock();
        // Somebody else may have been faster.
        if let Some(known) = connections.get(&key)
            && known.is_usable()
        {
            return Ok(known.clone());
        }
        let open = Arc::new(open);
        connections.insert(key, open.clone());
        Ok(open)
    }

    /// The broker that keeps a group.
    pub(super) async fn coordinator(&self, group: &str) -> Result<i32> {
        self.coordinator_of(0, group, &format!("group `{group}`")).await
    }

    /// The broker that keeps the transactions of an id.
    pub(super) async fn transaction_coordinator(&self, id: &str) -> Result<i32> {
        self.coordinator_of(1, id, &format!("transactional id `{id}`")).await
    }

    async fn coordinator_of(&self, kind: i8, key: &str, what: &str) -> Result<i32> {
        let doing = || format!("looking for the coordinator of {what}");
        let connection = self.any().await?;
        let version = connection.version::<FindCoordinatorRequest>(4)?;
        let key = StrBytes::from_string(key.to_owned());
        let request = match version {
            4.. => FindCoordinatorRequest::default().with_coordinator_keys(vec![key]),
            _ => FindCoordinatorRequest::default().with_key(key),
        };
        let request = request.with_key_type(kind);
        let response = connection.call(&request, version, self.timeout()).await?;
        let (code, node, host, port) = match response.coordinators.first() {
            Some(found) => (found.error_code, found.node_id.0, found.host.clone(), found.port),
            None => (response.error_code, response.node_id.0, response.host, response.port),
        };
        if code != 0 {
            return Err(answered(doing(), code));
        }
        let mut known = self.shared.known.lock();
        known.brokers.entry(node).or_insert_with(|| (host.as_str().to_owned(), port as u16));
        Ok(node)
    }

    /// The offset at a time (or [`EARLIEST`], [`LATEST`]) of a partition: the first at or after it.
    /// `None` where there is none that late.
    pub(super) async fn offset_at(
        &self,
        topic: &Arc<str>,
        partition: i32,
        time: i64,
        committed_only: bool,
    ) -> Result<Option<i64>> {
        let doing = || format!("asking for an offset of partition {partition} of `{topic}`");
        let led = match self.leader(topic, partition) {
            Some(led) => led,
            None => {
                self.refresh(Some(std::slice::from_ref(topic))).await?;
                self.leader(topic, partition).ok_or_else(|| {
                    Error::retry("no_leader", format!("{}: nobody leads it now", doing()))
                })?
            }
        };
        let connection = self.broker(led.leader, Purpose::General).await?;
        let version = connection.version::<ListOffsetsRequest>(7)?;
        let request = ListOffsetsRequest::default()
            .with_replica_id((-1).into())
            .with_isolation_level(i8::from(committed_only))
            .with_topics(vec![
                ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![
                    ListOffsetsPartition::default()
                        .with_partition_index(partition)
                        .with_timestamp(time),
                ]),
            ]);
        let response = connection.call(&request, version, self.timeout()).await?;
        let told = response.topics.first().and_then(|topic| topic.partitions.first());
        match told {
            Some(told) if told.error_code == 0 => Ok((told.offset >= 0).then_some(told.offset)),
            Some(told) => {
                // The next call asks anew who leads it.
                self.forget(topic);
                Err(answered(doing(), told.error_code))
            }
            None => Err(Error::retry("protocol", format!("{}: the answer is empty", doing()))),
        }
    }

    /// Where an epoch of a partition's leaders ends in the log of its leader now; see
    /// [`super::eras`]. `None` from a broker that is too old to say.
    pub(super) async fn epoch_end(
        &self,
        topic: &Arc<str>,
        partition: i32,
        led: Led,
        epoch: i32,
    ) -> Result<Option<EpochEnd>> {
        let doing = || format!("asking for an epoch of partition {partition} of `{topic}`");
        let connection = self.broker(led.leader, Purpose::General).await?;
        // Before version 3 only brokers may ask.
        let version = match connection.version::<OffsetForLeaderEpochRequest>(4) {
            Ok(version) if version >= 3 => version,
            _ => return Ok(None),
        };
        let asked = OffsetForLeaderPartition::default()
            .with_partition(partition)
            .with_current_leader_epoch(led.epoch)
            .with_leader_epoch(epoch);
        let request =
            OffsetForLeaderEpochRequest::default().with_replica_id((-1).into()).with_topics(vec![
                OffsetForLeaderTopic::default()
                    .with_topic(topic_name(topic))
                    .with_partitions(vec![asked]),
            ]);
        let response = connection.call(&request, version, self.timeout()).await?;
        let told = response.topics.first().and_then(|topic| topic.partitions.first());
        match told {
            Some(told) if told.error_code == 0 => {
                Ok(Some(EpochEnd { epoch: told.leader_epoch, offset: told.end_offset }))
            }
            Some(told) => Err(answered(doing(), told.error_code)),
            None => Err(Error::retry("protocol", format!("{}: the answer is empty", doing()))),
        }
    }

    /// Closes what was open for a purpose.
    pub(super) fn close(&self, purpose: Purpose) {
        self.shared.connections.lock().retain(|(_, other), _| *other != purpose);
    }

    /// Forgets a topic, so that the next question asks the brokers.
    pub(super) fn forget(&self, topic: &str) {
        self.shared.known.lock().topics.remove(topic);
    }
}

impl Topic {
    /// A broker that stood still tells of leaders that are none any more.
    fn keep_newer(&mut self, before: &Topic) {
        if self.id.is_nil() || self.id != before.id {
            return;
        }
        let now = self.partitions.iter().enumerate();
        let newer = now.map(|(index, led)| match before.partitions.get(index) {
            Some(known) if led.epoch >= 0 && known.epoch > led.epoch => *known,
            _ => *led,
        });
        self.partitions = newer.collect();
    }
}

pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// Whether a coordinator has to be looked for again, or waited for.
pub(super) fn moved(code: i16) -> bool {
    matches!(code, COORDINATOR_LOADING | COORDINATOR_NOT_AVAILABLE | super::error::NOT_COORDINATOR)
}

fn address(text: &str) -> Result<(String, u16)> {
    let wrong = || Error::stop("brokers", format!("`{text}` in `brokers` is not host:port"));
    let (host, port) = text.trim().rsplit_once(':').ok_or_else(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match (host.is_empty(), port.parse()) {
        (false, Ok(port)) => Ok((host.to_owned(), port)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        assert_eq!(address("a.b:9092").unwrap(), ("a.b".into(), 9092));
        assert_eq!(address("[::1]:9092").unwrap(), ("::1".into(), 9092));
        for text in ["a", ":1", "a:b", "a:70000", ""] {
            assert!(address(text).unwrap_err().to_string().contains("host:port"), "{text}");
        }
    }
}
