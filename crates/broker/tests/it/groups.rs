//! Groups, member by member.

use crate::client::Client;
use crate::requests::{group, text, topic};
use crate::server::Server;
use bytes::Bytes;
use join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use std::time::Duration;
use sync_group_request::SyncGroupRequestAssignment;

const SESSION_MS: i32 = 600;

fn server() -> Server {
    Server::start_with(|options| {
        options.groups.session_min = Duration::from_millis(100);
        options.groups.session = Duration::from_millis(600);
    })
}

fn join(member: &str, instance: Option<&str>) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"metadata"));
    JoinGroupRequest::default()
        .with_group_id(group("g"))
        .with_session_timeout_ms(SESSION_MS)
        .with_rebalance_timeout_ms(5_000)
        .with_member_id(text(member))
        .with_group_instance_id(instance.map(text))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

fn sync(joined: &JoinGroupResponse) -> SyncGroupRequest {
    let assignments = joined.members.iter().map(|member| {
        SyncGroupRequestAssignment::default()
            .with_member_id(member.member_id.clone())
            .with_assignment(Bytes::copy_from_slice(member.member_id.as_bytes()))
    });
    SyncGroupRequest::default()
        .with_group_id(group("g"))
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
        .with_assignments(assignments.collect())
}

fn heartbeat(member: &StrBytes, generation: i32) -> HeartbeatRequest {
    HeartbeatRequest::default()
        .with_group_id(group("g"))
        .with_member_id(member.clone())
        .with_generation_id(generation)
}

/// Joins as clients do: with the id that the first answer gives.
fn enter(client: &mut Client) -> JoinGroupResponse {
    let first = client.call(9, &join("", None));
    assert_eq!(first.error_code, ResponseError::MemberIdRequired.code());
    client.call(9, &join(&first.member_id, None))
}

fn commit(member: &StrBytes, generation: i32, offset: i64) -> OffsetCommitRequest {
    use offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(offset);
    let committed =
        OffsetCommitRequestTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(group("g"))
        .with_member_id(member.clone())
        .with_generation_id_or_member_epoch(generation)
        .with_topics(vec![committed])
}

fn committed(client: &mut Client) -> i64 {
    use offset_fetch_request::OffsetFetchRequestTopic;
    let asked =
        OffsetFetchRequestTopic::default().with_name(topic("t")).with_partition_indexes(vec![0]);
    let request =
        OffsetFetchRequest::default().with_group_id(group("g")).with_topics(Some(vec![asked]));
    client.call(7, &request).topics[0].partitions[0].committed_offset
}

fn code(response: OffsetCommitResponse) -> i16 {
    response.topics[0].partitions[0].error_code
}

