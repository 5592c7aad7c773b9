//! The group's offsets: fetched when a partition becomes ours, committed while it is.
//!
//! A commit carries the topic's id as its note. A topic that was made again has another one, so
//! that an old offset is never taken for one of the new topic.

use super::super::cluster::{EARLIEST, LATEST, Purpose, moved, topic_name};
use super::super::error::{
    FENCED_INSTANCE_ID, FENCED_MEMBER_EPOCH, ILLEGAL_GENERATION, REBALANCE_IN_PROGRESS,
    STALE_MEMBER_EPOCH, UNKNOWN_MEMBER_ID, answered,
};
use super::super::feed::Feed;
use super::assignor::TopicPartition;
use super::ours::{Begin, Member};
use super::{Context, StartAt};
use futures::StreamExt;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetFetchRequest};
use kafka_protocol::protocol::StrBytes;
use millstream_core::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// What stands before the topic's id in a commit's note.
pub(super) const NOTE: &str = "topic ";

/// How many partitions are asked about at the same time.
const AT_ONCE: usize = 16;

/// Where partitions begin, as far as it could be found out.
pub(super) struct Beginnings {
    pub begins: Vec<(Arc<Feed>, Begin)>,
    /// Offsets that only a commit keeps.
    to_keep: Vec<(Arc<Feed>, i64)>,
    /// Why the others are not there.
    pub failed: Option<Error>,
}

struct Found {
    offset: i64,
    /// The leader's epoch of the record before it; -1 where nobody said.
    epoch: i32,
    note: String,
}

impl Context {
    /// Where these begin. One that cannot be asked about now does not keep the others.
    pub(super) async fn begins(&self, feeds: &[Arc<Feed>]) -> Result<Beginnings> {
        let mut found = self.would_begin(feeds).await?;
        // A task that comes after this one, before anything else was committed, must not begin at a
        // later end.
        if !found.to_keep.is_empty() {
            let kept = match self.commit_for(self.ours.member(), &found.to_keep).await {
                Ok(kept) => kept,
                Err(error) => {
                    found.failed.get_or_insert(error);
                    Vec::new()
                }
            };
            let kept: HashSet<u32> = kept.iter().map(|(feed, _)| feed.id).collect();
            found.to_keep.retain(|(feed, _)| !kept.contains(&feed.id));
            let lost: HashSet<u32> = found.to_keep.iter().map(|(feed, _)| feed.id).collect();
            found.begins.retain(|(feed, _)| !lost.contains(&feed.id));
            if !lost.is_empty() {
                found.failed.get_or_insert_with(|| {
                    Error::retry("broker", "only some of the beginnings were committed")
                });
            }
        }
        Ok(found)
    }

    /// The same, and nothing is noted.
    pub(super) async fn would_begin(&self, feeds: &[Arc<Feed>]) -> Result<Beginnings> {
        let partitions = feeds.iter().map(|f| (f.topic.clone(), f.index)).collect();
        let (known, mut unknown) = self.fetch_offsets(&partitions).await?;
        let mut asked = Vec::new();
        for feed in feeds {
            let partition = (feed.topic.clone(), feed.index);
            let refused = unknown.remove(&partition);
            asked.push(self.begin_of(feed, known.get(&partition), refused));
        }
        let mut asked = futures::stream::iter(asked).buffered(AT_ONCE);
        let mut found = Beginnings { begins: Vec::new(), to_keep: Vec::new(), failed: None };
        for feed in feeds {
            match asked.next().await {
                Some(Ok((begin, keep))) => {
                    if keep {
                        found.to_keep.push((feed.clone(), begin.offset));
                    }
                    found.begins.push((feed.clone(), begin));
                }
                Some(Err(error)) => drop(found.failed.get_or_insert(error)),
                None => break,
            }
        }
        Ok(found)
    }

    /// Where one begins, and whether only a commit keeps that.
    async fn begin_of(
        &self,
        feed: &Feed,
        found: Option<&Found>,
        refused: Option<Error>,
    ) -> Result<(Begin, bool)> {
        if let Some(error) = refused {
            return Err(error);
        }
        let of_another = found.is_some_and(|found| is_of_another(&found.note, feed.topic_id));
        if of_another {
            tracing::warn!(
                topic = &*feed.topic,
                partition = feed.index,
                "the topic was made again: its old offset is not used, it is read from its beginning"
            );
        }
        let at = |time| self.cluster.offset_at(&feed.topic, feed.index, time, self.committed_only);
        let earliest = async || Ok::<_, Error>(at(EARLIEST).await?.unwrap_or(0));
        let mut begin = Begin { offset: 0, epoch: -1, refused: None };
        let mut keep = false;
        begin.offset = match found.filter(|_| !of_another) {
            Some(found) => {
                begin.epoch = found.epoch;
                found.offset
            }
            // Nobody has read it: what came before we knew of it counts too.
            None if of_another || !self.at_start.contains(&(feed.topic.clone(), feed.index)) => {
                earliest().await?
            }
            None => match self.options.start {
                StartAt::Earliest => earliest().await?,
                StartAt::Latest => {
                    keep = true;
                    at(LATEST).await?.unwrap_or(0)
                }
                StartAt::Time(time) => match at(time).await? {
                    Some(offset) => offset,
                    None => at(LATEST).await?.unwrap_or(0),
                },
                StartAt::Committed => {
                    begin.refused = Some(format!(
                        "group `{}` has no offset for partition {} of `{}`: set one with \
                         `millstream offsets reset`, or choose another `start`",
                        self.options.group, feed.index, feed.topic
                    ));
                    0
                }
            },
        };
        Ok((begin, keep))
    }

