//! What every log that speaks Kafka's protocol does, said once: the cases run against the embedded
//! log and against real Kafka, through the same clients and with the same expectations.
//!
//! Cases talk through `krafka`; where a client would hide what is answered, request by request.
//! `CONFORMANCE=group` in the environment runs those with that in their name.

mod groups;
mod offsets;
mod producers;
mod records;
mod sessions;
mod topics;

use crate::client::Client;
use crate::requests::fetch;
use crate::server::Server;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use krafka::admin::{
    AdminClient, CreateTopicsOptions, DescribeTopicsOptions, NewTopic, TopicPartition,
};
use krafka::consumer::{AutoOffsetReset, Consumer, ConsumerRecord, GroupProtocol};
use krafka::error::ErrorCode;
use krafka::{Kafka, Record};
use millstream_testkit::services::{self, unique};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;
use uuid::Uuid;

/// A log under test.
#[derive(Clone)]
struct Log {
    bootstrap: String,
    kafka: Kafka,
}

type Case = fn(Log) -> LocalBoxFuture<'static, ()>;

const CASES: &[(&str, Case)] = &[
    ("records come back as they were sent", |log| records::come_back(log).boxed_local()),
    ("every codec is read", |log| records::every_codec(log).boxed_local()),
    ("a fetch waits for records", |log| records::a_fetch_waits(log).boxed_local()),
    ("a fetch ends where records do", |log| records::a_fetch_ends(log).boxed_local()),
    ("a session tells what has changed", |log| sessions::what_changed(log).boxed_local()),
    ("a session is refused out of turn", |log| sessions::out_of_turn(log).boxed_local()),
    ("a batch that is damaged is refused", |log| records::a_damaged_batch(log).boxed_local()),
    ("records are deleted from the start", |log| records::deleted(log).boxed_local()),
    ("offsets are found by time", |log| offsets::by_time(log).boxed_local()),
    ("offsets of an empty topic", |log| offsets::of_an_empty_topic(log).boxed_local()),
    ("an epoch ends where the log does", |log| offsets::of_an_epoch(log).boxed_local()),
    ("a batch sent twice is kept once", |log| producers::duplicates(log).boxed_local()),
    ("a batch out of order is refused", |log| producers::out_of_order(log).boxed_local()),
    ("an older epoch is fenced", |log| producers::fenced(log).boxed_local()),
    ("an idempotent producer keeps order", |log| producers::in_order(log).boxed_local()),
    ("a topic is made and described", |log| topics::made(log).boxed_local()),
    ("topics are described page by page", |log| topics::pages(log).boxed_local()),
    ("what cannot be made is refused", |log| topics::refused(log).boxed_local()),
    ("options are set and read", |log| topics::options(log).boxed_local()),
    ("partitions are added", |log| topics::grown(log).boxed_local()),
    ("a topic made again is another", |log| topics::made_again(log).boxed_local()),
    ("a group's offsets are kept, read and deleted", |log| groups::offsets(log).boxed_local()),
    ("a stranger may not commit", |log| groups::strangers(log).boxed_local()),
    ("a classic group shares", |log| groups::shares(log, GroupProtocol::Classic).boxed_local()),
    ("a KIP-848 group shares", |log| groups::shares(log, GroupProtocol::Consumer).boxed_local()),
    ("a classic member is silent", |log| {
        groups::silence(log, GroupProtocol::Classic).boxed_local()
    }),
    ("a KIP-848 member is silent", |log| {
        groups::silence(log, GroupProtocol::Consumer).boxed_local()
    }),
    ("a KIP-848 group sees new partitions", |log| {
        groups::new_partitions(log, GroupProtocol::Consumer).boxed_local()
    }),
    ("a classic group is deleted", |log| {
        groups::deleted(log, GroupProtocol::Classic).boxed_local()
    }),
    ("a KIP-848 group is deleted", |log| {
        groups::deleted(log, GroupProtocol::Consumer).boxed_local()
    }),
];

#[test]
fn the_embedded_log_conforms() {
    // As real Kafka is set up for tests.
    let server = Server::start_with(|options| {
        options.groups.session_min = Duration::from_secs(1);
        options.groups.session = Duration::from_secs(10);
    });
    conforms(&server.address.to_string());
}

#[test]
fn real_kafka_conforms() {
    let Some(kafka) = services::kafka() else { return };
    conforms(&kafka.bootstrap());
}

