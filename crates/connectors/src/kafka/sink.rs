//! Writes rows to topics of a Kafka cluster: encoded by a format, keyed by a column, partitioned by
//! the key's murmur2 as Kafka's Java client does, in record batches built from the columns.

use super::cluster::Cluster;
use super::destinations::{Destination, Destinations};
use super::error::Refused;
use super::producer::Producer;
use super::transactions::KafkaTransactions;
use crate::record_columns::{RecordColumns, Texts};
use arrow_schema::{DataType, Schema};
use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use millstream_core::{Batch, Disposition, Encoder, Error, Receipt, Result, Sink};
use millstream_log::{BatchBuilder, Codec, EncodedBatch, partition_for};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::task::{Context, Poll};

/// What a batch may hold before it is packed, where the topic allows more.
const BATCH_BYTES: usize = 1 << 20;
/// What a record costs besides its parts, at most; and a batch besides its records.
const RECORD_EXTRA: usize = 40;
const BATCH_EXTRA: usize = 61;

/// Where rows go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Topic(Arc<str>),
    /// The column that names each row's topic.
    Column(String),
}

pub struct KafkaSinkOptions {
    pub target: Target,
    pub columns: RecordColumns,
    pub codec: Codec,
    pub encoder: Box<dyn Encoder>,
}

pub struct KafkaSink {
    options: KafkaSinkOptions,
    destinations: Destinations,
    producer: Arc<Producer>,
    /// Where the next batch without keys goes.
    next_partition: u32,
    headers: Vec<u8>,
}

/// The batches of one topic that are being built.
struct Building {
    topic: Arc<str>,
    destination: Destination,
    builders: HashMap<u32, (BatchBuilder, Vec<u32>), ahash::RandomState>,
    unkeyed: u32,
    /// Which rows are in a batch has to be known.
    care: Option<Care>,
}

/// How a topic is written some of whose records a broker has refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    /// The broker says which of a batch's records it refuses.
    Batches,
    /// It does not.
    Singles,
}

/// A batch that is to be written.
struct Built {
    topic: Arc<str>,
    partition: u32,
    batch: EncodedBatch,
    /// Of the rows that came; only where the topic is written with care.
    rows: Vec<u32>,
}

/// What of a batch needs no writing any more, while it is written with care.
#[derive(Default)]
struct Settled {
    rows: HashSet<u32>,
    singles: bool,
}

impl KafkaSink {
    /// One for one partition task; they share what is known of the cluster.
    pub fn new(options: KafkaSinkOptions, cluster: Cluster, destinations: Destinations) -> Self {
        let name = match &options.target {
            Target::Topic(topic) => format!("`{topic}`"),
            Target::Column(column) => format!("the topics of column `{column}`"),
        };
        let learn = destinations.clone();
        let producer = Producer::start(
            cluster,
            &name,
            Arc::new(move |(topic, _), bytes| learn.too_large(topic, bytes)),
        );
        Self::of(options, destinations, Arc::new(producer))
    }

    /// The same, as part of a pipeline's transactions.
    pub fn in_transactions(options: KafkaSinkOptions, transactions: &KafkaTransactions) -> Self {
        let (destinations, producer) = (transactions.destinations(), transactions.producer());
        Self::of(options, destinations.clone(), producer)
    }

    fn of(options: KafkaSinkOptions, destinations: Destinations, producer: Arc<Producer>) -> Self {
        Self { options, destinations, producer, next_partition: 0, headers: Vec::new() }
    }

    /// Whether rows of this schema can be written so; what `check` asks before a row flows.
    pub fn accepts(
        schema: &Schema,
        target: &Target,
        columns: &RecordColumns,
    ) -> Result<(), String> {
        if let Target::Column(name) = target {
            let field = schema
                .field_with_name(name)
                .map_err(|_| format!("there is no column `{name}` that names the topic"))?;
            if !matches!(field.data_type(), DataType::Utf8 | DataType::Dictionary(..)) {
                return Err(format!(
                    "column `{name}` is {}: a topic's name is text",
                    millstream_core::types::name(field.data_type())
                ));
            }
        }
        columns.accepts(schema)
    }

