//! What clients learn of the cluster: one broker, and its topics.

use crate::broker::{EPOCH, Inner, NODE, blocking};
use crate::connection::Ends;
use crate::error::code;
use crate::wire::text;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_acls_response::AclCreationResult;
use kafka_protocol::messages::delete_acls_response::DeleteAclsFilterResult;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId, CreateAclsRequest, CreateAclsResponse, DeleteAclsRequest, DeleteAclsResponse,
    DescribeAclsResponse, DescribeClusterRequest, DescribeClusterResponse,
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use millstream_log::{Topic, TopicOptions};
use std::sync::Arc;

const GROUP: i8 = 0;
/// Partitions in one answer to a tool that describes topics page by page.
const PAGE: usize = 2_000;

pub async fn metadata(
    broker: &Arc<Inner>,
    ends: Ends,
    request: MetadataRequest,
    version: i16,
) -> MetadataResponse {
    let create = request.allow_auto_topic_creation || version < 4;
    let topics = match request.topics {
        // In version 0 an empty list means all of them, as none does later.
        None => all(broker),
        Some(asked) if asked.is_empty() && version == 0 => all(broker),
        Some(asked) => {
            let mut topics = Vec::with_capacity(asked.len());
            for asked in asked {
                topics.push(one(broker, asked, create).await);
            }
            topics
        }
    };
    let (host, port) = broker.advertised(ends.local);
    let node = MetadataResponseBroker::default()
        .with_node_id(NODE.into())
        .with_host(StrBytes::from_string(host))
        .with_port(port);
    MetadataResponse::default()
        .with_brokers(vec![node])
        .with_cluster_id(Some(text(broker.store.cluster())))
        .with_controller_id(NODE.into())
        .with_topics(topics)
}

fn all(broker: &Inner) -> Vec<MetadataResponseTopic> {
    broker.log.topics().iter().map(described).collect()
}

async fn one(
    broker: &Arc<Inner>,
    asked: MetadataRequestTopic,
    create: bool,
) -> MetadataResponseTopic {
    let name = asked.name.clone().unwrap_or_default();
    if let Some(topic) = broker.topic(&name, asked.topic_id) {
        return described(&topic);
    }
    let failed = |error: ResponseError| {
        MetadataResponseTopic::default()
            .with_name(asked.name.clone())
            .with_topic_id(asked.topic_id)
            .with_error_code(error.code())
    };
    if !asked.topic_id.is_nil() {
        return failed(ResponseError::UnknownTopicId).with_name(None);
    }
    let Some(partitions) = broker.options.auto_create.filter(|_| create) else {
        return failed(ResponseError::UnknownTopicOrPartition);
    };
    let (inner, wanted) = (broker.clone(), name.to_string());
    let made = blocking(move || {
        let options = TopicOptions { partitions, ..TopicOptions::default() };
        inner.log.create_topic(&wanted, options)
    });
    match made.await {
        Ok(topic) => {
            tracing::info!(topic = topic.name(), partitions, "a Kafka client's topic was made");
            described(&topic)
        }
        // Another client was faster.
        Err(error) => match broker.log.topic(&name) {
            Some(topic) => described(&topic),
            None => failed(code(&error)),
        },
    }
}

fn described(topic: &Topic) -> MetadataResponseTopic {
    let partitions = (0..topic.partitions()).map(|index| {
        MetadataResponsePartition::default()
            .with_partition_index(index as i32)
            .with_leader_id(NODE.into())
            .with_leader_epoch(EPOCH)
            .with_replica_nodes(replicas())
            .with_isr_nodes(replicas())
    });
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(text(topic.name()))))
        .with_topic_id(topic.id())
        .with_partitions(partitions.collect())
}

fn replicas() -> Vec<BrokerId> {
    vec![NODE.into()]
}

pub fn describe(
    broker: &Inner,
    ends: Ends,
    request: DescribeClusterRequest,
    version: i16,
) -> DescribeClusterResponse {
    let (host, port) = broker.advertised(ends.local);
    let node = DescribeClusterBroker::default()
        .with_broker_id(NODE.into())
        .with_host(StrBytes::from_string(host))
        .with_port(port);
    let response = DescribeClusterResponse::default()
        .with_cluster_id(text(broker.store.cluster()))
        .with_controller_id(NODE.into());
    match request.endpoint_type {
        1 => response.with_brokers(vec![node]),
        // Controllers are not to be talked to.
        other if version >= 1 => response
            .with_endpoint_type(other)
            .with_error_code(ResponseError::MismatchedEndpointType.code())
            .with_error_message(Some(text("only the broker's endpoint can be described"))),
        _ => response.with_brokers(vec![node]),
    }
}

