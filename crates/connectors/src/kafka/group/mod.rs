//! Membership of a consumer group: which partitions are ours, and the commits.
//!
//! Two protocols do the same thing. The newer one (KIP-848), where the broker decides and tells each
//! member in its heartbeats, is tried first; a broker that does not have it, or a group of older
//! members, gets the classic one with cooperative rebalancing (KIP-429).

mod assignor;
mod classic;
mod modern;
mod offsets;
mod ours;
mod subscription;
#[cfg(test)]
mod tests;
mod transactional;

pub(super) use ours::Ours;
pub(super) use subscription::Subscribed;
pub use subscription::Topics;

use super::cluster::{Cluster, Purpose};
use super::connection::Connection;
use super::error::NO_COORDINATOR;
use super::feed::Feed;
use super::fetcher::{Backoff, Fetcher};
use super::trouble::Trouble;
use assignor::TopicPartition;
use async_trait::async_trait;
use kafka_protocol::protocol::StrBytes;
use millstream_core::{Change, Disposition, Error, Group, Release, Result};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Tells memberships apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The kind of the error that ends a membership: another process has our `instance`.
const FENCED: &str = "fenced";

/// How long `leave` waits for the coordinator to hear of it.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// How often what is done once is tried while there is no coordinator: for six seconds.
const COORDINATOR_TRIES: u32 = 7;

/// Where a partition begins that the group has no offset of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartAt {
    #[default]
    Earliest,
    Latest,
    /// The first record at or after this time, in milliseconds since 1970.
    Time(i64),
    /// Nowhere: it holds.
    Committed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// The newer one where the broker has it.
    #[default]
    Auto,
    Classic,
    /// KIP-848, and nothing else.
    Consumer,
}

#[derive(Debug, Clone)]
pub struct GroupOptions {
    pub group: String,
    /// A name of this process that outlives it: a restart within the session time-out moves no
    /// partitions.
    pub instance: Option<String>,
    pub start: StartAt,
    pub protocol: Protocol,
    pub session_timeout: Duration,
    /// How long a member may take to finish what it gives up.
    pub rebalance_timeout: Duration,
}

impl GroupOptions {
    pub fn new(group: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            instance: None,
            start: StartAt::default(),
            protocol: Protocol::default(),
            session_timeout: Duration::from_secs(45),
            rebalance_timeout: Duration::from_secs(60),
        }
    }
}

/// A member, for as long as it lives.
pub(super) struct Membership {
    context: Arc<Context>,
    ended: watch::Receiver<bool>,
}

/// What both protocols work with.
struct Context {
    cluster: Cluster,
    options: GroupOptions,
    committed_only: bool,
    fetcher: Arc<Fetcher>,
    ours: Arc<Ours>,
    subscribed: watch::Receiver<Arc<Subscribed>>,
    /// Looks for topics now.
    look: Arc<Notify>,
    /// Partitions that were there when we began.
    at_start: HashSet<TopicPartition>,
    coordinator: Mutex<Option<i32>>,
    /// Joins wait at the broker, and hold up what is behind them on their connection.
    purpose: Purpose,
    trouble: Trouble,
    stop: CancellationToken,
}

/// How a protocol's work came to its end.
enum Ended {
    Left,
    /// The group or the broker speaks the other protocol.
    UseClassic(String),
    /// Another process has our `instance`.
    Fenced(Error),
}

impl Membership {
    /// Joins in the background.
    #[expect(clippy::too_many_arguments, reason = "the parts of one source, put together once")]
    pub fn join(
        cluster: Cluster,
        options: GroupOptions,
        topics: Topics,
        found: Subscribed,
        committed_only: bool,
        fetcher: Arc<Fetcher>,
        ours: Arc<Ours>,
        stop: CancellationToken,
    ) -> Self {
        let io = cluster.io().clone();
        let cluster_too = cluster.clone();
        let (context, told) =
            Context::new(cluster, options, found, committed_only, fetcher, ours, stop.clone());
        let look = context.look.clone();
        io.spawn(subscription::watch(topics, cluster_too, told, look, stop));
        let (done, ended) = watch::channel(false);
        let running = context.clone();
        io.spawn(async move {
            running.clone().run().await;
            running.cluster.close(running.purpose);
            done.send_replace(true);
        });
        Self { context, ended }
    }
}