    /// Builds the batches of all rows that can be written and are not settled.
    async fn build(
        &mut self,
        batch: &Batch,
        settled: &Settled,
        rejected: &mut Vec<(u32, String)>,
    ) -> Result<(Vec<Built>, u64)> {
        let columns = &self.options.columns;
        let encoded = self.options.encoder.encode(&*columns.values(&batch.rows)?)?;
        let parts = columns.of(&batch.rows)?;
        let names = match &self.options.target {
            Target::Topic(_) => None,
            Target::Column(name) => Some(Texts::of(&batch.rows, name)?),
        };
        let mut refused = encoded.rejected.iter().cloned().peekable();
        let all_have_values = encoded.rejected.is_empty() && !parts.has_tombstones();
        self.next_partition = self.next_partition.wrapping_add(1);
        let mut topics: Vec<Result<Building, String>> = Vec::new();
        let mut place_of: HashMap<Arc<str>, usize> = HashMap::new();
        let (mut built, mut rows) = (Vec::new(), 0);
        let mut headers = std::mem::take(&mut self.headers);
        for row in 0..encoded.len() {
            if !settled.rows.is_empty() && settled.rows.contains(&(row as u32)) {
                continue;
            }
            let value = if all_have_values {
                Some(encoded.row(row))
            } else {
                let unencodable = refused.next_if(|(refused, _)| *refused as usize == row);
                match (parts.is_tombstone(row), unencodable) {
                    (Ok(true), _) => None,
                    (Ok(false), None) => Some(encoded.row(row)),
                    (Ok(false), Some((_, why))) | (Err(why), _) => {
                        rejected.push((row as u32, why));
                        continue;
                    }
                }
            };
            let at = match &names {
                // Nearly always it is one topic, and begun.
                None if !topics.is_empty() => 0,
                names => {
                    let topic: Arc<str> = match (names, &self.options.target) {
                        (None, Target::Topic(topic)) => topic.clone(),
                        (names, _) => match names.as_ref().and_then(|names| names.get(row)) {
                            Some(name) => String::from_utf8_lossy(name).into(),
                            None => {
                                rejected.push((row as u32, "the row names no topic".into()));
                                continue;
                            }
                        },
                    };
                    match place_of.get(&topic) {
                        Some(at) => *at,
                        None => {
                            let named = names.is_some();
                            let unkeyed = self.next_partition;
                            let begun = begin(&self.destinations, &topic, named, unkeyed);
                            let mut building = begun.await?;
                            if let Ok(building) = &mut building
                                && self.destinations.wants_care(&topic)
                            {
                                building.care = Some(if settled.singles {
                                    Care::Singles
                                } else {
                                    Care::Batches
                                });
                            }
                            topics.push(building);
                            place_of.insert(topic, topics.len() - 1);
                            topics.len() - 1
                        }
                    }
                }
            };
            let building = match &mut topics[at] {
                Ok(building) => building,
                Err(why) => {
                    rejected.push((row as u32, why.clone()));
                    continue;
                }
            };
            let key = parts.key(row);
            parts.headers(row, &mut headers);
            let record = Record { timestamp: parts.timestamp(row), key, value, headers: &headers };
            match building.push(row as u32, record, self.options.codec, &mut built) {
                Ok(()) => rows += 1,
                Err(why) => rejected.push((row as u32, why)),
            }
        }
        self.headers = headers;
        for building in topics.into_iter().flatten() {
            for (partition, (mut builder, rows)) in building.builders {
                if !builder.is_empty() {
                    let (topic, batch) = (building.topic.clone(), builder.finish());
                    built.push(Built { topic, partition, batch, rows });
                }
            }
        }
        Ok((built, rows))
    }

    /// Hands a batch to the producer, and notes when the broker refuses some of its records.
    fn submit(
        &self,
        topic: Arc<str>,
        partition: u32,
        batch: EncodedBatch,
    ) -> BoxFuture<'static, Result<()>> {
        let durable = self.producer.submit((topic.clone(), partition as i32), batch);
        let learn = self.destinations.clone();
        durable.inspect_err(move |error| note_refusal(&learn, &topic, error)).boxed()
    }

    /// Writes these and all that is not settled one after the other, and waits for each: what the
    /// broker refuses is rejected, the rest of its batch goes again. Gives rows and bytes written.
    async fn write_with_care(
        &mut self,
        batch: &Batch,
        built: Vec<Built>,
        rejected: &mut Vec<(u32, String)>,
    ) -> Result<(u64, u64)> {
        let mut settled = Settled::default();
        settled.rows.extend(rejected.iter().map(|(row, _)| *row));
        let (mut rows_out, mut bytes_out, mut due) = (0, 0, built);
        loop {
            for Built { topic, partition, batch, rows } in std::mem::take(&mut due) {
                let (count, bytes) = (batch.len() as u64, batch.as_bytes().len() as u64);
                let refusal = match self.submit(topic, partition, batch).await {
                    Ok(()) => {
                        (rows_out, bytes_out) = (rows_out + count, bytes_out + bytes);
                        settled.rows.extend(rows);
                        continue;
                    }
                    Err(error) => error,
                };
                let source = std::error::Error::source(&refusal);
                let refused = source.and_then(|source| source.downcast_ref::<Refused>());
                let refused = refused.ok_or(&refusal).map_err(again)?;
                let named = refused
                    .records
                    .iter()
                    .filter_map(|(at, why)| Some((*rows.get(*at as usize)?, why.clone())));
                let mut named: Vec<(u32, String)> = named.collect();
                match (named.is_empty(), rows.as_slice()) {
                    (true, [alone]) => named.push((*alone, refused.said.clone())),
                    (true, _) => settled.singles = true,
                    (false, _) => {}
                }
                for (row, why) in named {
                    settled.rows.insert(row);
                    rejected.push((row, format!("the broker refuses the record: {why}")));
                }
            }
            (due, _) = self.build(batch, &settled, rejected).await?;
            settled.rows.extend(rejected.iter().map(|(row, _)| *row));
            if due.is_empty() {
                return Ok((rows_out, bytes_out));
            }
        }
    }
}

