//! Writes rows to topics of a Kafka cluster: encoded by a format, keyed by a column, partitioned by
//! the key's murmur2 as Kafka's Java client does, in record batches built from the columns.

use super::cluster::Cluster;
use super::destinations::{Destination, Destinations};
use super::producer::Producer;
use crate::record_columns::{RecordColumns, Texts};
use arrow_schema::{DataType, Schema};
use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_core::{Batch, Disposition, Encoder, Receipt, Result, Sink};
use millstream_log::{BatchBuilder, Codec, partition_for};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

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
    producer: Producer,
    /// Where the next batch without keys goes.
    next_partition: u32,
    headers: Vec<u8>,
}

/// The batches of one topic that are being built.
struct Building {
    topic: Arc<str>,
    destination: Destination,
    builders: HashMap<u32, BatchBuilder>,
    unkeyed: u32,
}

type Built = Vec<(Arc<str>, u32, millstream_log::EncodedBatch)>;

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

    /// Builds the batches of all rows that can be written.
    async fn build(
        &mut self,
        batch: &Batch,
        rejected: &mut Vec<(u32, String)>,
    ) -> Result<(Built, u64)> {
        let encoded = self.options.encoder.encode(&batch.rows)?;
        let parts = self.options.columns.of(&batch.rows)?;
        let names = match &self.options.target {
            Target::Topic(_) => None,
            Target::Column(name) => Some(Texts::of(&batch.rows, name)?),
        };
        let refused: Vec<usize> = encoded.rejected.iter().map(|(row, _)| *row as usize).collect();
        let mut refused = refused.into_iter().peekable();
        rejected.extend(encoded.rejected.iter().cloned());
        self.next_partition = self.next_partition.wrapping_add(1);
        let mut topics: BTreeMap<Arc<str>, Result<Building, String>> = BTreeMap::new();
        let (mut built, mut rows) = (Built::new(), 0);
        let mut headers = std::mem::take(&mut self.headers);
        for row in 0..encoded.len() {
            if refused.next_if_eq(&row).is_some() {
                continue;
            }
            let topic: Arc<str> = match (&names, &self.options.target) {
                (None, Target::Topic(topic)) => topic.clone(),
                (names, _) => match names.as_ref().and_then(|names| names.get(row)) {
                    Some(name) => String::from_utf8_lossy(name).into(),
                    None => {
                        rejected.push((row as u32, "the row names no topic".into()));
                        continue;
                    }
                },
            };
            if !topics.contains_key(&topic) {
                let begun = begin(&self.destinations, &topic, names.is_some(), self.next_partition);
                let building = begun.await?;
                topics.insert(topic.clone(), building);
            }
            let building = match topics.get_mut(&topic) {
                Some(Ok(building)) => building,
                Some(Err(why)) => {
                    rejected.push((row as u32, why.clone()));
                    continue;
                }
                None => continue,
            };
            let key = parts.key(row);
            parts.headers(row, &mut headers);
            let record = Record {
                timestamp: parts.timestamp(row),
                key,
                value: encoded.row(row),
                headers: &headers,
            };
            match building.push(record, self.options.codec, &mut built) {
                Ok(()) => rows += 1,
                Err(why) => rejected.push((row as u32, why)),
            }
        }
        self.headers = headers;
        for building in topics.into_values().flatten() {
            for (partition, mut builder) in building.builders {
                if !builder.is_empty() {
                    built.push((building.topic.clone(), partition, builder.finish()));
                }
            }
        }
        Ok((built, rows))
    }
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
        Err(error) => return Err(error),
    };
    Ok(Ok(Building {
        topic: topic.clone(),
        unkeyed: unkeyed % destination.partitions,
        destination,
        builders: HashMap::new(),
    }))
}

struct Record<'a> {
    timestamp: i64,
    key: Option<&'a [u8]>,
    value: &'a [u8],
    headers: &'a [u8],
}

impl Building {
    /// Adds a record, or says why the topic does not take it.
    fn push(&mut self, record: Record<'_>, codec: Codec, built: &mut Built) -> Result<(), String> {
        let Destination { partitions, bytes_max, wants_keys } = self.destination;
        if wants_keys && record.key.is_none() {
            return Err(format!("the row has no key, and topic `{}` is compacted", self.topic));
        }
        let partition = record.key.map_or(self.unkeyed, |key| partition_for(key, partitions));
        let bytes = record.key.map_or(0, <[u8]>::len)
            + record.value.len()
            + record.headers.len()
            + RECORD_EXTRA;
        let limit = bytes_max.min(BATCH_BYTES.max(bytes + BATCH_EXTRA));
        let builder = self.builders.entry(partition).or_insert_with(|| BatchBuilder::new(codec));
        if !builder.is_empty() && builder.bytes() + bytes > limit {
            built.push((self.topic.clone(), partition, builder.finish()));
        }
        let Record { timestamp, key, value, headers } = record;
        builder.push(timestamp, key, Some(value), headers);
        if bytes + BATCH_EXTRA <= bytes_max {
            return Ok(());
        }
        // Alone, and perhaps small enough once it is packed.
        let alone = builder.finish();
        let packed = alone.as_bytes().len();
        if packed > bytes_max {
            return Err(format!(
                "the record has {packed} bytes, topic `{}` takes at most {bytes_max} \
                 (`max.message.bytes`)",
                self.topic
            ));
        }
        built.push((self.topic.clone(), partition, alone));
        Ok(())
    }
}

#[async_trait]
impl Sink for KafkaSink {
    async fn write(&mut self, batch: &Batch) -> Result<Receipt> {
        self.producer.room().await?;
        let mut rejected = Vec::new();
        let (built, rows) = self.build(batch, &mut rejected).await?;
        rejected.sort_unstable_by_key(|(row, _)| *row);
        // Nothing fails or waits from here on: all of it is accepted.
        let mut bytes = 0;
        let acknowledged: Vec<BoxFuture<'static, Result<()>>> = built
            .into_iter()
            .map(|(topic, partition, batch)| {
                bytes += batch.as_bytes().len() as u64;
                self.producer.submit((topic, partition as i32), batch)
            })
            .collect();
        Ok(Receipt {
            rejected,
            rows,
            bytes,
            durable: async move {
                for part in acknowledged {
                    part.await?;
                }
                Ok(())
            }
            .boxed(),
        })
    }
}