/// Where a group begins in partitions, without joining it or noting anything; the error of a
/// partition is why it would hold.
pub(super) async fn beginnings(
    cluster: Cluster,
    options: GroupOptions,
    found: Subscribed,
    committed_only: bool,
    fetcher: Arc<Fetcher>,
    ours: Arc<Ours>,
) -> Result<Vec<(u32, Result<i64, String>)>> {
    let stop = CancellationToken::new();
    let feeds = feeds_of(&found, &ours);
    let (context, _) = Context::new(cluster, options, found, committed_only, fetcher, ours, stop);
    let found = patiently(|| async {
        let found = context.would_begin(&feeds).await?;
        found.failed.map_or(Ok(found.begins), Err)
    });
    let begin = |(feed, begin): (Arc<Feed>, ours::Begin)| {
        (feed.id, begin.refused.map_or(Ok(begin.offset), Err))
    };
    Ok(found.await?.into_iter().map(begin).collect())
}

/// What a group has committed, without joining it.
pub(super) async fn commits(
    cluster: Cluster,
    options: GroupOptions,
    found: Subscribed,
    fetcher: Arc<Fetcher>,
    ours: Arc<Ours>,
) -> Result<Vec<(u32, i64)>> {
    let stop = CancellationToken::new();
    let feeds = feeds_of(&found, &ours);
    let (context, _) = Context::new(cluster, options, found, false, fetcher, ours, stop);
    let known = patiently(|| context.known_commits(&feeds)).await?;
    Ok(known.into_iter().map(|(feed, begin)| (feed.id, begin.offset)).collect())
}

fn feeds_of(found: &Subscribed, ours: &Ours) -> Vec<Arc<Feed>> {
    let feed = |(topic, index): TopicPartition| {
        let id = found.topics.get(&topic).map_or(Uuid::nil(), |topic| topic.id);
        Arc::new(Feed::new(ours.number(&(topic.clone(), index)), topic, id, index))
    };
    found.partitions().map(feed).collect()
}

/// Sets offsets of a group without joining it.
pub(super) async fn set_offsets(
    cluster: Cluster,
    options: GroupOptions,
    found: Subscribed,
    fetcher: Arc<Fetcher>,
    ours: Arc<Ours>,
    offsets: &[(u32, i64)],
) -> Result<()> {
    let stop = CancellationToken::new();
    let (context, _) =
        Context::new(cluster, options, found.clone(), false, fetcher, ours.clone(), stop);
    let named = offsets.iter().filter_map(|(number, offset)| {
        let (topic, index) = ours.name(*number)?;
        let id = found.topics.get(&topic)?.id;
        Some((Arc::new(Feed::new(*number, topic, id, index)), *offset))
    });
    let named: Vec<_> = named.collect();
    patiently(|| context.set_offsets(&named)).await
}

/// Does what nobody would do again: a coordinator that is being made, as in a cluster that has had no
/// group yet, or that is just moving, is waited for.
async fn patiently<T, Doing: Future<Output = Result<T>>>(what: impl Fn() -> Doing) -> Result<T> {
    let mut backoff = Backoff::new();
    for _ in 0..COORDINATOR_TRIES {
        match what().await {
            Err(error) if error.kind() == NO_COORDINATOR => backoff.wait().await,
            answer => return answer,
        }
    }
    what().await
}

impl Context {
    fn new(
        cluster: Cluster,
        options: GroupOptions,
        found: Subscribed,
        committed_only: bool,
        fetcher: Arc<Fetcher>,
        ours: Arc<Ours>,
        stop: CancellationToken,
    ) -> (Arc<Self>, watch::Sender<Arc<Subscribed>>) {
        let at_start: HashSet<_> = found.partitions().collect();
        let (told, subscribed) = watch::channel(Arc::new(found));
        let look = Arc::new(Notify::new());
        let context = Arc::new(Context {
            trouble: cluster.trouble(format!("group `{}`", options.group)),
            cluster,
            options,
            committed_only,
            fetcher,
            ours,
            subscribed,
            look,
            at_start,
            coordinator: Mutex::default(),
            purpose: Purpose::Member(NEXT.fetch_add(1, Ordering::Relaxed)),
            stop,
        });
        (context, told)
    }
}

