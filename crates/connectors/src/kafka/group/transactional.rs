//! The group's offsets as part of a transaction: they are committed when it is.
//!
//! The coordinator of the group takes them only from a member of its present generation (KIP-447), so
//! that somebody whose partitions were given to others can commit nothing of them.

use super::super::cluster::{Purpose, topic_name};
use super::super::coordinator::{ABORTABLE, Coordinator, Number, failed};
use super::super::error::{
    CONCURRENT_TRANSACTIONS, FENCED_INSTANCE_ID, FENCED_MEMBER_EPOCH, ILLEGAL_GENERATION,
    NO_COORDINATOR, REBALANCE_IN_PROGRESS, STALE_MEMBER_EPOCH, UNKNOWN_MEMBER_ID, answered,
};
use super::super::feed::Feed;
use super::offsets::NOTE;
use super::ours::Member;
use super::{Context, Membership};
use kafka_protocol::messages::TxnOffsetCommitRequest;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::protocol::StrBytes;
use millstream_core::{Disposition, Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a group may take to tell us its present generation.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why offsets were not taken, and what helps.
enum Refused {
    /// The same once more.
    Again(Error),
    /// The group is being shared out: once more, as what we are then.
    Rebalancing(Error),
    Failed(Error),
}

impl Membership {
    /// Makes offsets part of a transaction. All of them have to be ours. Gives what is to be told to
    /// [`Membership::committed`].
    pub async fn commit_in(
        &self,
        coordinator: &Coordinator,
        number: Number,
        offsets: &[(u32, i64)],
    ) -> Result<Vec<(Arc<Feed>, i64)>> {
        self.context.commit_in(coordinator, number, offsets).await
    }

    /// The transaction with these is committed. One that has gone and come again since then begins
    /// where the group has it now.
    pub fn committed(&self, offsets: &[(Arc<Feed>, i64)]) {
        for (feed, offset) in offsets {
            self.context.ours.committed(feed, *offset);
        }
    }

    /// Asks the group where its commits are, and goes back there.
    pub async fn look_at_commits(&self) -> Result<()> {
        self.context.look_at_commits().await
    }
}

impl Context {
    pub(super) async fn look_at_commits(&self) -> Result<()> {
        let feeds = self.ours.feeds();
        if feeds.is_empty() {
            return Ok(());
        }
        for (feed, begin) in self.known_commits(&feeds).await? {
            self.ours.goes_back(&feed, &begin);
        }
        Ok(())
    }

    async fn commit_in(
        &self,
        coordinator: &Coordinator,
        number: Number,
        offsets: &[(u32, i64)],
    ) -> Result<Vec<(Arc<Feed>, i64)>> {
        let group = &self.options.group;
        let since = Instant::now();
        let mut pause = Duration::from_millis(5);
        let mut told = false;
        loop {
            let (_under_way, member, ours) = self.ours.to_commit(offsets);
            if ours.len() != offsets.len() {
                return Err(Error::retry(
                    ABORTABLE,
                    format!("group `{group}` gave partitions away whose rows are in a transaction"),
                ));
            }
            if !number.newer && !told {
                coordinator.add_offsets(number, group).await?;
                told = true;
            }
            match self.offer_in(coordinator, number, &member, &ours).await {
                Ok(()) => return Ok(ours),
                Err(Refused::Failed(error)) => return Err(error),
                Err(Refused::Rebalancing(error)) => {
                    self.ours.poke.notify_one();
                    if since.elapsed() >= SETTLE_WITHIN {
                        return Err(error);
                    }
                }
                Err(Refused::Again(error)) => self.trouble.waits(COMMITS, &error),
            }
            // A revocation waits for commits that are under way.
            drop(_under_way);
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn offer_in(
        &self,
        coordinator: &Coordinator,
        number: Number,
        member: &Member,
        offsets: &[(Arc<Feed>, i64)],
    ) -> Result<(), Refused> {
        let group = &self.options.group;
        let doing = format!("committing for group `{group}` in a transaction");
        let mut topics: BTreeMap<&str, Vec<TxnOffsetCommitRequestPartition>> = BTreeMap::new();
        for (feed, offset) in offsets {
            let note = StrBytes::from_string(format!("{NOTE}{}", feed.topic_id));
            topics.entry(&feed.topic).or_default().push(
                TxnOffsetCommitRequestPartition::default()
                    .with_partition_index(feed.index)
                    .with_committed_offset(*offset)
                    .with_committed_leader_epoch(feed.epoch_before(*offset))
                    .with_committed_metadata(Some(note)),
            );
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            TxnOffsetCommitRequestTopic::default()
                .with_name(topic_name(topic))
                .with_partitions(partitions)
        });
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(coordinator.transactional_id())
            .with_group_id(StrBytes::from_string(group.clone()).into())
            .with_producer_id(number.id.into())
            .with_producer_epoch(number.epoch)
            .with_generation_id(member.generation)
            .with_member_id(StrBytes::from_string(member.id.clone()))
            .with_group_instance_id(self.instance())
            .with_topics(topics.collect());
        let asked = async {
            let connection = self.coordinator(Purpose::Commit).await?;
            let newest = if number.newer { 5 } else { 4 };
            let version = connection.version::<TxnOffsetCommitRequest>(newest)?;
            if version < 3 {
                return Err(Error::stop(
                    "unsupported",
                    "the brokers are too old for `delivery: exactly_once`: they do not see who of \
                     the group commits (KIP-447, Kafka 2.5)",
                ));
            }
            connection.call(&request, version, self.cluster.timeout()).await
        };
        let response = asked.await.map_err(|error| match error.disposition() {
            Disposition::Stop => Refused::Failed(error),
            _ => {
                self.forget_coordinator();
                Refused::Again(error)
            }
        })?;
        let codes = response.topics.iter().flat_map(|topic| &topic.partitions);
        let code = codes.map(|partition| partition.error_code).find(|code| *code != 0);
        let Some(code) = code else {
            self.trouble.goes_on(COMMITS);
            return Ok(());
        };
        Err(match code {
            REBALANCE_IN_PROGRESS | ILLEGAL_GENERATION | STALE_MEMBER_EPOCH => {
                let told = format!("{doing}: the group is being shared out anew");
                Refused::Rebalancing(Error::retry(ABORTABLE, told))
            }
            UNKNOWN_MEMBER_ID | FENCED_MEMBER_EPOCH => {
                self.ours.poke.notify_one();
                let told = format!("{doing}: the group has gone on without us");
                Refused::Failed(Error::retry(ABORTABLE, told))
            }
            FENCED_INSTANCE_ID => Refused::Failed(answered(&doing, code)),
            CONCURRENT_TRANSACTIONS => Refused::Again(Error::retry(ABORTABLE, doing)),
            code => {
                self.moved_if(code);
                let error = failed(&doing, code);
                match error.kind() {
                    "broker" | "no_topic" | NO_COORDINATOR
                        if error.disposition() == Disposition::Retry =>
                    {
                        Refused::Again(error)
                    }
                    _ => Refused::Failed(error),
                }
            }
        })
    }
}

/// The commits among the parts of a group's troubles.
const COMMITS: i64 = 1;