/// Those who write the topic after this one take care.
fn note_refusal(destinations: &Destinations, topic: &Arc<str>, error: &Error) {
    if error.kind() == "refused" {
        destinations.refused(topic);
    }
}

/// What cannot be mended by leaving records out.
fn again(error: &Error) -> Error {
    Error::new(error.disposition(), error.kind(), error.chain())
}

/// The inner error is why rows for a topic that a row names cannot be written.
async fn begin(
    destinations: &Destinations,
    topic: &Arc<str>,
    named_by_row: bool,
    unkeyed: u32,
) -> Result<Result<Building, String>> {
    let destination = match destinations.get(topic).await {
        Ok(destination) => destination,
        Err(error) if named_by_row && error.disposition() == Disposition::Stop => {
            return Ok(Err(error.chain()));
        }
        // Its rows wait for their topic, or for the right to write it, where all others wait.
        Err(error) => match destinations.known(topic) {
            Some(known) if matches!(error.kind(), "no_topic" | "not_authorised") => known,
            _ => return Err(error),
        },
    };
    Ok(Ok(Building {
        topic: topic.clone(),
        unkeyed: unkeyed % destination.partitions,
        destination,
        builders: HashMap::default(),
        care: None,
    }))
}

struct Record<'a> {
    timestamp: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: &'a [u8],
}

impl Building {
    /// Adds a record, or says why the topic does not take it.
    fn push(
        &mut self,
        row: u32,
        record: Record<'_>,
        codec: Codec,
        built: &mut Vec<Built>,
    ) -> Result<(), String> {
        let Destination { partitions, bytes_max, wants_keys, .. } = self.destination;
        if wants_keys && record.key.is_none() {
            return Err(format!("the row has no key, and topic `{}` is compacted", self.topic));
        }
        let partition = record.key.map_or(self.unkeyed, |key| partition_for(key, partitions));
        let bytes = record.key.map_or(0, <[u8]>::len)
            + record.value.map_or(0, <[u8]>::len)
            + record.headers.len()
            + RECORD_EXTRA;
        let limit = bytes_max.min(BATCH_BYTES.max(bytes + BATCH_EXTRA));
        let topic = &self.topic;
        let (builder, rows) = self
            .builders
            .entry(partition)
            .or_insert_with(|| (BatchBuilder::new(codec), Vec::new()));
        let is_full = builder.bytes() + bytes > limit || self.care == Some(Care::Singles);
        if !builder.is_empty() && is_full {
            let (topic, rows) = (topic.clone(), std::mem::take(rows));
            built.push(Built { topic, partition, batch: builder.finish(), rows });
        }
        if self.care.is_some() {
            rows.push(row);
        }
        let Record { timestamp, key, value, headers } = record;
        builder.push(timestamp, key, value, headers);
        if bytes + BATCH_EXTRA <= bytes_max {
            return Ok(());
        }
        // Alone, and perhaps small enough once it is packed.
        let (alone, rows) = (builder.finish(), std::mem::take(rows));
        let packed = alone.as_bytes().len();
        if packed > bytes_max {
            return Err(format!(
                "the record has {packed} bytes, topic `{}` takes at most {bytes_max} \
                 (`max.message.bytes`)",
                self.topic
            ));
        }
        built.push(Built { topic: topic.clone(), partition, batch: alone, rows });
        Ok(())
    }
}

#[async_trait]
impl Sink for KafkaSink {
    fn poll_takes(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.producer.poll_takes(context)
    }

    async fn write(&mut self, batch: &Batch) -> Result<Receipt> {
        self.producer.room().await?;
        let mut rejected = Vec::new();
        let (built, rows) = self.build(batch, &Settled::default(), &mut rejected).await?;
        if built.iter().any(|built| !built.rows.is_empty()) {
            let written = self.write_with_care(batch, built, &mut rejected).await;
            rejected.sort_unstable_by_key(|(row, _)| *row);
            // Some of it may be written: that is unknown, as of any batch that is not acknowledged.
            let (rows, bytes, durable) = match written {
                Ok((rows, bytes)) => (rows, bytes, Ok(())),
                Err(error) => (0, 0, Err(error)),
            };
            return Ok(Receipt { rejected, rows, bytes, durable: async { durable }.boxed() });
        }
        rejected.sort_unstable_by_key(|(row, _)| *row);
        // Nothing fails or waits from here on: all of it is accepted.
        let mut bytes = 0;
        let mut topics = Vec::with_capacity(built.len());
        let batches = built.into_iter().map(|Built { topic, partition, batch, .. }| {
            bytes += batch.as_bytes().len() as u64;
            topics.push(topic.clone());
            ((topic, partition as i32), batch)
        });
        let batches: Vec<_> = batches.collect();
        let acknowledged = self.producer.submit_all(batches);
        let learn = self.destinations.clone();
        Ok(Receipt {
            rejected,
            rows,
            bytes,
            durable: async move {
                for (part, topic) in acknowledged.into_iter().zip(topics) {
                    part.await.inspect_err(|error| note_refusal(&learn, &topic, error))?;
                }
                Ok(())
            }
            .boxed(),
        })
    }
}
