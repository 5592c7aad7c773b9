//! Topics of a Kafka cluster, read as a member of a group.

use super::cluster::{Cluster, EARLIEST, LATEST};
use super::feed::{Feed, Reader};
use super::fetcher::{FetchOptions, Fetcher, OnLostOffset};
use super::group::{
    GroupOptions, Membership, Ours, Subscribed, Topics, beginnings, commits, set_offsets,
};
use super::transactions::KafkaTransactions;
use async_trait::async_trait;
use millstream_core::{Error, Group, Partition, PartitionReader, Place, Result, Source, Start};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[derive(Debug, Clone)]
pub struct KafkaSourceOptions {
    pub topics: Topics,
    pub group: GroupOptions,
    /// Records of transactions only when they were committed.
    pub committed_only: bool,
    pub on_lost_offset: OnLostOffset,
    pub batch_rows: usize,
    pub batch_bytes: usize,
}

pub struct KafkaSource {
    cluster: Cluster,
    options: KafkaSourceOptions,
    name: String,
    fetcher: Arc<Fetcher>,
    ours: Arc<Ours>,
    found: Subscribed,
    membership: Mutex<Option<Arc<Membership>>>,
    /// Whose commits are made in transactions.
    transactions: Option<Arc<KafkaTransactions>>,
    stop: CancellationToken,
}

/// Bytes of one partition that one fetch may bring, and the same of all.
const PARTITION_BYTES: usize = 256 << 10;
const FETCH_BYTES: usize = 3 << 20;

impl KafkaSource {
    /// Connects and sees that the topics are there. The group is joined when somebody asks for it.
    pub async fn open(cluster: Cluster, options: KafkaSourceOptions) -> Result<Self> {
        let found = options.topics.look(&cluster).await?;
        if let Some(missing) = options.topics.missing(&found).first() {
            return Err(Error::stop(
                "no_topic",
                format!(
                    "there is no topic `{missing}` on {}: create it, or correct its name",
                    cluster.brokers()
                ),
            ));
        }
        let name = match &options.topics {
            Topics::Named(names) => names.join(","),
            Topics::Matching(pattern) => {
                pattern.as_str().trim_start_matches("^(?:").trim_end_matches(")$").to_owned()
            }
        };
        let stop = CancellationToken::new();
        let fetch = FetchOptions {
            committed_only: options.committed_only,
            on_lost_offset: options.on_lost_offset,
            partition_bytes: PARTITION_BYTES,
            fetch_bytes: FETCH_BYTES,
        };
        let fetcher =
            Fetcher::start(cluster.clone(), fetch, &format!("`{name}`"), stop.child_token());
        let ours = Arc::new(Ours::default());
        // In their order, so that with one topic a partition's number is its index.
        for partition in found.partitions() {
            ours.number(&partition);
        }
        Ok(Self {
            cluster,
            options,
            name,
            fetcher,
            ours,
            found,
            membership: Mutex::default(),
            transactions: None,
            stop,
        })
    }

