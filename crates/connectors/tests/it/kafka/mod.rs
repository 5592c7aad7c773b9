//! The Kafka connector against a real broker.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

mod compacted;
mod conformance;
mod faults;
mod group;
mod lost;
mod lz4;
mod member;
mod secure;
mod sink;
mod source;
mod transactions;
mod writes;

use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray};
use millstream_connectors::RecordColumns;
use millstream_connectors::kafka::{
    Cluster, ClusterOptions, Destinations, GroupOptions, KafkaSink, KafkaSinkOptions, KafkaSource,
    KafkaSourceOptions, OnLostOffset, Target, Topics,
};
use millstream_core::{Batch, Sink};
use millstream_formats::json::JsonEncoder;
use millstream_log::Codec;
use millstream_testkit::events::{Event, Generator};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Real brokers on two cores that other tests use too need their time.
const PATIENCE: Duration = Duration::from_secs(120);

/// The events are of 2023: by default a broker would remove them.
const KEEP: &[(&str, &str)] = &[("retention.ms", "-1")];

fn cluster(brokers: &str) -> Cluster {
    Cluster::new(options(brokers), Handle::current()).unwrap()
}

fn options(brokers: &str) -> ClusterOptions {
    let mut options =
        ClusterOptions::new(brokers.split(',').map(str::to_owned).collect(), "millstream-test");
    options.request_timeout = Duration::from_secs(10);
    options.metadata_refresh = Duration::from_secs(1);
    options
}

fn reading(topic: &str, group: &str) -> KafkaSourceOptions {
    KafkaSourceOptions {
        topics: Topics::Named(vec![topic.into()]),
        group: GroupOptions::new(group),
        committed_only: true,
        on_lost_offset: OnLostOffset::Hold,
        batch_rows: 500,
        batch_bytes: 64 << 10,
    }
}

async fn source(cluster: &Cluster, options: KafkaSourceOptions) -> Arc<KafkaSource> {
    Arc::new(KafkaSource::open(cluster.clone(), options).await.unwrap())
}

fn sink(cluster: &Cluster, target: Target, codec: Codec, rows: &RecordBatch) -> KafkaSink {
    let columns = RecordColumns {
        key: Some("key".into()),
        timestamp: Some("at".into()),
        ..RecordColumns::default()
    };
    KafkaSink::accepts(&rows.schema(), &target, &columns).unwrap();
    KafkaSink::new(
        KafkaSinkOptions {
            target,
            columns,
            codec,
            encoder: Box::new(JsonEncoder::new(rows.schema()).unwrap()),
        },
        cluster.clone(),
        Destinations::new(cluster.clone()),
    )
}

/// Events as rows: their key, their line, and a time.
fn rows(events: &[Event]) -> RecordBatch {
    let keys: ArrayRef = Arc::new(StringArray::from_iter_values(events.iter().map(|e| &e.key)));
    let lines: ArrayRef = Arc::new(StringArray::from_iter_values(events.iter().map(Event::line)));
    let at: ArrayRef = Arc::new(TimestampMillisecondArray::from_iter_values(
        events.iter().map(|e| 1_700_000_000_000 + e.seq as i64),
    ));
    RecordBatch::try_from_iter([("key", keys), ("line", lines), ("at", at)]).unwrap()
}

fn events(seed: u64, count: usize) -> Vec<Event> {
    let mut generator = Generator::new(seed, 50);
    (0..count).map(|_| generator.event()).collect()
}

/// Writes events in batches of a few hundred and waits until they are durable.
async fn produce(cluster: &Cluster, topic: &str, codec: Codec, events: &[Event]) {
    let mut sink = sink(cluster, Target::Topic(topic.into()), codec, &rows(events));
    let mut durable = Vec::new();
    for part in events.chunks(300) {
        let rows = rows(part);
        let receipt = sink.write(&batch(rows)).await.unwrap();
        assert!(receipt.rejected.is_empty(), "{:?}", receipt.rejected);
        durable.push(receipt.durable);
    }
    for receipt in durable {
        receipt.await.unwrap();
    }
}

fn batch(rows: RecordBatch) -> Batch {
    let origin = millstream_core::Origin::Same(rows.num_rows() as u32);
    Batch::new(rows, origin)
}

/// Waits until something is so.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !so() {
        assert!(tokio::time::Instant::now() < deadline, "not so in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