/// Runs the cases beside each other, and names all that fail.
fn conforms(bootstrap: &str) {
    let wanted = std::env::var("CONFORMANCE").unwrap_or_default();
    let cases = CASES.iter().filter(|(name, _)| name.contains(&wanted));
    let running: Vec<_> = cases
        .map(|(name, case)| {
            let bootstrap = bootstrap.to_owned();
            let run = move || {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .unwrap();
                let run = async {
                    let kafka = Kafka::builder(bootstrap.clone())
                        .metadata_max_age(Duration::from_secs(1))
                        .connect()
                        .await
                        .unwrap();
                    case(Log { bootstrap: bootstrap.clone(), kafka }).await;
                };
                catch_unwind(AssertUnwindSafe(|| runtime.block_on(run))).is_ok()
            };
            (*name, thread::Builder::new().name((*name).to_owned()).spawn(run).unwrap())
        })
        .collect();
    let failed: Vec<_> = running
        .into_iter()
        .filter_map(|(name, case)| (!case.join().unwrap()).then_some(name))
        .collect();
    assert!(failed.is_empty(), "does not conform: {failed:?}");
}

impl Log {
    /// A topic that no other case knows.
    async fn topic(&self, partitions: i32) -> String {
        let name = unique("conformance");
        self.create(&name, partitions).await;
        name
    }

    async fn create(&self, name: &str, partitions: i32) {
        let mut topic = NewTopic::new(name, partitions, 1).unwrap();
        // The records of the cases are old.
        topic.configs.insert("retention.ms".to_owned(), "-1".to_owned());
        let options = CreateTopicsOptions::default();
        let made = self.admin().create_topics(vec![topic], options).await.unwrap();
        made[name].as_ref().unwrap();
        // Kafka answers before each partition has its leader.
        eventually("the partitions have a leader", async || {
            let described = self.describe(name).await.ok()?;
            let led = described.partitions.iter().filter(|one| one.leader.is_some()).count();
            (led == partitions as usize).then_some(())
        })
        .await;
        let mut client = self.client();
        eventually("its leader knows the topic", async || {
            let answer = client.call(12, &fetch(12, name, Uuid::nil(), 0).with_max_wait_ms(0));
            (answer.responses[0].partitions[0].error_code == 0).then_some(())
        })
        .await;
    }

    async fn describe(
        &self,
        name: &str,
    ) -> Result<krafka::admin::TopicDescription, krafka::KrafkaError> {
        let options = DescribeTopicsOptions::default();
        let mut described = self.admin().describe_topics([name], options).await?;
        described.remove(name).unwrap()
    }

    async fn id(&self, name: &str) -> Uuid {
        Uuid::from_bytes(self.describe(name).await.unwrap().topic_id)
    }

    fn admin(&self) -> AdminClient {
        self.kafka.admin()
    }

    /// Says exactly what a case wants said.
    fn client(&self) -> Client {
        Client::connect(self.bootstrap.parse().unwrap())
    }

    /// Sends these to a partition and waits for each.
    async fn produce(&self, topic: &str, partition: i32, values: impl IntoIterator<Item = String>) {
        let producer = self.kafka.producer().build().await.unwrap();
        let mut sent = Vec::new();
        for value in values {
            let record = Record::new(topic, value).partition(partition);
            sent.push(producer.enqueue(record).await.unwrap());
        }
        for sent in sent {
            assert!(sent.await.unwrap().is_success());
        }
        producer.close().await.unwrap();
    }

    /// Reads this many records from the start of these partitions.
    async fn read(&self, topic: &str, partitions: Vec<i32>, count: usize) -> Vec<ConsumerRecord> {
        let consumer = self.kafka.consumer_without_group();
        let consumer = consumer.auto_offset_reset(AutoOffsetReset::Earliest).build().await.unwrap();
        consumer.assign(topic, partitions).await.unwrap();
        let records = take(&consumer, count).await;
        consumer.close().await.unwrap();
        records
    }
}

async fn take(consumer: &Consumer, count: usize) -> Vec<ConsumerRecord> {
    let mut records = Vec::new();
    while records.len() < count {
        let polled = tokio::time::timeout(PATIENCE, poll(consumer)).await;
        let had = records.len();
        records.extend(polled.unwrap_or_else(|_| panic!("{had} records of {count} came")));
    }
    records
}

/// What comes next.
async fn poll(consumer: &Consumer) -> Vec<ConsumerRecord> {
    loop {
        let polled = consumer.poll(Duration::from_millis(100)).await.unwrap();
        if !polled.is_empty() {
            return polled;
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until there is an answer; both logs may take their time for some things.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, asking).await;
    found.unwrap_or_else(|_| panic!("it never came to this: {what}"))
}

fn at(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

/// The number of the error that a log answered with.
#[track_caller]
fn refusal<T: std::fmt::Debug>(answer: Result<T, krafka::KrafkaError>) -> ErrorCode {
    match answer {
        Err(krafka::KrafkaError::Broker { code, .. }) => code,
        other => panic!("refused by the log was expected, not {other:?}"),
    }
}

fn values(records: &[ConsumerRecord]) -> Vec<&str> {
    records.iter().map(|record| record.value_str().unwrap_or_default()).collect()
}