    /// The commits of these that there are, waiting for those that a transaction is about to make.
    pub(super) async fn known_commits(
        &self,
        feeds: &[Arc<Feed>],
    ) -> Result<Vec<(Arc<Feed>, Begin)>> {
        let partitions = feeds.iter().map(|f| (f.topic.clone(), f.index)).collect();
        let (known, unknown) = self.fetch_offsets(&partitions).await?;
        if let Some(error) = unknown.into_values().next() {
            return Err(error);
        }
        let commit = |feed: &Arc<Feed>| {
            let found = known.get(&(feed.topic.clone(), feed.index))?;
            let ours = !is_of_another(&found.note, feed.topic_id);
            let begin = Begin { offset: found.offset, epoch: found.epoch, refused: None };
            ours.then(|| (feed.clone(), begin))
        };
        Ok(feeds.iter().filter_map(commit).collect())
    }

    /// The second are those that the group cannot tell of now.
    async fn fetch_offsets(
        &self,
        partitions: &BTreeSet<TopicPartition>,
    ) -> Result<(HashMap<TopicPartition, Found>, HashMap<TopicPartition, Error>)> {
        let group = &self.options.group;
        let doing = || format!("asking for the offsets of group `{group}`");
        let mut by_topic: BTreeMap<&Arc<str>, Vec<i32>> = BTreeMap::new();
        for (topic, index) in partitions {
            by_topic.entry(topic).or_default().push(*index);
        }
        let connection = self.coordinator(Purpose::Commit).await?;
        let version = connection.version::<OffsetFetchRequest>(9)?;
        let id = StrBytes::from_string(group.clone());
        let request = match version {
            8.. => OffsetFetchRequest::default().with_require_stable(true).with_groups(vec![
                OffsetFetchRequestGroup::default()
                    .with_group_id(id.into())
                    .with_member_epoch(-1)
                    .with_topics(Some(
                        by_topic
                            .into_iter()
                            .map(|(topic, indexes)| {
                                OffsetFetchRequestTopics::default()
                                    .with_name(topic_name(topic))
                                    .with_partition_indexes(indexes)
                            })
                            .collect(),
                    )),
            ]),
            _ => OffsetFetchRequest::default()
                .with_group_id(id.into())
                .with_require_stable(version >= 7)
                .with_topics(Some(
                    by_topic
                        .into_iter()
                        .map(|(topic, indexes)| {
                            OffsetFetchRequestTopic::default()
                                .with_name(topic_name(topic))
                                .with_partition_indexes(indexes)
                        })
                        .collect(),
                )),
        };
        let response = connection.call(&request, version, self.cluster.timeout()).await?;
        let (code, topics) = match response.groups.into_iter().next() {
            Some(group) => {
                let topics = group.topics.into_iter().map(|topic| {
                    let partitions = topic.partitions.into_iter().map(|p| {
                        let found = (p.committed_offset, p.committed_leader_epoch, p.metadata);
                        (p.partition_index, found, p.error_code)
                    });
                    (topic.name, partitions.collect::<Vec<_>>())
                });
                (group.error_code, topics.collect::<Vec<_>>())
            }
            None => {
                let topics = response.topics.into_iter().map(|topic| {
                    let partitions = topic.partitions.into_iter().map(|p| {
                        let found = (p.committed_offset, p.committed_leader_epoch, p.metadata);
                        (p.partition_index, found, p.error_code)
                    });
                    (topic.name, partitions.collect::<Vec<_>>())
                });
                (response.error_code, topics.collect::<Vec<_>>())
            }
        };
        if code != 0 {
            self.moved_if(code);
            return Err(answered(doing(), code));
        }
        let (mut found, mut unknown) = (HashMap::new(), HashMap::new());
        for (topic, partitions) in topics {
            let topic: Arc<str> = topic.as_str().into();
            for (index, (offset, epoch, note), code) in partitions {
                if code != 0 {
                    unknown.insert((topic.clone(), index), answered(doing(), code));
                } else if offset >= 0 {
                    let note = note.map(|note| note.as_str().to_owned()).unwrap_or_default();
                    found.insert((topic.clone(), index), Found { offset, epoch, note });
                }
            }
        }
        Ok((found, unknown))
    }

