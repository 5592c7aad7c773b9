//! Clients that mean harm, or are broken: nobody else notices.

use crate::client::{Client, batch, frame, seal};
use crate::requests::{self, Each, produce, text};
use crate::server::Server;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::Request;
use std::io::Write;
use std::time::Duration;
use uuid::Uuid;

fn memory_kb() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn what_is_not_a_request_ends_its_connection_and_no_other() {
    let stalled = Duration::from_millis(300);
    let server = Server::start_with(|options| options.limits.stalled = stalled);
    server.topic("t", 1);
    let mut neighbour = Client::connect(server.address);
    let good = |neighbour: &mut Client| {
        let request = produce(9, "t", Uuid::nil(), batch(&["v"], None));
        let response = neighbour.call(9, &request);
        assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    };
    let whole = frame(9, 1, &produce(9, "t", Uuid::nil(), batch(&["v"; 100], None)));
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = frame(9, 1, &MetadataRequest::default());
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let many = {
        // An array that says that it has 2^31 - 1 elements.
        let mut frame = frame(3, 1, &MetadataRequest::default().with_topics(Some(Vec::new())));
        let at = frame.len() - 4;
        frame[at..].copy_from_slice(&i32::MAX.to_be_bytes());
        frame
    };
    let before = memory_kb();
    for (what, sent) in [
        ("a length of 2 GiB", vec![0x7f, 0xff, 0xff, 0xff, 0, 0]),
        ("a negative length", vec![0xff, 0xff, 0xff, 0xff, 0, 0]),
        ("no request at all", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("an empty frame", vec![0, 0, 0, 0]),
        ("a frame that ends in its middle", whole[..whole.len() / 2].to_vec()),
        ("a length and nothing else", vec![0, 0, 1, 0]),
        ("half a length", vec![0, 0]),
        ("an unknown key", with(4, &999i16.to_be_bytes())),
        ("an unknown version", with(6, &99i16.to_be_bytes())),
        ("a negative version", with(6, &(-1i16).to_be_bytes())),
        ("an array without end", many),
    ] {
        let mut client = Client::connect(server.address);
        client.stream.write_all(&sent).unwrap();
        good(&mut neighbour);
        assert_eq!(client.rest(), 0, "{what}");
        good(&mut neighbour);
    }
    assert!(memory_kb().saturating_sub(before) < 64 << 10, "{} kB, {before} before", memory_kb());
}

#[test]
fn a_client_that_says_nothing_is_closed_in_the_end() {
    let idle = Duration::from_millis(300);
    let server = Server::start_with(|options| options.limits.idle = idle);
    let mut silent = Client::connect(server.address);
    assert_eq!(silent.rest(), 0);
}

#[test]
fn bad_batches_are_refused_and_harm_no_reader() {
    let server = Server::start_with(|options| options.limits.batch_bytes = 10_000);
    server.topic("t", 1);
    let mut client = Client::connect(server.address);
    let changed = |at: usize, to: &[u8], sealed: bool| {
        let mut bytes = batch(&["one", "two"], None).to_vec();
        bytes[at..at + to.len()].copy_from_slice(to);
        if sealed {
            seal(&mut bytes);
        }
        bytes
    };
    let long = "x".repeat(20_000);
    for (what, records, code) in [
        ("a wrong checksum", changed(70, b"x", false), ResponseError::CorruptMessage),
        ("a torn batch", batch(&["a"], None)[..65].to_vec(), ResponseError::CorruptMessage),
        ("magic 1", changed(16, &[1], true), ResponseError::UnsupportedForMessageFormat),
        ("an unknown codec", changed(22, &[7], true), ResponseError::UnsupportedCompressionType),
        ("records that are not packed", changed(22, &[3], true), ResponseError::InvalidRecord),
        ("a control batch", changed(22, &[0x20], true), ResponseError::InvalidRecord),
        ("a transaction", changed(22, &[0x10], true), ResponseError::InvalidRecord),
        (
            "more records than there are",
            changed(57, &9i32.to_be_bytes(), true),
            ResponseError::InvalidRecord,
        ),
        ("a record that is cut short", changed(61, &[0x7e], true), ResponseError::InvalidRecord),
        ("nothing", Vec::new(), ResponseError::InvalidRecord),
        ("too much", batch(&[&long], None).to_vec(), ResponseError::MessageTooLarge),
    ] {
        let response = client.call(9, &produce(9, "t", Uuid::nil(), records.into()));
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!(partition.error_code, code.code(), "{what}");
        assert_eq!(partition.base_offset, -1, "{what}");
    }
    let request = produce(9, "t", Uuid::nil(), batch(&["good"], None));
    let response = client.call(9, &request);
    assert_eq!(response.responses[0].partition_responses[0].base_offset, 0);
    let request = produce(9, "t", Uuid::nil(), batch(&["good"], None)).with_acks(7);
    let response = client.call(9, &request);
    let code = response.responses[0].partition_responses[0].error_code;
    assert_eq!(code, ResponseError::InvalidRequiredAcks.code());
    let request = produce(9, "nobody", Uuid::nil(), batch(&["good"], None));
    let code = client.call(9, &request).responses[0].partition_responses[0].error_code;
    assert_eq!(code, ResponseError::UnknownTopicOrPartition.code());
    assert_eq!(server.log.topic("t").unwrap().partition(0).unwrap().end_offset(), 1);
    assert!(server.log.verify("t").unwrap().is_sound());
}

#[test]
fn too_many_clients_are_turned_away_and_the_others_stay() {
    let server = Server::start_with(|options| options.limits.connections = 3);
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(server.address)).collect();
    for client in &mut clients {
        client.call(0, &ApiVersionsRequest::default());
    }
    assert_eq!(Client::connect(server.address).rest(), 0);
    for client in &mut clients {
        client.call(0, &ApiVersionsRequest::default());
    }
}

