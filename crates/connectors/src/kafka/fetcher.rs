//! Fetches the partitions that are ours: one long poll a broker, for all partitions which it leads
//! and whose readers have room.
//!
//! A reader that takes nothing is left out of the fetches, which pauses its partition; membership
//! has its own connection and goes on.

use super::cluster::{Cluster, LATEST, Purpose, topic_name};
use super::eras::EpochEnd;
use super::error::{
    CORRUPT_MESSAGE, INCONSISTENT_TOPIC_ID, OFFSET_OUT_OF_RANGE, UNKNOWN_TOPIC_ID,
    UNKNOWN_TOPIC_OR_PARTITION, answered,
};
use super::feed::{Feed, Place};
use super::records::Chunk;
use super::trouble::Trouble;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use millstream_core::{Disposition, Error, Result};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a broker waits for records while all partitions are asked for.
const WAIT: Duration = Duration::from_millis(500);
/// The same while some are left out and may want to join in at any moment.
const WAIT_SHORT: Duration = Duration::from_millis(20);
/// How often to see where partitions end that are not fetched.
const ENDS_EVERY: Duration = Duration::from_secs(5);
/// In place of a broker's number, the trouble with partitions that none leads.
const NO_BROKER: i64 = -1;

/// What to do when the offset to read is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnLostOffset {
    #[default]
    Hold,
    Earliest,
    Latest,
}

#[derive(Debug, Clone)]
pub(super) struct FetchOptions {
    pub committed_only: bool,
    pub on_lost_offset: OnLostOffset,
    /// Bytes of one partition that one fetch may bring.
    pub partition_bytes: usize,
    /// Bytes that one fetch may bring.
    pub fetch_bytes: usize,
}

pub(super) struct Fetcher {
    pub(super) cluster: Cluster,
    pub(super) options: FetchOptions,
    feeds: Mutex<BTreeMap<u32, Arc<Feed>>>,
    /// Brokers that are being fetched from.
    nodes: Mutex<HashSet<i32>>,
    /// Which partition stands first in the next fetch: the first one is sure to get something.
    turn: AtomicUsize,
    changed: Notify,
    room: Notify,
    pub(super) trouble: Trouble,
    stop: CancellationToken,
}

impl Fetcher {
    pub fn start(
        cluster: Cluster,
        options: FetchOptions,
        name: &str,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let fetcher = Arc::new(Self {
            options,
            feeds: Mutex::default(),
            nodes: Mutex::default(),
            turn: AtomicUsize::new(0),
            changed: Notify::new(),
            room: Notify::new(),
            trouble: cluster.trouble(format!("fetching for {name}")),
            stop,
            cluster,
        });
        fetcher.cluster.io().spawn(fetcher.clone().manage());
        fetcher.cluster.io().spawn(fetcher.clone().look_at_ends());
        fetcher
    }

    pub fn add(&self, feed: Arc<Feed>) {
        self.feeds.lock().insert(feed.id, feed);
        self.changed();
    }

    pub fn remove(&self, id: u32) {
        self.feeds.lock().remove(&id);
    }

    /// Partitions came, readers came.
    pub fn changed(&self) {
        self.changed.notify_one();
        self.room.notify_waiters();
    }

    /// A reader took something.
    pub fn has_room(&self) {
        self.room.notify_waiters();
    }

