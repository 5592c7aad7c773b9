//! The requests of members that are told what to read; see [`super::reconcile`].

use super::assign::Parts;
use super::reconcile::{self, Beat, JOIN, Known, LEAVE};
use super::{Client, Group, check_name};
use crate::broker::Inner;
use crate::wire::text;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::consumer_group_describe_response::{
    Assignment as DescribedAssignment, DescribedGroup, Member as DescribedMember,
    TopicPartitions as DescribedPartitions,
};
use kafka_protocol::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::{Duration, Instant};
use uuid::Uuid;

/// A member's type, in the protocol's numbers.
const CONSUMER: i8 = 1;

pub fn heartbeat(
    broker: &Inner,
    client: Client,
    request: ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatResponse {
    let options = &broker.groups.options;
    let group = request.group_id.to_string();
    let beat = beat(client, request);
    let member = beat.member.clone();
    let response = ConsumerGroupHeartbeatResponse::default()
        .with_heartbeat_interval_ms(options.heartbeat.as_millis() as i32);
    match told(broker, &group, beat) {
        Ok(told) => response
            .with_member_id(Some(StrBytes::from_string(member)))
            .with_member_epoch(told.epoch)
            .with_assignment(told.assigned.map(|parts| {
                let topics = by_topic(&parts).into_iter().map(|(id, partitions)| {
                    TopicPartitions::default().with_topic_id(id).with_partitions(partitions)
                });
                Assignment::default().with_topic_partitions(topics.collect())
            })),
        Err((error, message)) => ConsumerGroupHeartbeatResponse::default()
            .with_error_code(error.code())
            .with_error_message(Some(text(message))),
    }
}

fn beat(client: Client, request: ConsumerGroupHeartbeatRequest) -> Beat {
    let member = match request.member_id.is_empty() {
        // Before version 1 of the request a member got its id here.
        true => Uuid::new_v4().to_string(),
        false => request.member_id.to_string(),
    };
    let own = |text: Option<StrBytes>| text.map(|text| text.to_string());
    let rebalance = u64::try_from(request.rebalance_timeout_ms).ok();
    let owned = request.topic_partitions.map(|topics| {
        let parts = topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|partition| (topic.topic_id, *partition))
        });
        parts.collect()
    });
    Beat {
        member,
        epoch: request.member_epoch,
        instance: own(request.instance_id),
        rack: own(request.rack_id),
        client: client.id.to_string(),
        host: format!("/{}", client.ends.peer.ip()),
        rebalance: rebalance.map(Duration::from_millis),
        topics: request
            .subscribed_topic_names
            .map(|names| names.iter().map(|name| name.to_string()).collect()),
        regex: own(request.subscribed_topic_regex),
        assignor: own(request.server_assignor),
        owned,
    }
}

fn told(
    broker: &Inner,
    name: &str,
    beat: Beat,
) -> Result<reconcile::Told, (ResponseError, &'static str)> {
    let options = &broker.groups.options;
    check_name(name).map_err(|error| (error, "a group's name has 1 to 1,024 bytes"))?;
    let known = known(broker);
    let mut all = broker.groups.lock();
    let new = || {
        let room = broker.groups.room.clone();
        Group::Modern(reconcile::Group::new(options.session, options.members_max, room))
    };
    match all.get(name) {
        Some(Group::Modern(_)) => {}
        Some(Group::Classic(group)) if !group.is_empty() => {
            let what = "its members agree among themselves (group.protocol=classic): they must \
                        leave before one of the other kind can join";
            return Err((ResponseError::GroupIdNotFound, what));
        }
        _ if beat.epoch != JOIN => {
            return Err((ResponseError::UnknownMemberId, "the member is not in the group"));
        }
        _ => {
            let room = broker.groups.room(&mut all);
            room.map_err(|error| (error, "there are too many groups"))?;
            all.insert(name.to_owned(), new());
        }
    }
    let Some(Group::Modern(group)) = all.get_mut(name) else {
        return Err((ResponseError::UnknownServerError, "the group is gone"));
    };
    let leaves = beat.epoch <= LEAVE;
    let told = group.heartbeat(Instant::now(), beat, &known);
    if !leaves {
        broker.groups.changed.notify_one();
    }
    told
}

/// The topics as they are now, listed anew only when there are others.
fn known(broker: &Inner) -> Arc<Known> {
    let mut known = broker.groups.known.lock();
    let revision = broker.log.revision();
    if known.revision != revision {
        let topics = broker.log.topics();
        let topics = topics
            .iter()
            .map(|topic| (topic.name().to_owned(), (topic.id(), topic.partitions() as i32)));
        *known = Arc::new(Known { revision, topics: topics.collect() });
    }
    known.clone()
}

fn by_topic(parts: &Parts) -> BTreeMap<Uuid, Vec<i32>> {
    let mut topics: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in parts {
        topics.entry(*topic).or_default().push(*partition);
    }
    topics
}

pub fn describe(
    broker: &Inner,
    request: ConsumerGroupDescribeRequest,
) -> ConsumerGroupDescribeResponse {
    let all = broker.groups.lock();
    let groups = request.group_ids.into_iter().map(|id| {
        let described = DescribedGroup::default().with_group_id(id.clone());
        let Some(Group::Modern(group)) = all.get(id.as_str()) else {
            return described
                .with_error_code(ResponseError::GroupIdNotFound.code())
                .with_error_message(Some(text("there is no such group of this kind")))
                .with_group_state(text("Dead"));
        };
        let members = group.members.iter().map(|(id, member)| {
            DescribedMember::default()
                .with_member_id(text(id))
                .with_instance_id(member.instance.as_deref().map(text))
                .with_rack_id(member.rack.as_deref().map(text))
                .with_member_epoch(member.epoch)
                .with_client_id(text(&member.client))
                .with_client_host(text(&member.host))
                .with_subscribed_topic_names(
                    member.topics.iter().map(|name| TopicName(text(name))).collect(),
                )
                .with_assignment(described_parts(broker, &member.assigned))
                .with_target_assignment(described_parts(broker, &group.target_of(id)))
                .with_member_type(CONSUMER)
        });
        described
            .with_group_state(text(group.state_name()))
            .with_group_epoch(group.epoch)
            .with_assignment_epoch(group.epoch)
            .with_assignor_name(text(group.assignor.name()))
            .with_members(members.collect())
    });
    ConsumerGroupDescribeResponse::default().with_groups(groups.collect())
}

fn described_parts(broker: &Inner, parts: &Parts) -> DescribedAssignment {
    let topics = by_topic(parts).into_iter().filter_map(|(id, partitions)| {
        let topic = broker.log.topic_by_id(id)?;
        let described = DescribedPartitions::default()
            .with_topic_id(id)
            .with_topic_name(TopicName(text(topic.name())))
            .with_partitions(partitions);
        Some(described)
    });
    DescribedAssignment::default().with_topic_partitions(topics.collect())
}