#[test]
fn a_client_that_takes_no_answers_is_closed_and_costs_bounded_memory() {
    let server = Server::start_with(|options| options.limits.stalled = Duration::from_millis(500));
    server.topic("t", 1);
    let mut client = Client::connect(server.address);
    let value = "x".repeat(500_000);
    for _ in 0..20 {
        client.call(9, &produce(9, "t", Uuid::nil(), batch(&[&value], None)));
    }
    let mut deaf = Client::connect(server.address);
    let request = requests::fetch(11, "t", Uuid::nil(), 0).with_max_bytes(100 << 20);
    let before = memory_kb();
    deaf.stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let asked = frame(11, 1, &request);
    let refused = (0..2_000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        deaf.stream.write_all(&asked).is_err()
    });
    assert!(refused, "it is still connected");
    client.call(0, &ApiVersionsRequest::default());
    assert!(memory_kb().saturating_sub(before) < 100 << 10, "{} kB, {before} before", memory_kb());
}

/// The errors that requests of transactions are told.
struct Told<'a> {
    client: &'a mut Client,
    of: Vec<(i16, i16)>,
}

impl Each for Told<'_> {
    fn each<Q: Request>(&mut self, version: i16, request: Q) {
        if ![24, 25, 26, 28].contains(&Q::KEY) {
            return;
        }
        self.client.call(version, &request);
        let errors = self.client.last.clone();
        // Whatever the shape of the answer, the error is the only one of its numbers that is not 0.
        let code = ResponseError::TransactionalIdAuthorizationFailed.code().to_be_bytes();
        let found = errors.windows(2).any(|two| two == code);
        self.of.push((Q::KEY, if found { i16::from_be_bytes(code) } else { 0 }));
    }
}

#[test]
fn a_trickle_is_no_request() {
    let stalled = Duration::from_millis(300);
    let server = Server::start_with(|options| options.limits.stalled = stalled);
    let mut client = Client::connect(server.address);
    client.stream.write_all(&100_000i32.to_be_bytes()).unwrap();
    let refused = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        client.stream.write_all(&[0]).is_err()
    });
    assert!(refused, "a byte now and then keeps it open");
}

#[test]
fn a_connection_is_read_no_further_than_its_requests_may_take() {
    for (in_flight, bytes) in [(4, 4 << 20), (1_000_000, 64 << 10)] {
        let server = Server::start_with(|options| {
            options.limits.in_flight = in_flight;
            options.limits.connection_bytes = bytes;
        });
        server.topic("t", 1);
        let mut client = Client::connect(server.address);
        // It holds up those behind it.
        let waiting = requests::fetch(12, "t", Uuid::nil(), 0).with_max_wait_ms(300_000);
        client.send(12, &waiting);
        let names = vec![text(&"x".repeat(1_000)); 10];
        let names: Vec<_> = names
            .into_iter()
            .map(|name| {
                metadata_request::MetadataRequestTopic::default().with_name(Some(TopicName(name)))
            })
            .collect();
        let asked = frame(12, 1, &MetadataRequest::default().with_topics(Some(names)));
        client.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        // What the system buffers is no business of the server's.
        let sent = (0..10_000).take_while(|_| client.stream.write_all(&asked).is_ok()).count();
        assert!(sent < 10_000, "100 MB were taken");
        let mut other = Client::connect(server.address);
        other.call(0, &ApiVersionsRequest::default());
    }
}

