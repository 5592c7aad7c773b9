//! The requests of members that agree among themselves; see [`super::state`].

use super::state::{self, Join, Who};
use super::{Client, Group, check_name};
use crate::broker::Inner;
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

/// What members say to each other through the group is kept in memory.
const METADATA_BYTES_MAX: usize = 256 << 10;
const ASSIGNMENTS_BYTES_MAX: usize = 4 << 20;
const REBALANCE_MIN: Duration = Duration::from_millis(100);

pub async fn join(
    broker: &Arc<Inner>,
    client: Client,
    request: JoinGroupRequest,
    version: i16,
) -> JoinGroupResponse {
    // Not a slice of the request, which would be kept for as long as others are waited for.
    let member = request.member_id.to_string();
    let reply = match begin_join(broker, client, request, version) {
        Ok(reply) => reply.await,
        Err(error) => Ok(Err((error, member.clone()))),
    };
    match reply {
        Ok(Ok(joined)) => {
            let members = joined.members.into_iter().map(|(id, instance, metadata)| {
                JoinGroupResponseMember::default()
                    .with_member_id(StrBytes::from_string(id))
                    .with_group_instance_id(instance.map(StrBytes::from_string))
                    .with_metadata(metadata)
            });
            JoinGroupResponse::default()
                .with_generation_id(joined.generation)
                .with_protocol_type(Some(StrBytes::from_string(joined.kind)))
                .with_protocol_name(Some(StrBytes::from_string(joined.protocol)))
                .with_leader(StrBytes::from_string(joined.leader))
                .with_skip_assignment(joined.skip_assignment)
                .with_member_id(StrBytes::from_string(joined.member))
                .with_members(members.collect())
        }
        Ok(Err((error, id))) => refused(error, id, version),
        // Its place was taken by a later request of the same member.
        Err(_) => refused(ResponseError::RebalanceInProgress, member, version),
    }
}

fn refused(error: ResponseError, id: String, version: i16) -> JoinGroupResponse {
    // Only the latest version has a null for no protocol.
    let protocol = if version >= 7 { None } else { Some(StrBytes::default()) };
    JoinGroupResponse::default()
        .with_error_code(error.code())
        .with_generation_id(-1)
        .with_protocol_name(protocol)
        .with_member_id(StrBytes::from_string(id))
}

fn begin_join(
    broker: &Arc<Inner>,
    client: Client,
    request: JoinGroupRequest,
    version: i16,
) -> Result<oneshot::Receiver<state::JoinReply>, ResponseError> {
    let options = &broker.groups.options;
    check_name(&request.group_id)?;
    let millis = |ms: i32| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    let session = millis(request.session_timeout_ms);
    if session < options.session_min || session > options.session_max {
        return Err(ResponseError::InvalidSessionTimeout);
    }
    let said = request.protocols.iter().map(|said| said.name.len() + said.metadata.len());
    if said.sum::<usize>() > METADATA_BYTES_MAX {
        return Err(ResponseError::InvalidRequest);
    }
    let rebalance = match request.rebalance_timeout_ms {
        -1 => session,
        // None at all would end every rebalance before it began, over and over.
        ms => millis(ms).clamp(REBALANCE_MIN, options.session_max.max(REBALANCE_MIN)),
    };
    // Slices of a request would keep all of it in memory for as long as the group is there.
    let protocols = request
        .protocols
        .iter()
        .map(|protocol| (protocol.name.to_string(), Bytes::copy_from_slice(&protocol.metadata)));
    let join = Join {
        member: request.member_id.to_string(),
        instance: request.group_instance_id.as_ref().map(|instance| instance.to_string()),
        client: client.id.to_string(),
        host: format!("/{}", client.ends.peer.ip()),
        session,
        rebalance,
        kind: request.protocol_type.to_string(),
        protocols: protocols.collect(),
        knows_ids: version >= 4,
        knows_skip: version >= 9,
    };
    let (sender, receiver) = oneshot::channel();
    let mut all = broker.groups.lock();
    let name = request.group_id.as_str();
    let new = || {
        let room = broker.groups.room.clone();
        Group::Classic(state::Group::new(options.initial_delay, options.members_max, room))
    };
    match all.get(name) {
        None => {
            if !join.member.is_empty() {
                return Err(ResponseError::UnknownMemberId);
            }
            broker.groups.room(&mut all)?;
            all.insert(name.to_owned(), new());
        }
        Some(Group::Modern(group)) if group.members.is_empty() => {
            all.insert(name.to_owned(), new());
        }
        Some(Group::Modern(_)) => return Err(ResponseError::InconsistentGroupProtocol),
        Some(Group::Classic(_)) => {}
    }
    if let Some(Group::Classic(group)) = all.get_mut(name) {
        group.join(Instant::now(), join, sender);
    }
    broker.groups.changed.notify_one();
    Ok(receiver)
}

