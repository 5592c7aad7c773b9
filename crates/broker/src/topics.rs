//! Topics made, grown, emptied and deleted by clients.

use crate::broker::{Inner, NODE, blocking};
use crate::configs::{self, Wrong};
use crate::error::code;
use crate::wire::text;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest,
    CreateTopicsResponse, DeleteRecordsRequest, DeleteRecordsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse, TopicName,
};
use millstream_log::{Topic, TopicOptions, check_topic_name};
use std::collections::HashSet;
use std::sync::Arc;
use uuid::Uuid;

pub async fn create(
    broker: &Arc<Inner>,
    request: CreateTopicsRequest,
    version: i16,
) -> CreateTopicsResponse {
    let inner = broker.clone();
    blocking(move || {
        let mut names = HashSet::new();
        let validate = request.validate_only;
        let mut results = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let name = topic.name.clone();
            let made = match names.insert(name.clone()) {
                true => create_one(&inner, topic, validate),
                false => Err(Wrong::new(ResponseError::InvalidRequest, "it is named twice")),
            };
            results.push(created(name, made, version));
        }
        CreateTopicsResponse::default().with_topics(results)
    })
    .await
}

/// What a topic was made with; of one that was only asked about there is no id.
type Made = (Uuid, TopicOptions);

fn create_one(broker: &Inner, topic: CreatableTopic, validate: bool) -> Result<Made, Wrong> {
    check_topic_name(&topic.name)?;
    let assigned = topic.assignments.len();
    let here = [BrokerId::from(NODE)];
    if topic.assignments.iter().any(|assignment| assignment.broker_ids != here) {
        let what = "there is one broker, 1, which has the only replica of every partition";
        return Err(Wrong::new(ResponseError::InvalidReplicaAssignment, what));
    }
    if assigned == 0 && !matches!(topic.replication_factor, -1 | 1) {
        let what = format!(
            "replication factor: {} larger than available brokers: 1",
            topic.replication_factor
        );
        return Err(Wrong::new(ResponseError::InvalidReplicationFactor, what));
    }
    let partitions = match (assigned, topic.num_partitions) {
        (0, -1) => broker.options.auto_create.unwrap_or(1),
        (0, count) => u32::try_from(count).unwrap_or(0),
        (count, _) => count as u32,
    };
    let mut options = TopicOptions { partitions, ..TopicOptions::default() };
    for config in &topic.configs {
        configs::set(&mut options, &config.name, config.value.as_deref())?;
    }
    if validate {
        return match broker.log.topic(&topic.name) {
            Some(_) => Err(Wrong::from(millstream_log::Error::TopicExists(topic.name.to_string()))),
            None => {
                options.check()?;
                Ok((Uuid::nil(), options))
            }
        };
    }
    let made = broker.log.create_topic(&topic.name, options)?;
    Ok((made.id(), made.options().clone()))
}

fn created(name: TopicName, made: Result<Made, Wrong>, version: i16) -> CreatableTopicResult {
    let result = CreatableTopicResult::default().with_name(name);
    let (id, options) = match made {
        Ok(made) => made,
        Err(Wrong { code, message }) => {
            return result.with_error_code(code.code()).with_error_message(Some(text(&message)));
        }
    };
    // What it was made with is not told before version 5, its id not before 7.
    if version < 5 {
        return result;
    }
    let configs = configs::of_topic(&options).map(|config| {
        CreatableTopicConfigs::default()
            .with_name(text(config.name))
            .with_value(Some(text(&config.value)))
            .with_read_only(config.read_only)
            .with_config_source(config.source())
    });
    result
        .with_topic_id(if version >= 7 { id } else { Uuid::nil() })
        .with_num_partitions(options.partitions as i32)
        .with_replication_factor(1)
        .with_configs(Some(configs.collect()))
}