#[test]
fn what_groups_keep_is_bounded() {
    use join_group_request::JoinGroupRequestProtocol;
    let server = Server::start_with(|options| options.groups.groups_bytes = 100_000);
    server.topic("t", 1);
    let mut client = Client::connect(server.address);
    let full = ResponseError::GroupMaxSizeReached.code();
    let join = |group: usize| {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(vec![7; 20_000].into());
        JoinGroupRequest::default()
            .with_group_id(requests::group(&format!("g{group}")))
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(10_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol])
    };
    // In this version a member is in at once.
    let joined: Vec<_> = (0..10).map(|group| client.call(3, &join(group))).collect();
    let codes: Vec<i16> = joined.iter().map(|joined| joined.error_code).collect();
    assert_eq!(codes, [0, 0, 0, 0, full, full, full, full, full, full]);
    let leave = LeaveGroupRequest::default()
        .with_group_id(requests::group("g0"))
        .with_member_id(joined[0].member_id.clone());
    assert_eq!(client.call(2, &leave).error_code, 0);
    assert_eq!(client.call(3, &join(10)).error_code, 0, "there is room again");

    let beat = |topics: usize| {
        let names = (0..topics).map(|at| requests::topic(&format!("{at}{}", "x".repeat(200))));
        ConsumerGroupHeartbeatRequest::default()
            .with_group_id(requests::group("m"))
            .with_member_id(text("m"))
            .with_subscribed_topic_names(Some(names.collect()))
            .with_topic_partitions(Some(Vec::new()))
    };
    assert_eq!(client.call(1, &beat(1_000)).error_code, full);
    assert_eq!(client.call(1, &beat(10)).error_code, 0);
    let server = Server::start();
    let mut client = Client::connect(server.address);
    for pattern in ["x".repeat(5_000), "(\\w{100}){100}".to_owned()] {
        let request = beat(1).with_subscribed_topic_regex(Some(text(&pattern)));
        let code = client.call(1, &request).error_code;
        assert_eq!(code, ResponseError::InvalidRegularExpression.code());
    }
}

#[test]
fn a_request_has_one_batch_for_a_partition() {
    let server = Server::start();
    server.topic("t", 1);
    let mut client = Client::connect(server.address);
    let two = [batch(&["a"], None), batch(&["b"], None)].concat();
    let answer = client.call(9, &produce(9, "t", Uuid::nil(), two.into()));
    let partition = &answer.responses[0].partition_responses[0];
    assert_eq!(partition.error_code, ResponseError::InvalidRecord.code());
    assert_eq!(server.log.topic("t").unwrap().partition(0).unwrap().end_offset(), 0);
}

#[test]
fn what_is_not_there_says_so_in_the_protocols_words() {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    let found = client.call(
        4,
        &FindCoordinatorRequest::default().with_key_type(1).with_coordinator_keys(vec![text("tx")]),
    );
    let coordinator = &found.coordinators[0];
    assert_eq!(coordinator.error_code, ResponseError::TransactionalIdAuthorizationFailed.code());
    assert!(coordinator.error_message.as_ref().unwrap().contains("no transactions"));
    let init =
        InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(text("tx"))));
    let code = client.call(4, &init).error_code;
    assert_eq!(code, ResponseError::TransactionalIdAuthorizationFailed.code());
    let refused = ResponseError::TransactionalIdAuthorizationFailed.code();
    let mut told = Told { client: &mut client, of: Vec::new() };
    requests::each("t", Uuid::nil(), &mut told);
    let told = std::mem::take(&mut told.of);
    for (key, error) in &told {
        assert_eq!(*error, refused, "{key}");
    }
    assert_eq!(told.len(), 6 + 5 + 6 + 6);
    let listed = client.call(4, &ApiVersionsRequest::default());
    assert!(!listed.api_keys.iter().any(|api| [24, 25, 26, 28].contains(&api.api_key)));

    let security = ResponseError::SecurityDisabled.code();
    let create = CreateAclsRequest::default().with_creations(vec![Default::default()]);
    assert_eq!(client.call(3, &create).results[0].error_code, security);
    let delete = DeleteAclsRequest::default().with_filters(vec![Default::default()]);
    assert_eq!(client.call(3, &delete).filter_results[0].error_code, security);
    let code = client.call(3, &DescribeAclsRequest::default()).error_code;
    assert_eq!(code, ResponseError::SecurityDisabled.code());
}