#[test]
fn members_agree_and_one_that_is_silent_is_out() {
    let server = server();
    server.topic("t", 1);
    let (mut a, mut b) = (Client::connect(server.address), Client::connect(server.address));
    let ids = [&mut a, &mut b].map(|client| client.call(9, &join("", None)).member_id);
    a.send(9, &join(&ids[0], None));
    b.send(9, &join(&ids[1], None));
    let joined = [a.receive::<JoinGroupRequest>(9), b.receive::<JoinGroupRequest>(9)];
    assert_eq!(joined[0].generation_id, joined[1].generation_id);
    let leader = usize::from(joined[1].members.len() == 2);
    let follower = 1 - leader;
    assert_eq!((joined[leader].members.len(), joined[follower].members.len()), (2, 0));
    assert_eq!(joined[follower].leader, joined[leader].member_id);
    let mut clients = [a, b];

    // The follower waits for the leader's word.
    let (asked, told) = (sync(&joined[follower]), sync(&joined[leader]));
    clients[follower].send(5, &asked);
    let leaders = clients[leader].call(5, &told);
    let followers = clients[follower].receive::<SyncGroupRequest>(5);
    assert_eq!(leaders.assignment, joined[leader].member_id.as_bytes());
    assert_eq!(followers.assignment, joined[follower].member_id.as_bytes());

    let generation = joined[leader].generation_id;
    let id = joined[leader].member_id.clone();
    let stale = ResponseError::IllegalGeneration.code();
    let unknown = ResponseError::UnknownMemberId.code();
    let client = &mut clients[leader];
    assert_eq!(client.call(4, &heartbeat(&id, generation)).error_code, 0);
    assert_eq!(client.call(4, &heartbeat(&id, generation - 1)).error_code, stale);
    assert_eq!(client.call(4, &heartbeat(&text("x"), generation)).error_code, unknown);
    assert_eq!(code(client.call(8, &commit(&id, generation, 5))), 0);
    assert_eq!(code(client.call(8, &commit(&id, generation - 1, 6))), stale);
    assert_eq!(code(client.call(8, &commit(&text(""), -1, 7))), unknown);
    assert_eq!(committed(client), 5);

    // The follower says nothing more; the leader is asked to join again, and is alone.
    let again = ResponseError::RebalanceInProgress.code();
    while client.call(4, &heartbeat(&id, generation)).error_code != again {
        std::thread::sleep(Duration::from_millis(50));
    }
    let joined = client.call(9, &join(&id, None));
    assert_eq!((joined.error_code, joined.members.len()), (0, 1));
    assert_eq!(joined.generation_id, generation + 1);
    client.call(5, &sync(&joined));
    let delete = DeleteGroupsRequest::default().with_groups_names(vec![group("g")]);
    let left = client.call(2, &delete).results[0].error_code;
    assert_eq!(left, ResponseError::NonEmptyGroup.code());
    let member = leave_group_request::MemberIdentity::default().with_member_id(id.clone());
    let leave = LeaveGroupRequest::default().with_group_id(group("g")).with_members(vec![member]);
    assert_eq!(client.call(5, &leave).members[0].error_code, 0);
    assert_eq!(client.call(4, &heartbeat(&id, joined.generation_id)).error_code, unknown);
    assert_eq!(client.call(2, &delete).results[0].error_code, 0);
    assert_eq!(committed(client), -1);
}

#[test]
fn a_member_that_says_too_much_is_refused() {
    let server = server();
    let mut client = Client::connect(server.address);
    let mut request = join("", None);
    request.protocols[0].metadata = vec![7; 300 << 10].into();
    assert_eq!(client.call(9, &request).error_code, ResponseError::InvalidRequest.code());
}

#[test]
fn a_static_member_keeps_its_place_over_a_restart() {
    let server = server();
    let mut client = Client::connect(server.address);
    let joined = client.call(9, &join("", Some("one")));
    assert_eq!(joined.error_code, 0);
    let told = sync(&joined).with_group_instance_id(Some(text("one")));
    assert_eq!(client.call(5, &told).error_code, 0);

    let mut restarted = Client::connect(server.address);
    let again = restarted.call(9, &join("", Some("one")));
    assert_eq!((again.error_code, again.generation_id), (0, joined.generation_id));
    assert!(again.skip_assignment && again.member_id != joined.member_id);
    let asked = sync(&again).with_group_instance_id(Some(text("one"))).with_assignments(Vec::new());
    let kept = restarted.call(5, &asked).assignment;
    assert_eq!(kept, joined.member_id.as_bytes(), "what it was assigned before");
    let old = heartbeat(&joined.member_id, joined.generation_id)
        .with_group_instance_id(Some(text("one")));
    let fenced = client.call(4, &old).error_code;
    assert_eq!(fenced, ResponseError::FencedInstanceId.code());
}

#[test]
fn committed_offsets_survive_and_belong_to_one_topic() {
    let dir = tempfile::tempdir().unwrap();
    {
        let server = Server::start_in(dir.path(), |_| {});
        server.topic("t", 1);
        let mut client = Client::connect(server.address);
        assert_eq!(code(client.call(8, &commit(&text(""), -1, 42))), 0);
        let nowhere = commit(&text(""), -1, 42);
        let mut nowhere = nowhere;
        nowhere.topics[0].name = topic("nobody");
        let unknown = ResponseError::UnknownTopicOrPartition.code();
        assert_eq!(code(client.call(8, &nowhere)), unknown);
    }
    let server = Server::start_in(dir.path(), |_| {});
    let mut client = Client::connect(server.address);
    assert_eq!(committed(&mut client), 42);
    server.log.delete_topic("t").unwrap();
    server.topic("t", 1);
    assert_eq!(committed(&mut client), -1, "the topic was made again");
}