    /// Commits what is ours and gives what is durable.
    pub(super) async fn commit(&self, offsets: &[(u32, i64)]) -> Result<Vec<(u32, i64)>> {
        let (_under_way, member, ours) = self.ours.to_commit(offsets);
        if ours.is_empty() {
            return Ok(Vec::new());
        }
        let done = self.commit_for(member, &ours).await?;
        for (feed, offset) in &done {
            self.ours.committed(feed, *offset);
        }
        Ok(done.into_iter().map(|(feed, offset)| (feed.id, offset)).collect())
    }

    async fn commit_for(
        &self,
        member: Member,
        offsets: &[(Arc<Feed>, i64)],
    ) -> Result<Vec<(Arc<Feed>, i64)>> {
        let group = &self.options.group;
        let doing = || format!("committing for group `{group}`");
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for (feed, offset) in offsets {
            let note = StrBytes::from_string(format!("{NOTE}{}", feed.topic_id));
            topics.entry(&feed.topic).or_default().push(
                OffsetCommitRequestPartition::default()
                    .with_partition_index(feed.index)
                    .with_committed_offset(*offset)
                    .with_committed_leader_epoch(feed.epoch_before(*offset))
                    .with_committed_metadata(Some(note)),
            );
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            OffsetCommitRequestTopic::default()
                .with_name(topic_name(topic))
                .with_partitions(partitions)
        });
        let request = OffsetCommitRequest::default()
            .with_group_id(StrBytes::from_string(group.clone()).into())
            .with_generation_id_or_member_epoch(member.generation)
            .with_member_id(StrBytes::from_string(member.id.clone()))
            .with_group_instance_id(match member.id.is_empty() {
                true => None,
                false => self.instance(),
            })
            .with_topics(topics.collect());
        let connection = self.coordinator(Purpose::Commit).await?;
        let version = connection.version::<OffsetCommitRequest>(9)?;
        let response = connection.call(&request, version, self.cluster.timeout()).await?;
        let mut done = Vec::new();
        let mut failed = None;
        for topic in response.topics {
            for partition in topic.partitions {
                match partition.error_code {
                    0 => {
                        let found = offsets.iter().find(|(feed, _)| {
                            *feed.topic == *topic.name.as_str()
                                && feed.index == partition.partition_index
                        });
                        done.extend(found.cloned());
                    }
                    UNKNOWN_MEMBER_ID | FENCED_MEMBER_EPOCH => {
                        self.ours.poke.notify_one();
                        failed = Some(Error::retry(
                            "not_a_member",
                            format!("{}: the group has gone on without us", doing()),
                        ));
                    }
                    REBALANCE_IN_PROGRESS | ILLEGAL_GENERATION | STALE_MEMBER_EPOCH => {
                        self.ours.poke.notify_one();
                        failed = Some(Error::retry(
                            "rebalancing",
                            format!("{}: the group is being shared out anew", doing()),
                        ));
                    }
                    FENCED_INSTANCE_ID => {
                        self.ours.poke.notify_one();
                        return Err(self.fenced());
                    }
                    code => {
                        self.moved_if(code);
                        failed = Some(answered(doing(), code));
                    }
                }
            }
        }
        match failed {
            // What was taken is durable whatever became of the rest, which is offered again.
            Some(error) if done.is_empty() => Err(error),
            _ => Ok(done),
        }
    }

    /// The operator's commit: whatever was read before.
    pub(super) async fn commit_chosen(&self, offsets: &[(u32, i64)]) -> Result<Vec<(u32, i64)>> {
        let feeds = offsets.iter().filter_map(|(number, _)| self.ours.feed(*number));
        feeds.for_each(|feed| feed.forget_eras());
        self.commit(offsets).await
    }

    /// Sets offsets of a group without members.
    pub(super) async fn set_offsets(&self, offsets: &[(Arc<Feed>, i64)]) -> Result<()> {
        let nobody = Member { id: String::new(), generation: -1 };
        let group = &self.options.group;
        let done = self.commit_for(nobody, offsets).await.map_err(|error| match error.kind() {
            "not_a_member" | "rebalancing" => Error::stop(
                "group_in_use",
                format!("group `{group}` has members: stop every process that reads with it first"),
            ),
            _ => error,
        })?;
        match done.len() == offsets.len() {
            true => Ok(()),
            false => Err(Error::retry("broker", "only some of the offsets were set: try again")),
        }
    }

    pub(super) fn moved_if(&self, code: i16) {
        if moved(code) {
            self.forget_coordinator();
        }
    }
}

fn is_of_another(note: &str, topic_id: Uuid) -> bool {
    let noted = note.strip_prefix(NOTE).and_then(|id| id.parse::<Uuid>().ok());
    noted.is_some_and(|noted| noted != topic_id && !topic_id.is_nil())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_of_a_topic_that_was_made_again_is_known() {
        let (old, new) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert!(is_of_another(&format!("topic {old}"), new));
        assert!(!is_of_another(&format!("topic {new}"), new));
        // Another program's commit says nothing.
        assert!(!is_of_another("", new));
        assert!(!is_of_another("topic of conversation", new));
    }
}