#[async_trait]
impl Group for Membership {
    async fn next(&self) -> Result<Change> {
        self.context.ours.next().await
    }

    fn has_told_all(&self) -> bool {
        self.context.ours.has_told_all()
    }

    fn start_of(&self, partition: u32) -> Option<i64> {
        self.context.ours.start_of(partition)
    }

    async fn commit(&self, offsets: &[(u32, i64)]) -> Result<Vec<(u32, i64)>> {
        self.context.commit(offsets).await
    }

    async fn set(&self, offsets: &[(u32, i64)]) -> Result<Vec<(u32, i64)>> {
        self.context.commit_chosen(offsets).await
    }

    async fn leave(&self) {
        self.context.stop.cancel();
        let mut ended = self.ended.clone();
        let _ = tokio::time::timeout(LEAVE_WITHIN, ended.wait_for(|ended| *ended)).await;
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.context.stop.cancel();
    }
}

impl Context {
    async fn run(self: Arc<Self>) {
        let mut classic = self.options.protocol == Protocol::Classic;
        while !self.stop.is_cancelled() {
            let ended = match classic {
                true => self.run_classic().await,
                false => self.run_modern().await,
            };
            match ended {
                Ended::Left => return,
                // Who comes back would fence the other, and so on for ever.
                Ended::Fenced(error) => {
                    self.lose_all();
                    self.ours.tell(Err(error));
                    return self.stop.cancelled().await;
                }
                Ended::UseClassic(why) if self.options.protocol == Protocol::Auto => {
                    tracing::info!(
                        "group `{}`: the classic protocol is used: {why}",
                        self.options.group
                    );
                    classic = true;
                }
                Ended::UseClassic(why) => {
                    let told = format!(
                        "group `{}` cannot be joined with `protocol: consumer`: {why}",
                        self.options.group
                    );
                    let error = Error::stop("group_protocol", told);
                    self.trouble.waits(0, &error);
                    self.ours.tell(Err(error));
                    return self.stop.cancelled().await;
                }
            }
        }
    }

    fn instance(&self) -> Option<StrBytes> {
        self.options.instance.clone().map(StrBytes::from_string)
    }

    async fn coordinator(&self, purpose: Purpose) -> Result<Arc<Connection>> {
        let known = *self.coordinator.lock();
        let node = match known {
            Some(node) => node,
            None => {
                let node = self.cluster.coordinator(&self.options.group).await?;
                *self.coordinator.lock() = Some(node);
                node
            }
        };
        let connection = self.cluster.broker(node, purpose).await;
        if connection.is_err() {
            self.forget_coordinator();
        }
        connection
    }

    /// Another process has our `instance`.
    fn fenced(&self) -> Error {
        Error::stop(
            FENCED,
            format!(
                "group `{}`: another process has joined as `instance: {}`: give each process a name \
                 of its own, and end the one that is too many",
                self.options.group,
                self.options.instance.as_deref().unwrap_or_default()
            ),
        )
    }

    fn forget_coordinator(&self) {
        *self.coordinator.lock() = None;
    }

    /// Something went wrong that may pass, or that the operator must see to.
    async fn failed(&self, error: Error, backoff: &mut Backoff) {
        self.trouble.waits(0, &error);
        self.forget_coordinator();
        if error.disposition() == Disposition::Stop {
            self.ours.tell(Err(error));
        }
        tokio::select! {
            () = backoff.wait() => {}
            () = self.stop.cancelled() => {}
        }
    }

    fn numbers(&self, partitions: impl IntoIterator<Item = TopicPartition>) -> Vec<u32> {
        partitions.into_iter().map(|partition| self.ours.number(&partition)).collect()
    }