#[test]
fn a_member_that_is_told_gives_up_before_another_gets() {
    use consumer_group_heartbeat_request::TopicPartitions;
    let server = server();
    server.topic("t", 4);
    let id = server.log.topic("t").unwrap().id();
    let owned = |parts: &[i32]| {
        let parts = TopicPartitions::default().with_topic_id(id).with_partitions(parts.to_vec());
        Some(vec![parts])
    };
    let beat = |member: &str, epoch: i32| {
        ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group("m"))
            .with_member_id(text(member))
            .with_member_epoch(epoch)
            .with_rebalance_timeout_ms(-1)
            .with_subscribed_topic_names(None)
            .with_topic_partitions(None)
    };
    let enter = |member: &str| {
        beat(member, 0)
            .with_rebalance_timeout_ms(10_000)
            .with_subscribed_topic_names(Some(vec![topic("t")]))
            .with_topic_partitions(Some(Vec::new()))
    };
    let assigned = |response: &ConsumerGroupHeartbeatResponse| {
        assert_eq!(response.error_code, 0);
        response.assignment.as_ref().map(|assignment| {
            assignment
                .topic_partitions
                .iter()
                .flat_map(|t| t.partitions.clone())
                .collect::<Vec<_>>()
        })
    };
    let mut client = Client::connect(server.address);
    let first = client.call(1, &enter("a"));
    assert_eq!(assigned(&first), Some(vec![0, 1, 2, 3]));
    let second = client.call(1, &enter("b"));
    assert_eq!(assigned(&second), Some(vec![]), "all are still in the hands of the first");
    let told = client.call(1, &beat("a", first.member_epoch));
    let kept = assigned(&told).unwrap();
    assert_eq!((kept.len(), told.member_epoch), (2, first.member_epoch));
    let waits = client.call(1, &beat("b", second.member_epoch));
    assert_eq!(assigned(&waits), None, "nothing was given up yet");
    let gave = client.call(1, &beat("a", told.member_epoch).with_topic_partitions(owned(&kept)));
    assert_eq!(gave.member_epoch, second.member_epoch);
    let gets = client.call(1, &beat("b", waits.member_epoch));
    let got = assigned(&gets).unwrap();
    let mut all = [kept.clone(), got].concat();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3]);

    let stale = client.call(1, &beat("a", 99)).error_code;
    assert_eq!(stale, ResponseError::FencedMemberEpoch.code());
    let unknown = client.call(1, &beat("x", 1)).error_code;
    assert_eq!(unknown, ResponseError::UnknownMemberId.code());
    let code_of = |response: OffsetCommitResponse| response.topics[0].partitions[0].error_code;
    let by = |epoch: i32| commit(&text("a"), epoch, 3).with_group_id(group("m"));
    assert_eq!(code_of(client.call(9, &by(gave.member_epoch))), 0);
    let stale = code_of(client.call(9, &by(gave.member_epoch - 1)));
    assert_eq!(stale, ResponseError::StaleMemberEpoch.code());

    // One that is silent is out, and the other gets everything.
    let mut epoch = gave.member_epoch;
    let all = loop {
        let told = client.call(1, &beat("a", epoch));
        epoch = told.member_epoch;
        match assigned(&told) {
            Some(parts) if parts.len() == 4 => break parts,
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    assert_eq!(all, [0, 1, 2, 3]);
    assert_eq!(client.call(1, &beat("a", -1)).member_epoch, -1);
}

#[test]
fn the_two_kinds_of_members_do_not_mix() {
    let server = server();
    server.topic("t", 1);
    let mut client = Client::connect(server.address);
    let joined = enter(&mut client);
    assert_eq!(joined.error_code, 0);
    let beat = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group("g"))
        .with_member_id(text("m"))
        .with_subscribed_topic_names(Some(vec![topic("t")]))
        .with_topic_partitions(Some(Vec::new()));
    let refused = client.call(1, &beat);
    assert_eq!(refused.error_code, ResponseError::GroupIdNotFound.code());
    assert!(refused.error_message.unwrap().contains("group.protocol=classic"));
}