pub fn find_coordinator(
    broker: &Inner,
    ends: Ends,
    request: FindCoordinatorRequest,
    version: i16,
) -> FindCoordinatorResponse {
    let (host, port) = broker.advertised(ends.local);
    let host = StrBytes::from_string(host);
    let ours = request.key_type == GROUP;
    let refused = (!ours).then(|| {
        text("this log has groups of consumers; it has no transactions and no share groups")
    });
    let error = if ours { 0 } else { crate::transactions::REFUSED.code() };
    if version < 4 {
        let response =
            FindCoordinatorResponse::default().with_error_code(error).with_error_message(refused);
        return match ours {
            true => response.with_node_id(NODE.into()).with_host(host).with_port(port),
            false => response.with_node_id((-1).into()).with_port(-1),
        };
    }
    let coordinators = request.coordinator_keys.into_iter().map(|key| {
        let found = Coordinator::default()
            .with_key(key)
            .with_error_code(error)
            .with_error_message(refused.clone());
        match ours {
            true => found.with_node_id(NODE.into()).with_host(host.clone()).with_port(port),
            false => found.with_node_id((-1).into()).with_port(-1),
        }
    });
    FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
}

pub fn topic_partitions(
    broker: &Inner,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let limit = usize::try_from(request.response_partition_limit).unwrap_or(0).clamp(1, PAGE);
    let mut names: Vec<TopicName> = match request.topics.is_empty() {
        true => broker.log.topics().iter().map(|topic| TopicName(text(topic.name()))).collect(),
        false => request.topics.into_iter().map(|topic| topic.name).collect(),
    };
    names.sort();
    names.dedup();
    let mut from = 0;
    if let Some(cursor) = request.cursor {
        names.retain(|name| *name >= cursor.topic_name);
        if names.first() == Some(&cursor.topic_name) {
            from = u32::try_from(cursor.partition_index).unwrap_or(0);
        }
    }
    let mut left = limit;
    let mut topics = Vec::new();
    let mut next = None;
    for name in names {
        if left == 0 {
            next = Some(Cursor::default().with_topic_name(name).with_partition_index(0));
            break;
        }
        let response =
            DescribeTopicPartitionsResponseTopic::default().with_name(Some(name.clone()));
        let Some(topic) = broker.log.topic(&name) else {
            let error = match name.is_empty() {
                true => ResponseError::InvalidTopicException,
                false => ResponseError::UnknownTopicOrPartition,
            };
            topics.push(response.with_error_code(error.code()));
            continue;
        };
        let first = std::mem::take(&mut from);
        let partitions: Vec<_> = (first..topic.partitions())
            .take(left)
            .map(|index| {
                DescribeTopicPartitionsResponsePartition::default()
                    .with_partition_index(index as i32)
                    .with_leader_id(NODE.into())
                    .with_leader_epoch(EPOCH)
                    .with_replica_nodes(replicas())
                    .with_isr_nodes(replicas())
                    .with_eligible_leader_replicas(Some(Vec::new()))
                    .with_last_known_elr(Some(Vec::new()))
            })
            .collect();
        left -= partitions.len();
        let after = first + partitions.len() as u32;
        topics.push(response.with_topic_id(topic.id()).with_partitions(partitions));
        if after < topic.partitions() {
            next = Some(Cursor::default().with_topic_name(name).with_partition_index(after as i32));
            break;
        }
    }
    DescribeTopicPartitionsResponse::default().with_topics(topics).with_next_cursor(next)
}

fn no_acls() -> (i16, Option<StrBytes>) {
    let message = text("no authorizer is configured: there are no access control lists here");
    (ResponseError::SecurityDisabled.code(), Some(message))
}

pub fn describe_acls() -> DescribeAclsResponse {
    let (error, message) = no_acls();
    DescribeAclsResponse::default().with_error_code(error).with_error_message(message)
}

pub fn create_acls(request: CreateAclsRequest) -> CreateAclsResponse {
    let results = request.creations.iter().map(|_| {
        let (error, message) = no_acls();
        AclCreationResult::default().with_error_code(error).with_error_message(message)
    });
    CreateAclsResponse::default().with_results(results.collect())
}

pub fn delete_acls(request: DeleteAclsRequest) -> DeleteAclsResponse {
    let results = request.filters.iter().map(|_| {
        let (error, message) = no_acls();
        DeleteAclsFilterResult::default().with_error_code(error).with_error_message(message)
    });
    DeleteAclsResponse::default().with_filter_results(results.collect())
}