    /// Has these commit for the group. To be said before it is joined.
    pub fn commit_in(&mut self, transactions: Arc<KafkaTransactions>) {
        self.transactions = Some(transactions);
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Where the group begins in each partition, without joining it or noting anything; the error of
    /// a partition is why it would hold.
    pub async fn beginnings(&self) -> Result<Vec<(u32, Result<i64, String>)>> {
        beginnings(
            self.cluster.clone(),
            self.options.group.clone(),
            self.found.clone(),
            self.options.committed_only,
            self.fetcher.clone(),
            self.ours.clone(),
        )
        .await
    }

    /// What the group has committed, without joining it.
    pub async fn commits(&self) -> Result<Vec<(u32, i64)>> {
        commits(
            self.cluster.clone(),
            self.options.group.clone(),
            self.found.clone(),
            self.fetcher.clone(),
            self.ours.clone(),
        )
        .await
    }

    fn look_at(&self, partition: u32) -> Result<Arc<Feed>> {
        let (topic, index) = self.named(partition)?;
        let id = self.found.topics.get(&topic).map_or(Uuid::nil(), |topic| topic.id);
        let feed = Arc::new(Feed::new(partition, topic, id, index));
        self.fetcher.add(feed.clone());
        Ok(feed)
    }

    fn named(&self, partition: u32) -> Result<(Arc<str>, i32)> {
        self.ours.name(partition).ok_or_else(|| {
            Error::stop("no_partition", format!("{} has no partition {partition}", self.name))
        })
    }

    fn membership(&self) -> Arc<Membership> {
        let mut membership = self.membership.lock();
        let joined = membership.get_or_insert_with(|| {
            Arc::new(Membership::join(
                self.cluster.clone(),
                self.options.group.clone(),
                self.options.topics.clone(),
                self.found.clone(),
                self.options.committed_only,
                self.fetcher.clone(),
                self.ours.clone(),
                self.stop.child_token(),
            ))
        });
        if let Some(transactions) = &self.transactions {
            transactions.bind(joined.clone());
        }
        joined.clone()
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl Source for KafkaSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> String {
        format!("kafka:{}:{}", self.options.group.group, self.name)
    }

    fn partitions(&self) -> u32 {
        self.ours.names() as u32
    }

    async fn reader(&self, partition: u32, start: Start) -> Result<Box<dyn PartitionReader>> {
        let feed = match self.membership.lock().is_some() {
            true => self.ours.readable(partition)?,
            // Somebody who only looks joins no group.
            false => self.look_at(partition)?,
        };
        let offset = match start {
            Start::Offset(offset) => offset,
            Start::Earliest => self.offset_of(partition, Place::Earliest).await?,
            Start::Latest => self.offset_of(partition, Place::Latest).await?,
        };
        let KafkaSourceOptions { batch_rows, batch_bytes, .. } = self.options;
        let fetcher = self.fetcher.clone();
        Ok(Box::new(Reader::new(feed, fetcher, offset, batch_rows, batch_bytes)))
    }

    async fn offset_of(&self, partition: u32, place: Place) -> Result<i64> {
        let (topic, index) = self.named(partition)?;
        let at = |time| self.cluster.offset_at(&topic, index, time, self.options.committed_only);
        Ok(match place {
            Place::Earliest => at(EARLIEST).await?.unwrap_or(0),
            Place::Latest => at(LATEST).await?.unwrap_or(0),
            Place::Time(time) => match at(time).await? {
                Some(offset) => offset,
                None => at(LATEST).await?.unwrap_or(0),
            },
            Place::Offset(offset) => {
                let (begin, end) =
                    (at(EARLIEST).await?.unwrap_or(0), at(LATEST).await?.unwrap_or(0));
                if !(begin..=end).contains(&offset) {
                    return Err(Error::stop(
                        "offset_out_of_range",
                        format!(
                            "offset {offset} is not in partition {index} of `{topic}`: it holds \
                             {begin} to {end}"
                        ),
                    ));
                }
                offset
            }
        })
    }

    fn place_of(&self, partition: u32) -> Partition {
        match self.ours.name(partition) {
            Some((source, index)) => Partition { source, index: index as u32 },
            None => Partition { source: self.name.as_str().into(), index: partition },
        }
    }

    fn identity_of(&self, partition: u32) -> String {
        match self.ours.feed(partition) {
            Some(feed) => format!("kafka:{}:{}", feed.topic, feed.topic_id),
            None => self.identity(),
        }
    }

    fn end_of(&self, partition: u32) -> Option<i64> {
        self.ours.feed(partition).map(|feed| feed.end())
    }

    fn group(&self) -> Option<Arc<dyn Group>> {
        Some(self.membership())
    }

    async fn set_offsets(&self, offsets: &[(u32, i64)]) -> Result<()> {
        set_offsets(
            self.cluster.clone(),
            self.options.group.clone(),
            self.found.clone(),
            self.fetcher.clone(),
            self.ours.clone(),
            offsets,
        )
        .await
    }
}
