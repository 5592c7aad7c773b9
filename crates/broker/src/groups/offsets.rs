//! How far groups have come: commits, durable before they are answered.

use super::state::Who;
use super::{Group, check_name};
use crate::broker::Inner;
use crate::dispatch::{Answered, Pending};
use crate::store::{Entry, Offset, Offsets, Place, now_ms};
use crate::wire::{Refused, Request, text};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
    OffsetFetchRequest, OffsetFetchResponse, TopicName,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::Instant;

const METADATA_BYTES_MAX: usize = 4_096;

/// Hands the offsets over at once, so that commits behind it on the connection share its sync.
pub fn commit(broker: &Arc<Inner>, frame: Request) -> Result<Pending, Refused> {
    let (request, frame) = frame.take::<OffsetCommitRequest>()?;
    let allowed = may_commit(broker, &request);
    let mut entries = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let log = broker.log.topic(&topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let index = u32::try_from(asked.partition_index).ok();
            let there = log.as_ref().zip(index).filter(|(log, index)| *index < log.partitions());
            let metadata = asked.committed_metadata.as_deref().unwrap_or_default();
            let offset = Offset {
                topic: topic.name.to_string(),
                offset: asked.committed_offset,
                epoch: asked.committed_leader_epoch,
                metadata: metadata.to_owned(),
                at_ms: now_ms(),
            };
            let error = match (allowed, there) {
                (Err(error), _) => Some(error),
                (_, None) => Some(ResponseError::UnknownTopicOrPartition),
                _ if metadata.len() > METADATA_BYTES_MAX => {
                    Some(ResponseError::OffsetMetadataTooLarge)
                }
                (_, Some((log, _))) => {
                    let (id, partition) = (log.id(), asked.partition_index);
                    match broker.store.has_room(&request.group_id, (id, partition), &offset) {
                        false => Some(ResponseError::InvalidCommitOffsetSize),
                        true => {
                            let group = request.group_id.to_string();
                            entries.push(Entry::Offset { group, id, partition, offset });
                            None
                        }
                    }
                }
            };
            partitions.push(
                OffsetCommitResponsePartition::default()
                    .with_partition_index(asked.partition_index)
                    .with_error_code(error.map_or(0, |error| error.code())),
            );
        }
        topics.push(
            OffsetCommitResponseTopic::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions),
        );
    }
    let kept = broker.store.apply(entries);
    Ok(Pending::begun(async move {
        if kept.done().await.is_err() {
            let partitions = topics.iter_mut().flat_map(|topic| &mut topic.partitions);
            for partition in partitions.filter(|partition| partition.error_code == 0) {
                partition.error_code = ResponseError::CoordinatorNotAvailable.code();
            }
        }
        Some(Answered::new(&frame, &OffsetCommitResponse::default().with_topics(topics)))
    }))
}

fn may_commit(broker: &Inner, request: &OffsetCommitRequest) -> Result<(), ResponseError> {
    check_name(&request.group_id)?;
    let generation = request.generation_id_or_member_epoch;
    match broker.groups.lock().get_mut(request.group_id.as_str()) {
        Some(Group::Modern(group)) => group.may_commit(&request.member_id, generation),
        Some(Group::Classic(group)) => {
            let who = Who {
                member: &request.member_id,
                generation,
                instance: request.group_instance_id.as_deref(),
            };
            group.may_commit(Instant::now(), who)
        }
        None if generation < 0 => Ok(()),
        // It was a member of a group that is not there any more.
        None => Err(ResponseError::UnknownMemberId),
    }
}