    /// Sees to it that every leader is fetched from and every partition has a leader.
    async fn manage(self: Arc<Self>) {
        let mut backoff = Backoff::new();
        while !self.stop.is_cancelled() {
            let leaderless = self.spawn_loops();
            if leaderless.is_empty() {
                self.trouble.goes_on(NO_BROKER);
                backoff = Backoff::new();
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    () = self.stop.cancelled() => return,
                }
                continue;
            }
            match self.cluster.refresh(Some(&leaderless)).await {
                Ok(_) if self.spawn_loops().is_empty() => {
                    self.trouble.goes_on(NO_BROKER);
                    continue;
                }
                Ok(_) => {
                    let told = format!("nobody leads a partition of {}", leaderless.join(", "));
                    self.trouble.waits(NO_BROKER, &Error::retry("no_leader", told));
                }
                Err(error) => self.trouble.waits(NO_BROKER, &error),
            }
            tokio::select! {
                () = backoff.wait() => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Gives the topics that have partitions without a leader.
    fn spawn_loops(self: &Arc<Self>) -> Vec<Arc<str>> {
        let mut leaderless = Vec::new();
        let feeds: Vec<_> = self.feeds.lock().values().filter(|f| f.is_read()).cloned().collect();
        for feed in feeds {
            let Some(led) = self.cluster.leader(&feed.topic, feed.index) else {
                if !leaderless.contains(&feed.topic) {
                    leaderless.push(feed.topic.clone());
                }
                continue;
            };
            if self.nodes.lock().insert(led.leader) {
                let polling = Polling { fetcher: self.clone(), node: led.leader };
                self.cluster.io().spawn(polling.run());
            }
        }
        leaderless
    }

    /// Fetches from one broker for as long as it leads something that is read.
    async fn poll(&self, node: i32) {
        let mut backoff = Backoff::new();
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let Wanted { feeds, full } = self.wanted(node);
            if feeds.is_empty() {
                if !full {
                    return self.trouble.goes_on(node.into());
                }
                tokio::select! {
                    () = room => {}
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    () = self.stop.cancelled() => return,
                }
                continue;
            }
            let wait = if full { WAIT_SHORT } else { WAIT };
            let fetched = tokio::select! {
                fetched = self.fetch(node, &feeds, wait) => fetched,
                () = self.stop.cancelled() => return,
            };
            let stale = match fetched {
                Ok(stale) => stale,
                Err(error) => {
                    self.trouble.waits(node.into(), &error);
                    feeds.iter().map(|(feed, _)| feed.topic.clone()).collect()
                }
            };
            if stale.is_empty() {
                self.trouble.goes_on(node.into());
                backoff = Backoff::new();
                continue;
            }
            tokio::select! {
                () = backoff.wait() => {}
                () = self.stop.cancelled() => return,
            }
            let stale: Vec<_> = stale.into_iter().collect();
            if let Err(error) = self.cluster.refresh(Some(&stale)).await {
                self.trouble.waits(node.into(), &error);
            }
            self.changed.notify_one();
        }
    }

    fn wanted(&self, node: i32) -> Wanted {
        let feeds = self.feeds.lock();
        let led: Vec<_> = feeds
            .values()
            .filter(|feed| {
                self.cluster.leader(&feed.topic, feed.index).is_some_and(|led| led.leader == node)
            })
            .filter(|feed| feed.is_read())
            .collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % led.len().max(1);
        let in_turn = led[turn..].iter().chain(&led[..turn]);
        let wanted: Vec<_> = in_turn
            .filter_map(|feed| Some(((*feed).clone(), feed.wanted(self.options.partition_bytes)?)))
            .collect();
        Wanted { full: wanted.len() < led.len(), feeds: wanted }
    }

    /// One fetch. Gives the topics about which we know something that is not so any more.
    async fn fetch(
        &self,
        node: i32,
        feeds: &[(Arc<Feed>, Place)],
        wait: Duration,
    ) -> Result<HashSet<Arc<str>>> {
        let (feeds, mut stale) = self.check(feeds).await;
        if feeds.is_empty() {
            return Ok(stale);
        }
        let connection = self.cluster.broker(node, Purpose::Fetch).await?;
        let named = feeds.iter().any(|(feed, _)| feed.topic_id.is_nil());
        let version = connection.version::<FetchRequest>(if named { 12 } else { 16 })?;
        let mut topics: Vec<FetchTopic> = Vec::new();
        for (feed, place) in &feeds {
            let epoch = self.cluster.leader(&feed.topic, feed.index).map_or(-1, |led| led.epoch);
            let partition = FetchPartition::default()
                .with_partition(feed.index)
                .with_current_leader_epoch(epoch)
                .with_last_fetched_epoch(match version {
                    12.. if place.epoch <= epoch => place.epoch,
                    _ => -1,
                })
                .with_fetch_offset(place.offset)
                .with_partition_max_bytes(self.options.partition_bytes as i32);
            match topics.last_mut() {
                Some(topic) if topic.topic.as_str() == &*feed.topic => {
                    topic.partitions.push(partition)
                }
                _ => topics.push(
                    FetchTopic::default()
                        .with_topic(topic_name(&feed.topic))
                        .with_topic_id(feed.topic_id)
                        .with_partitions(vec![partition]),
                ),
            }
        }
        let request = FetchRequest::default()
            .with_max_wait_ms(wait.as_millis() as i32)
            .with_min_bytes(1)
            .with_max_bytes(self.options.fetch_bytes as i32)
            .with_isolation_level(i8::from(self.options.committed_only))
            .with_session_epoch(-1)
            .with_topics(topics);
        let response = connection.call(&request, version, self.cluster.timeout() + wait).await?;
        if response.error_code != 0 {
            return Err(answered(
                format!("fetching from {}", connection.address()),
                response.error_code,
            ));
        }
        let by_name: HashMap<(&str, i32), usize> =
            feeds.iter().enumerate().map(|(at, (f, _))| ((&*f.topic, f.index), at)).collect();
        let by_id: HashMap<_, usize> =
            feeds.iter().enumerate().map(|(at, (f, _))| ((f.topic_id, f.index), at)).collect();
        for topic in response.responses {
            for partition in topic.partitions {
                let index = partition.partition_index;
                let at = match version {
                    13.. => by_id.get(&(topic.topic_id, index)),
                    _ => by_name.get(&(topic.topic.as_str(), index)),
                };
                let Some(at) = at else { continue };
                let (feed, place) = &feeds[*at];
                if !self.take(node, feed, *place, partition).await {
                    stale.insert(feed.topic.clone());
                }
            }
        }
        Ok(stale)
    }

    /// Takes in what a broker said of one partition. False when what we know of it is stale.
    async fn take(&self, node: i32, feed: &Feed, place: Place, partition: PartitionData) -> bool {
        let doing = || format!("reading partition {} of `{}`", feed.index, feed.topic);
        let told = partition.diverging_epoch;
        match partition.error_code {
            0 if told.end_offset >= 0 => {
                let told = EpochEnd { epoch: told.epoch, offset: told.end_offset };
                self.was_cut(feed, place, told).await
            }
            0 => {
                feed.set_end(match self.options.committed_only {
                    true => partition.last_stable_offset,
                    false => partition.high_watermark,
                });
                let records = partition.records.unwrap_or_default();
                let aborted = partition.aborted_transactions.unwrap_or_default();
                let aborted = aborted.iter().map(|t| (t.first_offset, t.producer_id.0)).collect();
                let end = partition.high_watermark;
                match Chunk::new(records.clone(), place.offset, end, aborted) {
                    Ok(None) => match Chunk::beyond(&records, place.offset, end) {
                        Some(error) if feed.stays_beyond(place) => feed.fail(place, error),
                        _ => feed.deliver(place, None),
                    },
                    Ok(chunk) => feed.deliver(place, chunk),
                    Err(error) => feed.fail(place, error),
                }
                true
            }
            OFFSET_OUT_OF_RANGE => self.offset_lost(feed, place).await,
            // The group tells what becomes of a topic that is gone or was made again.
            UNKNOWN_TOPIC_OR_PARTITION | UNKNOWN_TOPIC_ID | INCONSISTENT_TOPIC_ID => false,
            CORRUPT_MESSAGE => {
                self.trouble.waits(node.into(), &answered(doing(), CORRUPT_MESSAGE));
                false
            }
            code => {
                let error = answered(doing(), code);
                match error.disposition() {
                    Disposition::Stop => {
                        feed.fail(place, error);
                        true
                    }
                    _ => {
                        self.trouble.waits(node.into(), &error);
                        false
                    }
                }
            }
        }
    }

    /// The lag of partitions that wait or hold goes on growing.
    async fn look_at_ends(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(ENDS_EVERY) => {}
                () = self.stop.cancelled() => return,
            }
            let since = Instant::now() - ENDS_EVERY;
            let quiet: Vec<_> =
                self.feeds.lock().values().filter(|f| f.is_quiet(since)).cloned().collect();
            for feed in quiet {
                let committed_only = self.options.committed_only;
                let end = self.cluster.offset_at(&feed.topic, feed.index, LATEST, committed_only);
                if let Ok(Some(end)) = end.await {
                    feed.set_end(end);
                }
            }
        }
    }
}

/// The loop over one broker: however it ends, another may be begun.
struct Polling {
    fetcher: Arc<Fetcher>,
    node: i32,
}

impl Polling {
    async fn run(self) {
        self.fetcher.poll(self.node).await;
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.fetcher.nodes.lock().remove(&self.node);
    }
}

struct Wanted {
    feeds: Vec<(Arc<Feed>, Place)>,
    /// Some that it leads have no room.
    full: bool,
}

/// Waits that grow to five seconds.
pub(super) struct Backoff(Duration);

impl Backoff {
    pub fn new() -> Self {
        Self(Duration::from_millis(50))
    }

    pub async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(Duration::from_secs(5));
    }
}
