//! librdkafka through its Rust client, unchanged.

use crate::server::Server;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(60);

/// Keeps where records were put.
#[derive(Clone, Default)]
struct Delivered(Arc<Mutex<Vec<(i32, i64)>>>);

impl ClientContext for Delivered {}

impl ProducerContext for Delivered {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let record = result.as_ref().unwrap();
        self.0.lock().unwrap().push((record.partition(), record.offset()));
    }
}

fn config(server: &Server) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", server.address.to_string());
    // Partitions that are added are seen soon.
    config.set("topic.metadata.refresh.interval.ms", "300");
    config
}

fn admin(server: &Server) -> AdminClient<DefaultClientContext> {
    config(server).create().unwrap()
}

fn produce(server: &Server, topic: &str, partitions: i32, values: std::ops::Range<i32>) {
    let delivered = Delivered::default();
    let producer: ThreadedProducer<Delivered> = config(server)
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("batch.num.messages", "20")
        .set("linger.ms", "1")
        .create_with_context(delivered.clone())
        .unwrap();
    let count = values.len();
    for value in values {
        let (key, payload) = (format!("key {value}"), value.to_string());
        let record = BaseRecord::to(topic).key(&key).payload(&payload);
        producer.send(record.partition(value % partitions)).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    let delivered: BTreeSet<_> = delivered.0.lock().unwrap().iter().copied().collect();
    assert_eq!(delivered.len(), count, "each record has a place of its own");
}

fn member(server: &Server, protocol: &str) -> BaseConsumer {
    let mut config = config(server);
    config
        .set("group.id", "g")
        .set("group.protocol", protocol)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest");
    if protocol == "classic" {
        config.set("session.timeout.ms", "6000").set("heartbeat.interval.ms", "200");
    }
    let consumer: BaseConsumer = config.create().unwrap();
    consumer.subscribe(&["t"]).unwrap();
    consumer
}

/// Polls all of them until they have as many partitions as is said and `until` is content with
/// what came.
fn settle(
    members: &[&BaseConsumer],
    counts: &[usize],
    read: &mut BTreeSet<i32>,
    until: impl Fn(&BTreeSet<i32>) -> bool,
) {
    let patience = Instant::now() + PATIENCE;
    loop {
        for member in members {
            while let Some(polled) = member.poll(Duration::from_millis(20)) {
                let record = polled.unwrap();
                read.insert(
                    std::str::from_utf8(record.payload().unwrap()).unwrap().parse().unwrap(),
                );
                // It may meet a rebalance; the record comes again then.
                let _ = member.commit_message(&record, CommitMode::Async);
            }
        }
        let found: Vec<_> =
            members.iter().map(|member| member.assignment().unwrap().count()).collect();
        if found == counts && until(read) {
            return;
        }
        assert!(
            Instant::now() < patience,
            "{found:?} where {counts:?} is due, {} read",
            read.len()
        );
    }
}

fn group_of_two(protocol: &str) {
    let server =
        Server::start_with(|options| options.groups.heartbeat = Duration::from_millis(200));
    server.topic("t", 4);
    produce(&server, "t", 4, 0..400);
    let mut read = BTreeSet::new();
    let first = member(&server, protocol);
    settle(&[&first], &[4], &mut read, |read| read.len() == 400);
    let second = member(&server, protocol);
    settle(&[&first, &second], &[2, 2], &mut read, |_| true);
    produce(&server, "t", 4, 400..800);
    settle(&[&first, &second], &[2, 2], &mut read, |read| read.len() == 800);

    let admin = admin(&server);
    let grown = NewPartitions::new("t", 6);
    let grown = admin.create_partitions([&grown], &AdminOptions::new());
    assert_eq!(Runtime::new().unwrap().block_on(grown).unwrap(), [Ok("t".to_owned())]);
    settle(&[&first, &second], &[3, 3], &mut read, |_| true);
    produce(&server, "t", 6, 800..1_200);
    settle(&[&first, &second], &[3, 3], &mut read, |read| read.len() == 1_200);
    drop(first);
    settle(&[&second], &[6], &mut read, |_| true);
    let patience = Instant::now() + PATIENCE;
    loop {
        let committed = second.committed(PATIENCE).unwrap();
        let offsets = committed.elements().into_iter().filter_map(|at| at.offset().to_raw());
        let offsets: i64 = offsets.sum();
        if offsets == 1_200 {
            break;
        }
        assert!(Instant::now() < patience, "{offsets} records are committed");
        settle(&[&second], &[6], &mut read, |_| true);
    }
}

#[test]
fn a_classic_group_of_two_shares_and_sees_new_partitions() {
    group_of_two("classic");
}

#[test]
fn a_group_that_is_told_its_assignment_shares_and_sees_new_partitions() {
    group_of_two("consumer");
}

#[test]
fn two_hundred_partitions_are_read_to_their_ends() {
    let server = Server::start();
    server.topic("t", 200);
    produce(&server, "t", 200, 0..2_000);
    let consumer = member(&server, "consumer");
    settle(&[&consumer], &[200], &mut BTreeSet::new(), |read| read.len() == 2_000);
}

#[test]
fn an_operator_makes_changes_and_deletes() {
    let server = Server::start();
    server.topic("used", 1);
    let admin = admin(&server);
    let options = AdminOptions::new();
    Runtime::new().unwrap().block_on(async {
        let new = NewTopic::new("t", 2, TopicReplication::Fixed(1)).set("retention.ms", "1000");
        let made = admin.create_topics([&new], &options).await.unwrap();
        assert_eq!(made, [Ok("t".to_owned())]);
        let again = admin.create_topics([&new], &options).await.unwrap();
        assert_eq!(again, [Err(("t".to_owned(), RDKafkaErrorCode::TopicAlreadyExists))]);
        let topic = ResourceSpecifier::Topic("t");
        let retention = async || {
            let described = admin.describe_configs([&topic], &options).await.unwrap();
            described[0].as_ref().unwrap().get("retention.ms").unwrap().value.clone()
        };
        assert_eq!(retention().await.as_deref(), Some("1000"));
        let change = AlterConfig::new(ResourceSpecifier::Topic("t")).set("retention.ms", "2000");
        admin.alter_configs([&change], &options).await.unwrap()[0].as_ref().unwrap();
        assert_eq!(retention().await.as_deref(), Some("2000"));
        let deleted = admin.delete_topics(&["t", "used"], &options).await.unwrap();
        let refused = ("used".to_owned(), RDKafkaErrorCode::PolicyViolation);
        assert_eq!(deleted, [Ok("t".to_owned()), Err(refused)]);
    });
    assert!(server.log.topic("t").is_none() && server.log.topic("used").is_some());
}