pub fn fetch(broker: &Inner, request: OffsetFetchRequest, version: i16) -> OffsetFetchResponse {
    if version >= 8 {
        let groups = request.groups.into_iter().map(|group| {
            let asked = group.topics.map(|topics| {
                let asked = topics.into_iter().map(|topic| (topic.name, topic.partition_indexes));
                asked.collect()
            });
            let response =
                OffsetFetchResponseGroup::default().with_group_id(group.group_id.clone());
            if let Err(error) =
                may_fetch(broker, &group.group_id, group.member_id.as_deref(), group.member_epoch)
            {
                return response.with_error_code(error.code());
            }
            let found = found(broker, &group.group_id, asked);
            let topics = found.into_iter().map(|(name, partitions)| {
                let partitions = partitions.into_iter().map(|(index, offset)| {
                    let offset = offset.unwrap_or_else(none);
                    OffsetFetchResponsePartitions::default()
                        .with_partition_index(index)
                        .with_committed_offset(offset.offset)
                        .with_committed_leader_epoch(offset.epoch)
                        .with_metadata(Some(text(&offset.metadata)))
                });
                OffsetFetchResponseTopics::default()
                    .with_name(name)
                    .with_partitions(partitions.collect())
            });
            response.with_topics(topics.collect())
        });
        return OffsetFetchResponse::default().with_groups(groups.collect());
    }
    let asked = request.topics.map(|topics| {
        topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect()
    });
    let topics = found(broker, &request.group_id, asked).into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|(index, offset)| {
            let offset = offset.unwrap_or_else(none);
            OffsetFetchResponsePartition::default()
                .with_partition_index(index)
                .with_committed_offset(offset.offset)
                .with_committed_leader_epoch(offset.epoch)
                .with_metadata(Some(text(&offset.metadata)))
        });
        OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions.collect())
    });
    OffsetFetchResponse::default().with_topics(topics.collect())
}

/// A member of a modern group asks in its epoch.
fn may_fetch(
    broker: &Inner,
    group: &str,
    member: Option<&str>,
    epoch: i32,
) -> Result<(), ResponseError> {
    match (broker.groups.lock().get_mut(group), member) {
        (Some(Group::Modern(group)), Some(member)) if epoch >= 0 => group.may_commit(member, epoch),
        _ => Ok(()),
    }
}

type Asked = Option<Vec<(TopicName, Vec<i32>)>>;
type Found = Vec<(TopicName, Vec<(i32, Option<Offset>)>)>;

/// What a group has committed in topics that are there; all of it where nothing is asked for.
fn found(broker: &Inner, group: &str, asked: Asked) -> Found {
    if let Some(asked) = asked {
        let found = asked.into_iter().map(|(name, indexes)| {
            let topic = broker.log.topic(&name);
            let offsets = indexes.into_iter().map(|index| {
                let place = topic.as_ref().map(|topic| (topic.id(), index));
                (index, place.and_then(|place| broker.store.offset(group, place)))
            });
            (name, offsets.collect())
        });
        return found.collect();
    }
    let mut topics: BTreeMap<TopicName, Vec<(i32, Option<Offset>)>> = BTreeMap::new();
    for ((id, partition), offset) in broker.store.offsets(group) {
        if let Some(topic) = broker.log.topic_by_id(id) {
            let name = TopicName(text(topic.name()));
            topics.entry(name).or_default().push((partition, Some(offset)));
        }
    }
    topics.into_iter().collect()
}

fn none() -> Offset {
    Offset { topic: String::new(), offset: -1, epoch: -1, metadata: String::new(), at_ms: 0 }
}

pub async fn delete(broker: &Arc<Inner>, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let name = request.group_id.to_string();
    let active = match broker.groups.lock().get(&name) {
        Some(group) => !group.is_empty(),
        None if !broker.store.has(&name) => {
            return OffsetDeleteResponse::default()
                .with_error_code(ResponseError::GroupIdNotFound.code());
        }
        None => false,
    };
    let kept: Offsets = broker.store.offsets(&name);
    let mut entries = Vec::new();
    let topics = request.topics.into_iter().map(|topic| {
        let log = broker.log.topic(&topic.name);
        let partitions = topic.partitions.into_iter().map(|asked| {
            let index = asked.partition_index;
            let place: Option<Place> = log.as_ref().map(|log| (log.id(), index));
            let error = match place {
                None => Some(ResponseError::UnknownTopicOrPartition),
                // What its members subscribe to is for themselves to read.
                Some(_) if active => Some(ResponseError::GroupSubscribedToTopic),
                Some(place) => {
                    if kept.contains_key(&place) {
                        entries.push(Entry::Forget { group: name.clone(), place: Some(place) });
                    }
                    None
                }
            };
            OffsetDeleteResponsePartition::default()
                .with_partition_index(index)
                .with_error_code(error.map_or(0, |error| error.code()))
        });
        let partitions = partitions.collect();
        OffsetDeleteResponseTopic::default().with_name(topic.name).with_partitions(partitions)
    });
    let topics = topics.collect();
    match broker.store.apply(entries).done().await {
        Ok(()) => OffsetDeleteResponse::default().with_topics(topics),
        Err(_) => OffsetDeleteResponse::default()
            .with_error_code(ResponseError::CoordinatorNotAvailable.code()),
    }
}