pub async fn sync(broker: &Arc<Inner>, request: SyncGroupRequest) -> SyncGroupResponse {
    let reply = match begin_sync(broker, request) {
        Ok(reply) => reply.await.unwrap_or(Err(ResponseError::RebalanceInProgress)),
        Err(error) => Err(error),
    };
    match reply {
        Ok(synced) => SyncGroupResponse::default()
            .with_protocol_type(Some(StrBytes::from_string(synced.kind)))
            .with_protocol_name(Some(StrBytes::from_string(synced.protocol)))
            .with_assignment(synced.assignment),
        Err(error) => SyncGroupResponse::default().with_error_code(error.code()),
    }
}

fn begin_sync(
    broker: &Arc<Inner>,
    request: SyncGroupRequest,
) -> Result<oneshot::Receiver<state::SyncReply>, ResponseError> {
    check_name(&request.group_id)?;
    let said: usize = request.assignments.iter().map(|to| to.assignment.len()).sum();
    if said > ASSIGNMENTS_BYTES_MAX {
        return Err(ResponseError::InvalidRequest);
    }
    let mut all = broker.groups.lock();
    let Some(Group::Classic(group)) = all.get_mut(request.group_id.as_str()) else {
        return Err(ResponseError::UnknownMemberId);
    };
    let differs =
        |said: &Option<StrBytes>, is: &str| said.as_ref().is_some_and(|s| s.as_str() != is);
    if differs(&request.protocol_type, &group.kind)
        || differs(&request.protocol_name, &group.protocol)
    {
        return Err(ResponseError::InconsistentGroupProtocol);
    }
    let who = Who {
        member: &request.member_id,
        generation: request.generation_id,
        instance: request.group_instance_id.as_deref(),
    };
    let assignments = request.assignments.iter().map(|assignment| {
        let bytes = Bytes::copy_from_slice(&assignment.assignment);
        (assignment.member_id.to_string(), bytes)
    });
    let (sender, receiver) = oneshot::channel();
    group.sync(Instant::now(), who, assignments.collect(), sender);
    broker.groups.changed.notify_one();
    Ok(receiver)
}

pub fn heartbeat(broker: &Inner, request: HeartbeatRequest) -> HeartbeatResponse {
    let done = check_name(&request.group_id).and_then(|()| {
        let mut all = broker.groups.lock();
        let Some(Group::Classic(group)) = all.get_mut(request.group_id.as_str()) else {
            return Err(ResponseError::UnknownMemberId);
        };
        let who = Who {
            member: &request.member_id,
            generation: request.generation_id,
            instance: request.group_instance_id.as_deref(),
        };
        group.heartbeat(Instant::now(), who)
    });
    HeartbeatResponse::default().with_error_code(done.err().map_or(0, |error| error.code()))
}

pub fn leave(broker: &Inner, request: LeaveGroupRequest, version: i16) -> LeaveGroupResponse {
    if let Err(error) = check_name(&request.group_id) {
        return LeaveGroupResponse::default().with_error_code(error.code());
    }
    let leaving: Vec<(StrBytes, Option<StrBytes>)> = match version {
        ..3 => vec![(request.member_id, None)],
        _ => request.members.into_iter().map(|m| (m.member_id, m.group_instance_id)).collect(),
    };
    let mut all = broker.groups.lock();
    let mut members = Vec::with_capacity(leaving.len());
    for (id, instance) in leaving {
        let left = match all.get_mut(request.group_id.as_str()) {
            Some(Group::Classic(group)) => group.leave(Instant::now(), &id, instance.as_deref()),
            Some(Group::Modern(group)) => group.leave(Instant::now(), &id, instance.as_deref()),
            None => Err(ResponseError::UnknownMemberId),
        };
        members.push(
            MemberResponse::default()
                .with_member_id(id)
                .with_group_instance_id(instance)
                .with_error_code(left.err().map_or(0, |error| error.code())),
        );
    }
    broker.groups.changed.notify_one();
    if version < 3 {
        let error = members.first().map_or(0, |member| member.error_code);
        return LeaveGroupResponse::default().with_error_code(error);
    }
    LeaveGroupResponse::default().with_members(members)
}
