//! Pipelines from and to a real Kafka, and its producer by itself.

use crate::generate::{Event, Generator, SCHEMA, SCHEMA_ID, SEED};
use crate::job::{Measured, Meter, Scratch};
use crate::pipeline::{self, Running};
use crate::store::FILES;
use anyhow::{Context, Result, ensure};
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, StringArray};
use async_trait::async_trait;
use bytes::Bytes;
use millstream_connectors::kafka::{
    Cluster, ClusterOptions, Destinations, KafkaSink, KafkaSinkOptions, Target,
};
use millstream_connectors::{Home, HomeOptions, RecordColumns};
use millstream_core::{Batch, Encoded, Encoder, Error, Sink};
use millstream_engine::Engine;
use millstream_log::Codec;
use millstream_registry::NewSchema;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// What is done with what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Decode all columns and drop the rows.
    Consume,
    MainJob,
    /// The main job in transactions.
    ExactlyOnce,
}

/// Rows that the produce job hands to the sink at a time, and how many batches may be outstanding.
const BATCH_ROWS: usize = 2_000;
const OUTSTANDING: usize = 20;

/// Works off `messages` records. The CPU counts from the start of the tasks, the time from the
/// first row: joining a group is a wait.
pub fn run(work: Work, messages: u64) -> Result<Measured> {
    let scratch = Scratch::new("kafka")?;
    let home = home(&scratch)?;
    let (name, file) = match work {
        Work::Consume => ("consume and decode, 13 columns", "consume_kafka.yaml"),
        Work::MainJob => ("main job, Kafka to Kafka", "main_job_kafka.yaml"),
        Work::ExactlyOnce => ("main job, Kafka to Kafka, exactly once", "main_job_kafka_once.yaml"),
    };
    let running = Running::open(&home, &self::file(file)?)?;
    let mut meter = Meter::paused();
    meter.resume();
    let running = running.start();
    running.wait(|engine| rows_in(engine) > 0)?;
    let first = Instant::now();
    running.wait(|engine| rows_in(engine) >= messages)?;
    let wall = first.elapsed();
    let report = running.drain()?;
    meter.pause();
    if work != Work::Consume {
        pipeline::check(&report, messages)?;
    }
    let mut measured = meter.measured(name, messages, 0)?;
    measured.wall_seconds = wall.as_secs_f64();
    for (name, value) in [("p50_ms", report.p50_ms), ("p99_ms", report.p99_ms)] {
        measured.extra.insert(name.into(), value.unwrap_or(f64::NAN));
    }
    home.log.close();
    Ok(measured)
}

/// A data directory that has the schema and the sites.
pub fn home(scratch: &Scratch) -> Result<Home> {
    let home = Home::open(scratch.path(), HomeOptions::default())?;
    let id = home.registry.register("navigation-value", &NewSchema::avro(SCHEMA), false)?.id;
    ensure!(id == SCHEMA_ID, "the registry gave the schema id {id}");
    pipeline::load_sites(&home)?;
    Ok(home)
}

/// A pipeline file, which reads the environment.
pub fn file(name: &str) -> Result<millstream_config::Pipeline> {
    let text = std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR")))?;
    pipeline::parse_file(name, &text)
}

pub fn rows_in(engine: &Engine) -> u64 {
    engine.reports().iter().map(|report| report.rows_in).sum()
}

/// Gives batches of framed records to the sink, as its encoder would have made them.
pub fn produce(brokers: &str, topic: &str, messages: u64) -> Result<Measured> {
    let [tasks, io] = [pipeline::runtime("tasks", 1)?, pipeline::runtime("io", 1)?];
    let brokers = brokers.split(',').map(str::to_owned).collect();
    let cluster = Cluster::new(ClusterOptions::new(brokers, "bench"), io.handle().clone())?;
    let mut sinks: Vec<_> = (0..FILES)
        .map(|_| {
            let options = KafkaSinkOptions {
                target: Target::Topic(topic.into()),
                columns: RecordColumns { key: Some("uid".into()), ..RecordColumns::default() },
                codec: Codec::Lz4,
                encoder: Box::new(Framed),
            };
            KafkaSink::new(options, cluster.clone(), Destinations::new(cluster.clone()))
        })
        .collect();
    let batches = batches()?;
    let mut meter = Meter::paused();
    meter.resume();
    let mut bytes = 0;
    tasks.block_on(async {
        let mut outstanding = VecDeque::new();
        let mut sent = 0;
        for (at, (rows, size)) in batches.iter().cycle().enumerate() {
            if sent >= messages {
                break;
            }
            if outstanding.len() >= OUTSTANDING
                && let Some(durable) = outstanding.pop_front()
            {
                futures_wait(durable).await?;
            }
            let sink = &mut sinks[at % FILES as usize];
            let rows = rows.slice(0, rows.num_rows().min((messages - sent) as usize));
            let receipt = sink.write(&Batch::same(rows.clone())).await?;
            ensure!(receipt.rejected.is_empty(), "nothing is refused");
            outstanding.push_back(receipt.durable);
            sent += rows.num_rows() as u64;
            bytes += size;
        }
        for durable in outstanding {
            futures_wait(durable).await?;
        }
        Ok(())
    })?;
    meter.pause();
    meter.measured("produce from batches, lz4", messages, bytes)
}

async fn futures_wait(durable: impl Future<Output = millstream_core::Result<()>>) -> Result<()> {
    Ok(durable.await?)
}

/// Some batches of records with their uid, and their bytes.
fn batches() -> Result<Vec<(RecordBatch, u64)>> {
    let mut generator = Generator::new(SEED);
    let mut event = Event::default();
    (0..50)
        .map(|_| {
            let (mut uids, mut values, mut size) = (Vec::new(), Vec::new(), 0);
            for _ in 0..BATCH_ROWS {
                generator.next_into(&mut event);
                uids.push(String::from_utf8(event.uid.clone())?);
                size += event.frame.len() as u64;
                values.push(event.frame.clone());
            }
            let uid: ArrayRef = Arc::new(StringArray::from_iter_values(uids));
            let value: ArrayRef = Arc::new(BinaryArray::from_iter_values(values));
            Ok((RecordBatch::try_from_iter([("uid", uid), ("value", value)])?, size))
        })
        .collect()
}

/// Takes the column `value` for the encoded record.
struct Framed;

#[async_trait]
impl Encoder for Framed {
    fn encode(&mut self, rows: &RecordBatch) -> millstream_core::Result<Encoded> {
        let values = rows.column_by_name("value");
        let values = values
            .and_then(|values| values.as_any().downcast_ref::<BinaryArray>())
            .context("the rows have a binary column `value`")
            .map_err(|error| Error::stop("bench", error.to_string()))?;
        let ends = (0..values.len()).map(|row| values.value_offsets()[row + 1] as u32).collect();
        // Shared, not copied: what is measured is the producer, as with its peer.
        let buffer = Bytes::from_owner(Values(values.clone()));
        Ok(Encoded { buffer, ends, rejected: Vec::new() })
    }
}

struct Values(BinaryArray);

impl AsRef<[u8]> for Values {
    fn as_ref(&self) -> &[u8] {
        self.0.value_data()
    }
}
