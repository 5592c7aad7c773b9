//! What the listener counts.

use crate::client::{Client, batch};
use crate::requests::{fetch, produce};
use crate::server::Server;
use kafka_protocol::messages::*;
use millstream_broker::stats::Stats;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Waits for a moment: a request is counted once its answer is on its way.
fn counted(server: &Server, right: impl Fn(&Stats) -> bool) -> Stats {
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        let stats = server.meter.read();
        if right(&stats) {
            return stats;
        }
        assert!(Instant::now() < patience, "{stats:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn requests(stats: &Stats, api: &str) -> u64 {
    let found = stats.requests.iter().find(|(name, _)| *name == api);
    found.map_or(0, |(_, times)| {
        assert_eq!(times.buckets.iter().sum::<u64>(), times.count);
        times.count
    })
}

#[test]
fn requests_records_and_errors_are_counted() {
    let server = Server::start();
    server.topic("t", 1);
    assert_eq!(server.meter.read().connections, 0);
    let mut client = Client::connect(server.address);
    client.call(9, &produce(9, "t", Uuid::nil(), batch(&["a", "b", "c"], None)));
    client.call(9, &produce(9, "t", Uuid::nil(), batch(&["d"], None)));
    client.send(9, &produce(9, "t", Uuid::nil(), batch(&["e"], None)).with_acks(0));
    client.call(9, &produce(9, "missing", Uuid::nil(), batch(&["f"], None)));
    // Nobody said when the one without an answer is there.
    let partition = server.log.topic("t").unwrap().partition(0).unwrap();
    while partition.end_offset() < 5 {
        std::thread::yield_now();
    }
    client.call(12, &fetch(12, "t", Uuid::nil(), 0));
    client.call(12, &fetch(12, "t", Uuid::nil(), 99));
    let stats = counted(&server, |stats| requests(stats, "Fetch") == 2);
    assert_eq!(requests(&stats, "Produce"), 4);
    assert_eq!((stats.records_produced, stats.records_fetched), (5, 5));
    assert_eq!(stats.bytes_produced, stats.bytes_fetched);
    assert!(stats.bytes_in > stats.bytes_produced && stats.bytes_out > stats.bytes_fetched);
    let errors = [
        ("Fetch", "OffsetOutOfRange".to_owned(), 1),
        ("Produce", "UnknownTopicOrPartition".to_owned(), 1),
    ];
    assert_eq!(stats.errors, errors);
    assert_eq!((stats.connections, stats.connections_accepted), (1, 1));
    drop(client);
    counted(&server, |stats| stats.connections == 0);

    // One that is not understood ends its connection.
    let mut client = Client::connect(server.address);
    std::io::Write::write_all(&mut client.stream, &[0, 0, 0, 8, 99, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(client.rest(), 0);
    let stats = counted(&server, |stats| stats.connections == 0);
    assert_eq!((stats.requests_refused, stats.connections_accepted), (1, 2));
}

#[test]
fn groups_and_connections_too_many_are_counted() {
    let server = Server::start_with(|options| options.limits.connections = 1);
    server.topic("t", 1);
    let mut client = Client::connect(server.address);
    let joining = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(crate::requests::group("g"))
        .with_member_id(crate::requests::text("m"))
        .with_rebalance_timeout_ms(10_000)
        .with_topic_partitions(Some(Vec::new()))
        .with_subscribed_topic_names(Some(vec![crate::requests::topic("t")]));
    assert_eq!(client.call(1, &joining).error_code, 0);
    let mut another = Client::connect(server.address);
    assert_eq!(another.rest(), 0);
    let stats = counted(&server, |stats| stats.connections_refused == 1);
    assert_eq!((stats.modern.groups, stats.modern.members), (1, 1));
    assert_eq!((stats.classic.groups, stats.classic.members), (0, 0));
    assert_eq!((stats.connections, stats.connections_accepted), (1, 1));
}

#[test]
fn no_client_deletes_a_topic_that_is_used() {
    let server = Server::start();
    server.topic("used", 1);
    server.topic("idle", 1);
    let mut client = Client::connect(server.address);
    let names = ["used", "idle"].map(crate::requests::topic).to_vec();
    let request = DeleteTopicsRequest::default().with_topic_names(names);
    let answer = client.call(5, &request);
    let codes: Vec<_> = answer.responses.iter().map(|topic| topic.error_code).collect();
    assert_eq!(codes, [kafka_protocol::ResponseError::PolicyViolation.code(), 0]);
    assert_eq!(
        answer.responses[0].error_message.as_deref(),
        Some("the pipeline `p` uses the topic `used`: stop it before deleting the topic")
    );
    assert!(server.log.topic("used").is_some() && server.log.topic("idle").is_none());
}