    /// Takes partitions in and finds out in the background where they begin.
    fn take_in(self: &Arc<Self>, partitions: impl IntoIterator<Item = TopicPartition>) {
        let subscribed = self.subscribed.borrow().clone();
        let mut by_leader: BTreeMap<Option<i32>, Vec<Arc<Feed>>> = BTreeMap::new();
        for (topic, index) in partitions {
            let id = subscribed.topics.get(&topic).map_or(Uuid::nil(), |topic| topic.id);
            let number = self.ours.number(&(topic.clone(), index));
            let feed = Arc::new(Feed::new(number, topic, id, index));
            self.ours.take_in(feed.clone());
            self.fetcher.add(feed.clone());
            let led = self.cluster.leader(&feed.topic, feed.index).map(|led| led.leader);
            by_leader.entry(led).or_default().push(feed);
        }
        // A broker that does not answer keeps those of the others waiting for nothing.
        for feeds in by_leader.into_values() {
            tokio::spawn(self.clone().resolve(feeds));
        }
    }

    async fn resolve(self: Arc<Self>, mut feeds: Vec<Arc<Feed>>) {
        let trouble =
            self.cluster.trouble(format!("group `{}`: where to begin", self.options.group));
        let mut backoff = Backoff::new();
        loop {
            let begins = tokio::select! {
                begins = self.begins(&feeds) => begins,
                () = self.stop.cancelled() => return,
            };
            let error = match begins {
                Ok(found) => {
                    let known: HashSet<u32> =
                        found.begins.iter().map(|(feed, _)| feed.id).collect();
                    feeds.retain(|feed| !known.contains(&feed.id));
                    self.ours.resolved(found.begins);
                    match found.failed {
                        Some(error) => error,
                        None => return trouble.goes_on(0),
                    }
                }
                Err(error) => error,
            };
            trouble.waits(0, &error);
            if error.disposition() == Disposition::Stop {
                self.ours.tell(Err(error));
            }
            tokio::select! {
                () = backoff.wait() => {}
                () = self.stop.cancelled() => return,
            }
            let still = |feed: &Arc<Feed>| {
                self.ours.feed(feed.id).is_some_and(|known| Arc::ptr_eq(&known, feed))
            };
            feeds.retain(still);
            if feeds.is_empty() {
                return;
            }
        }
    }

    /// Has the engine give partitions up, at most for `within`.
    async fn revoke(self: Arc<Self>, partitions: BTreeSet<TopicPartition>, within: Duration) {
        let numbers = self.numbers(partitions);
        let leaving = self.ours.begin_leaving(&numbers);
        if !leaving.is_empty() {
            let (release, released) = Release::new(within);
            self.ours.tell(Ok(Change::Revoked(leaving, release)));
            if tokio::time::timeout(within, released).await.is_err() {
                tracing::warn!(
                    "group `{}`: partitions were not given up in {} s: what is in flight is not committed",
                    self.options.group,
                    within.as_secs()
                );
            }
        }
        self.ours.give_up(&numbers);
        self.ours.no_commits().await;
        numbers.iter().for_each(|number| self.fetcher.remove(*number));
    }

    fn lose(&self, partitions: impl IntoIterator<Item = TopicPartition>) {
        let numbers = self.numbers(partitions);
        self.ours.lose(&numbers);
        numbers.iter().for_each(|number| self.fetcher.remove(*number));
    }

    fn lose_all(&self) {
        self.lose(self.ours.owned());
    }

    /// Ours that are of a topic that is gone, or that was made again.
    fn lose_what_is_gone(&self, subscribed: &Subscribed) {
        let gone = self.ours.feeds().into_iter().filter(|feed| {
            let topic = subscribed.topics.get(&feed.topic);
            topic.is_none_or(|topic| topic.id != feed.topic_id)
        });
        let gone: Vec<_> = gone.map(|feed| (feed.topic.clone(), feed.index)).collect();
        if let Some((topic, _)) = gone.first() {
            tracing::warn!(
                "topic `{topic}` is gone or was made again: what is in flight is dropped"
            );
        }
        self.lose(gone);
    }

    /// How long a revocation may take: less than the coordinator waits for us.
    fn release_within(&self) -> Duration {
        self.options.rebalance_timeout * 3 / 4
    }
}