pub async fn delete(
    broker: &Arc<Inner>,
    request: DeleteTopicsRequest,
    version: i16,
) -> DeleteTopicsResponse {
    let inner = broker.clone();
    blocking(move || {
        let by_name = request.topic_names.into_iter().map(|name| (Some(name), Uuid::nil()));
        let by_state = request.topics.into_iter().map(|topic| (topic.name, topic.topic_id));
        let results = by_name.chain(by_state).map(|(name, id)| {
            let result = DeletableTopicResult::default().with_name(name.clone());
            let result = if version >= 6 { result.with_topic_id(id) } else { result };
            let topic = inner.topic(name.as_deref().map_or("", |name| name), id);
            let unknown = match id.is_nil() {
                true => ResponseError::UnknownTopicOrPartition,
                false => ResponseError::UnknownTopicId,
            };
            let deleted = match topic {
                None => Err(Wrong::new(unknown, "there is no such topic")),
                Some(topic) => {
                    let name = TopicName(text(topic.name()));
                    let result = result.clone().with_name(Some(name));
                    let deleted = match inner.user_of(topic.name()) {
                        Some(user) => {
                            let what = format!(
                                "{user} uses the topic `{}`: stop it before deleting the topic",
                                topic.name()
                            );
                            Err(Wrong::new(ResponseError::PolicyViolation, what))
                        }
                        None => inner.log.delete_topic(topic.name()).map_err(Wrong::from),
                    };
                    deleted.map(|()| result)
                }
            };
            match deleted {
                Ok(result) => result,
                Err(Wrong { code, message }) => result
                    .with_error_code(code.code())
                    .with_error_message((version >= 5).then(|| text(&message))),
            }
        });
        DeleteTopicsResponse::default().with_responses(results.collect())
    })
    .await
}

pub async fn create_partitions(
    broker: &Arc<Inner>,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let inner = broker.clone();
    blocking(move || {
        let validate = request.validate_only;
        let results = request.topics.into_iter().map(|topic| {
            let result = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
            match grow(&inner, topic, validate) {
                Ok(()) => result,
                Err(Wrong { code, message }) => {
                    result.with_error_code(code.code()).with_error_message(Some(text(&message)))
                }
            }
        });
        CreatePartitionsResponse::default().with_results(results.collect())
    })
    .await
}

fn grow(broker: &Inner, asked: CreatePartitionsTopic, validate: bool) -> Result<(), Wrong> {
    let Some(topic) = broker.log.topic(&asked.name) else {
        return Err(Wrong::new(ResponseError::UnknownTopicOrPartition, "there is no such topic"));
    };
    let count = u32::try_from(asked.count).unwrap_or(0);
    if count <= topic.partitions() {
        let what = format!(
            "the topic has {} partitions already, and partitions are never taken away",
            topic.partitions()
        );
        return Err(Wrong::new(ResponseError::InvalidPartitions, what));
    }
    match validate {
        true => TopicOptions { partitions: count, ..topic.options().clone() }.check()?,
        false => drop(broker.log.add_partitions(&asked.name, count)?),
    }
    Ok(())
}

pub async fn delete_records(
    broker: &Arc<Inner>,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let inner = broker.clone();
    blocking(move || {
        let topics = request.topics.into_iter().map(|asked| {
            let topic = inner.log.topic(&asked.name);
            let partitions = asked.partitions.into_iter().map(|asked| {
                let result = DeleteRecordsPartitionResult::default()
                    .with_partition_index(asked.partition_index);
                match empty(topic.as_ref(), asked.partition_index, asked.offset) {
                    Ok(start) => result.with_low_watermark(start),
                    Err(error) => result.with_low_watermark(-1).with_error_code(error.code()),
                }
            });
            let partitions = partitions.collect();
            DeleteRecordsTopicResult::default().with_name(asked.name).with_partitions(partitions)
        });
        DeleteRecordsResponse::default().with_topics(topics.collect())
    })
    .await
}

/// Deletes what lies below an offset, or everything for -1.
fn empty(topic: Option<&Topic>, index: i32, offset: i64) -> Result<i64, ResponseError> {
    let index = u32::try_from(index).ok();
    let partition = topic.and_then(|topic| topic.partition(index?));
    let partition = partition.ok_or(ResponseError::UnknownTopicOrPartition)?;
    let upto = match offset {
        -1 => partition.end_offset(),
        0.. => offset,
        _ => return Err(ResponseError::OffsetOutOfRange),
    };
    partition.delete_before(upto).map_err(|error| code(&error))
}
