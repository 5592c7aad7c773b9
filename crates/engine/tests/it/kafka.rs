//! Pipelines from and to real Kafka.

use crate::harness::{Bench, file};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use millstream_config::Pipeline;
use millstream_connectors::RecordColumns;
use millstream_connectors::kafka::{
    Cluster, ClusterOptions, Destinations, GroupOptions, KafkaSink, KafkaSinkOptions, KafkaSource,
    KafkaSourceOptions, KafkaTopic, OnLostOffset, Target, Topics,
};
use millstream_core::{Batch, Change, Header, Headers, Origin, Place, Sink, Source, Start};
use millstream_engine::{DeadLetters, Letters, PartitionState};
use millstream_formats::json::JsonEncoder;
use millstream_log::{BatchBuilder, Codec};
use millstream_testkit::events::{Checker, Event, Fate, Generator};
use millstream_testkit::services::{self, Kafka, unique};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::runtime::Handle;

const PATIENCE: Duration = Duration::from_secs(60);

fn cluster(kafka: &Kafka) -> Cluster {
    let brokers = kafka.bootstrap().split(',').map(str::to_owned).collect();
    Cluster::new(ClusterOptions::new(brokers, "test"), Handle::current()).unwrap()
}

/// Events in, those to drop dropped, those that are wrong to the dead letters, the rest out.
fn pipeline(dir: &Path, kafka: &Kafka, topic: &str, source: &str, sinks: &str) -> Pipeline {
    let brokers = kafka.bootstrap();
    let text = format!(
        "pipeline: {topic}
source:
  kafka: {{ brokers: [\"{brokers}\"], topic: {topic}, {source} }}
  format:
    json:
      columns: {{ key: string, seq: bigint, fate: string, crc: string, number: string }}
steps:
  - sql: |
      SELECT key, seq, fate, crc, number, CAST(number AS BIGINT) AS n, _partition, _topic
      FROM input WHERE fate <> 'drop'
sinks:
  - kafka: {{ brokers: [\"{brokers}\"], topic: {topic}-out }}
    key: key
    format: json
{sinks}
max_dead_ratio: 1
"
    );
    file(dir, "p.yaml", &text)
}

async fn produce(cluster: &Cluster, topic: &str, events: &[Event]) {
    for part in events.chunks(500) {
        let text = |of: fn(&Event) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(part.iter().map(of)))
        };
        let seq: ArrayRef =
            Arc::new(Int64Array::from_iter_values(part.iter().map(|e| e.seq as i64)));
        let rows = RecordBatch::try_from_iter([
            ("key", text(|e| e.key.clone())),
            ("seq", seq),
            ("fate", text(|e| format!("{:?}", e.fate).to_lowercase())),
            ("crc", text(|e| e.crc.clone())),
            ("number", text(|e| e.number.clone())),
        ])
        .unwrap();
        let mut sink = KafkaSink::new(
            KafkaSinkOptions {
                target: Target::Topic(topic.into()),
                columns: RecordColumns { key: Some("key".into()), ..RecordColumns::default() },
                codec: Codec::Lz4,
                encoder: Box::new(JsonEncoder::new(rows.schema()).unwrap()),
            },
            cluster.clone(),
            Destinations::new(cluster.clone()),
        );
        let origin = Origin::Same(rows.num_rows() as u32);
        sink.write(&Batch::new(rows, origin)).await.unwrap().durable.await.unwrap();
    }
}

/// Everything that a topic has now, partition after partition.
async fn read_all(cluster: &Cluster, topic: &str) -> Vec<Event> {
    let options = KafkaSourceOptions {
        topics: Topics::Named(vec![topic.into()]),
        group: GroupOptions::new(unique("reader")),
        committed_only: true,
        on_lost_offset: OnLostOffset::Hold,
        batch_rows: 1_000,
        batch_bytes: 1 << 20,
    };
    let source = KafkaSource::open(cluster.clone(), options).await.unwrap();
    let group = source.group().unwrap();
    let mut ours = Vec::new();
    while ours.len() < source.partitions() as usize {
        match group.next().await.unwrap() {
            Change::Assigned(partitions) => ours.extend(partitions),
            other => panic!("{other:?}"),
        }
    }
    ours.sort_unstable();
    let mut events = Vec::new();
    for partition in ours {
        let end = source.offset_of(partition, Place::Latest).await.unwrap();
        let mut reader = source.reader(partition, Start::Offset(0)).await.unwrap();
        let mut next = 0;
        while next < end {
            let records = tokio::time::timeout(PATIENCE, reader.next()).await;
            let records = records.unwrap().unwrap().unwrap();
            next = records.next_offset();
            for record in records.iter() {
                events.push(serde_json::from_slice(record.value.unwrap()).unwrap());
            }
        }
    }
    group.leave().await;
    events
}

/// How many records a partition has.
async fn source_rows(cluster: &Cluster, topic: &str, partition: u32) -> u64 {
    let options = KafkaSourceOptions {
        topics: Topics::Named(vec![topic.into()]),
        group: GroupOptions::new(unique("reader")),
        committed_only: true,
        on_lost_offset: OnLostOffset::Hold,
        batch_rows: 1,
        batch_bytes: 1,
    };
    let source = KafkaSource::open(cluster.clone(), options).await.unwrap();
    source.offset_of(partition, Place::Latest).await.unwrap() as u64
}

fn sum(benches: &[&Bench], topic: &str) -> (u64, u64, u64, u64) {
    let all = benches.iter().map(|bench| bench.counts(topic));
    all.fold((0, 0, 0, 0), |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2, a.3 + b.3))
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !so() {
        assert!(tokio::time::Instant::now() < deadline, "not so in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[derive(Default)]
struct Sent {
    checker: Checker,
    fates: BTreeMap<Fate, u64>,
}

impl Sent {
    fn of(events: &[Event]) -> Self {
        let mut sent = Self::default();
        for event in events {
            sent.checker.sent(event);
            *sent.fates.entry(event.fate).or_default() += 1;
        }
        sent
    }

    fn count(&self, fate: Fate) -> u64 {
        self.fates.get(&fate).copied().unwrap_or_default()
    }
}

fn topics(kafka: &Kafka, partitions: i32) -> String {
    let topic = unique("orders");
    kafka.create_topic(&topic, partitions, &[]);
    kafka.create_topic(&format!("{topic}-out"), 3, &[]);
    topic
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_a_topic_comes_out_once_and_the_commit_reaches_its_end() {
    let Some(kafka) = services::kafka() else { return };
    let topic = topics(&kafka, 4);
    let cluster = cluster(&kafka);
    let mut generator = Generator::new(11, 40);
    let events: Vec<Event> = (0..4_000).map(|_| generator.event()).collect();
    let mut sent = Sent::of(&events);
    produce(&cluster, &topic, &events[..2_000]).await;

    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::at(dir.path());
    let table = "  - table: seen\n    key: [key, seq]";
    let file = pipeline(dir.path(), &kafka, &topic, "metadata_refresh: 1s", table);
    bench.start(std::slice::from_ref(&file)).await;
    until("the first half is in", || bench.counts(&topic).0 == 2_000).await;
    until("the lag is gone", || {
        let report = bench.report(&topic);
        report.partitions.len() == 4 && report.lag == 0 && report.state == PartitionState::Running
    })
    .await;
    bench.restart().await;
    produce(&cluster, &topic, &events[2_000..]).await;
    bench.start(std::slice::from_ref(&file)).await;
    until("the second half is in", || bench.counts(&topic).0 == 2_000).await;
    bench.engine.drain(Duration::from_secs(10)).await;

    let out = read_all(&cluster, &format!("{topic}-out")).await;
    sent.checker.arrived("out", Fate::Out, &out, true, 0);
    assert_eq!(sent.checker.faults(), []);
    let letters = bench.letters(&format!("{topic}.dead"));
    assert_eq!(letters.len() as u64, sent.count(Fate::Dead));
    assert!(letters.iter().all(|letter| letter.source == topic && letter.source_partition < 4));
    assert!(bench.home.tables.table("seen").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_join_and_leave_under_load_lose_nothing_and_repeat_nothing() {
    let Some(kafka) = services::kafka() else { return };
    for protocol in ["consumer", "classic"] {
        let topic = topics(&kafka, 6);
        let cluster = cluster(&kafka);
        let mut generator = Generator::new(12, 60);
        let events: Vec<Event> = (0..12_000).map(|_| generator.event()).collect();
        let mut sent = Sent::of(&events);
        let producing = {
            let (cluster, topic, events) = (cluster.clone(), topic.clone(), events.clone());
            tokio::spawn(async move {
                for part in events.chunks(250) {
                    produce(&cluster, &topic, part).await;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
        };
        let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let benches: Vec<_> = dirs.iter().map(|dir| Bench::at(dir.path())).collect();
        let start = async |at: usize| {
            let protocol = format!("protocol: {protocol}");
            let file = pipeline(dirs[at].path(), &kafka, &topic, &protocol, "");
            benches[at].start(&[file]).await;
        };
        let parts = |at: usize| match benches[at].engine.reports().first() {
            Some(report) => report.partitions.len(),
            None => 0,
        };
        start(0).await;
        until("one has all", || parts(0) == 6).await;
        start(1).await;
        until("two share", || parts(0) == 3 && parts(1) == 3).await;
        start(2).await;
        until("three share", || parts(0) == 2 && parts(1) == 2 && parts(2) == 2).await;
        assert!(benches[0].engine.drain(Duration::from_secs(20)).await);
        until("the others have them", || parts(1) == 3 && parts(2) == 3).await;
        producing.await.unwrap();
        let all: Vec<&Bench> = benches.iter().collect();
        until("all are in", || sum(&all, &topic).0 >= 12_000).await;
        for bench in &benches[1..] {
            assert!(bench.engine.drain(Duration::from_secs(20)).await);
        }
        let (rows, _, filtered, dead) = sum(&all, &topic);
        assert_eq!(
            (rows, filtered, dead),
            (12_000, sent.count(Fate::Drop), sent.count(Fate::Dead))
        );
        let out = read_all(&cluster, &format!("{topic}-out")).await;
        sent.checker.arrived("out", Fate::Out, &out, true, 0);
        assert_eq!(sent.checker.faults(), [], "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_go_to_a_topic_of_the_cluster_whole_and_with_their_reason() {
    let Some(kafka) = services::kafka() else { return };
    let topic = topics(&kafka, 2);
    let dead = format!("{topic}-dead");
    kafka.create_topic(&dead, 1, &[]);
    let cluster = cluster(&kafka);
    let mut generator = Generator::new(13, 40);
    let events: Vec<Event> = (0..1_000).map(|_| generator.event()).collect();
    let mut sent = Sent::of(&events);
    produce(&cluster, &topic, &events).await;
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    let brokers = kafka.bootstrap();
    let letters =
        format!("dead_letters: {{ topic: {dead}, kafka: {{ brokers: [\"{brokers}\"] }} }}");
    let file = pipeline(dir.path(), &kafka, &topic, "metadata_refresh: 1s", &letters);
    bench.start(&[file]).await;
    until("all are in", || bench.counts(&topic).0 == 1_000).await;
    bench.engine.drain(Duration::from_secs(10)).await;
    // The record itself is the letter's value.
    let letters = read_all(&cluster, &dead).await;
    assert_eq!(letters.len() as u64, sent.count(Fate::Dead));
    assert!(!letters.is_empty());
    sent.checker.arrived("dead", Fate::Dead, &letters, true, 0);
    assert_eq!(sent.checker.faults(), []);
    assert!(bench.home.log.topic(&dead).is_none(), "nothing of them is in the embedded log");
}

/// Bytes that do not pack.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_larger_than_its_topic_takes_is_cut_and_holds_nothing() {
    let Some(kafka) = services::kafka() else { return };
    let topic = topics(&kafka, 1);
    let dead = format!("{topic}-dead");
    kafka.create_topic(&dead, 1, &[("max.message.bytes", "20000")]);
    let cluster = cluster(&kafka);
    let (key, value) = (noise(1, 12_000), noise(2, 5_000));
    let large = noise(3, 30_000);
    let mut headers = Vec::new();
    let header = Header { key: b"large", value: Some(&large) };
    Headers::encode([header].into_iter(), &mut headers);
    let mut builder = BatchBuilder::new(Codec::None);
    // An old record alone in its segment would not outlive the broker's next look at retention.
    let now = UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    builder.push(now, Some(&key), Some(&value), &headers);
    let source = KafkaTopic::open(cluster.clone(), &topic).await.unwrap();
    source.writer().append(0, vec![builder.finish()]).await.unwrap();
    let events: Vec<Event> = {
        let mut generator = Generator::new(15, 5);
        let all = std::iter::from_fn(|| Some(generator.event()));
        all.filter(|event| event.fate == Fate::Out).take(10).collect()
    };
    produce(&cluster, &topic, &events).await;
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    let brokers = kafka.bootstrap();
    let letters =
        format!("dead_letters: {{ topic: {dead}, kafka: {{ brokers: [\"{brokers}\"] }} }}");
    let file = pipeline(dir.path(), &kafka, &topic, "metadata_refresh: 1s", &letters);
    bench.start(&[file]).await;
    until("all are in", || bench.counts(&topic) == (11, 10, 0, 1)).await;
    bench.engine.drain(Duration::from_secs(10)).await;
    let dead = DeadLetters::Kafka(KafkaTopic::open(cluster, &dead).await.unwrap());
    let mut letters = Letters::open(&bench.home, &dead).await.unwrap();
    let (letter, _) = letters.next().await.unwrap().unwrap();
    assert_eq!(letter.key.as_deref(), Some(&key[..]));
    assert_eq!(letter.value.as_deref(), Some(&value[..]));
    assert_eq!(Headers(&letter.headers).iter().count(), 0, "they found no room");
    assert!(letter.truncated.is_some(), "a replay would not give what the pipeline got");
    assert!(letters.next().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_has_not_is_a_mistake_of_the_file() {
    let Some(kafka) = services::kafka() else { return };
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    let missing = unique("missing");
    let file = pipeline(dir.path(), &kafka, &missing, "metadata_refresh: 1s", "");
    let mut catalog = millstream_engine::Catalog::new(bench.home.clone());
    let mistakes = millstream_engine::plan_all(&[file], &mut catalog).await.err().unwrap();
    let said = mistakes.render(false);
    assert!(said.contains(&format!("there is no topic `{missing}`")), "{said}");
    assert!(said.contains("p.yaml:3:"), "{said}");
}

/// Offsets of a group are set through a member that has all partitions.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_sets_the_groups_offsets_and_reads_again() {
    let Some(kafka) = services::kafka() else { return };
    let topic = topics(&kafka, 2);
    let cluster = cluster(&kafka);
    let mut generator = Generator::new(14, 40);
    let events: Vec<Event> = (0..500).map(|_| generator.event()).collect();
    produce(&cluster, &topic, &events).await;
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    let file = pipeline(dir.path(), &kafka, &topic, "metadata_refresh: 1s", "");
    bench.start(&[file]).await;
    until("all are in", || bench.counts(&topic).0 == 500).await;
    let offsets = bench.engine.reset(&topic, Place::Earliest, None).await.unwrap();
    assert_eq!(offsets, [(0, 0), (1, 0)]);
    until("all are in again", || bench.counts(&topic).0 == 1_000).await;
    bench.engine.drain(Duration::from_secs(10)).await;

    // Without a member, by the file alone; beside one it is refused.
    let file = pipeline(dir.path(), &kafka, &topic, "metadata_refresh: 1s", "");
    let reset = async || {
        millstream_engine::reset_at_rest(&file, &bench.home, Place::Earliest, Some(1)).await
    };
    let set = reset().await.unwrap();
    assert_eq!((set.len(), set[0].0.index, set[0].1), (1, 1, 0));
    let other = Bench::at(&dir.path().join("other"));
    other.start(std::slice::from_ref(&file)).await;
    let of_one = events.len() as u64 - source_rows(&cluster, &topic, 0).await;
    until("one partition is in again", || other.counts(&topic).0 == of_one).await;
    let refused = reset().await.unwrap_err().to_string();
    assert!(refused.contains("has members"), "{refused}");
    other.engine.drain(Duration::from_secs(10)).await;
}
