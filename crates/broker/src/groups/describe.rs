//! What tools ask about groups, and deleting them.

use super::{Group, check_name};
use crate::broker::Inner;
use crate::store::Entry;
use crate::wire::text;
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    GroupId, ListGroupsRequest, ListGroupsResponse,
};
use std::sync::Arc;

pub fn describe(
    broker: &Inner,
    request: DescribeGroupsRequest,
    version: i16,
) -> DescribeGroupsResponse {
    let all = broker.groups.lock();
    let groups = request.groups.into_iter().map(|id| {
        let described = DescribedGroup::default().with_group_id(id.clone());
        let group = match all.get(id.as_str()) {
            Some(Group::Classic(group)) => group,
            None if broker.store.has(&id) => return described.with_group_state(text("Empty")),
            _ => {
                let described = described.with_group_state(text("Dead"));
                return match version {
                    6.. => described
                        .with_error_code(ResponseError::GroupIdNotFound.code())
                        .with_error_message(Some(text("there is no such group of this kind"))),
                    _ => described,
                };
            }
        };
        let members = group.members.iter().map(|(id, member)| {
            let metadata = member.metadata(&group.protocol).cloned();
            DescribedGroupMember::default()
                .with_member_id(text(id))
                .with_group_instance_id(member.instance.as_deref().map(text))
                .with_client_id(text(&member.client))
                .with_client_host(text(&member.host))
                .with_member_metadata(metadata.unwrap_or_else(Bytes::new))
                .with_member_assignment(member.assignment.clone())
        });
        described
            .with_group_state(text(group.state_name()))
            .with_protocol_type(text(&group.kind))
            .with_protocol_data(text(&group.protocol))
            .with_members(members.collect())
    });
    DescribeGroupsResponse::default().with_groups(groups.collect())
}

pub fn list(broker: &Inner, request: ListGroupsRequest) -> ListGroupsResponse {
    let all = broker.groups.lock();
    let listed = |name: &str, kind: &str, state: &str, of: &str| {
        ListedGroup::default()
            .with_group_id(GroupId(text(name)))
            .with_protocol_type(text(kind))
            .with_group_state(text(state))
            .with_group_type(text(of))
    };
    let alive = all.iter().map(|(name, group)| match group {
        Group::Classic(group) => listed(name, &group.kind, group.state_name(), "classic"),
        Group::Modern(group) => listed(name, "consumer", group.state_name(), "consumer"),
    });
    let kept = broker.store.groups().into_iter().filter(|name| !all.contains_key(name));
    let kept: Vec<_> = kept.map(|name| listed(&name, "", "Empty", "classic")).collect();
    let any = |filter: &[_], value: &str| {
        filter.is_empty()
            || filter.iter().any(|wanted: &kafka_protocol::protocol::StrBytes| {
                wanted.eq_ignore_ascii_case(value)
            })
    };
    let groups = alive.chain(kept).filter(|group| {
        any(&request.states_filter, &group.group_state)
            && any(&request.types_filter, &group.group_type)
    });
    ListGroupsResponse::default().with_groups(groups.collect())
}

pub async fn delete(broker: &Arc<Inner>, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for id in request.groups_names {
        let error = delete_one(broker, &id).await.err();
        results.push(
            DeletableGroupResult::default()
                .with_group_id(id)
                .with_error_code(error.map_or(0, |error| error.code())),
        );
    }
    DeleteGroupsResponse::default().with_results(results)
}

async fn delete_one(broker: &Arc<Inner>, name: &str) -> Result<(), ResponseError> {
    check_name(name)?;
    let kept = broker.store.has(name);
    {
        let mut all = broker.groups.lock();
        match all.get(name) {
            Some(group) if !group.is_empty() => return Err(ResponseError::NonEmptyGroup),
            None if !kept => return Err(ResponseError::GroupIdNotFound),
            _ => drop(all.remove(name)),
        }
    }
    let forget = vec![Entry::Forget { group: name.to_owned(), place: None }];
    let done = broker.store.apply(forget).done().await;
    done.map_err(|_| ResponseError::CoordinatorNotAvailable)
}
