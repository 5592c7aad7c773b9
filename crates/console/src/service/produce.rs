//! Appends records that a person or a script hands in.

use super::topics::no_partition;
use super::{Service, blocking, end, unknown};
use crate::answers::Produced;
use crate::protocol::{Elsewhere, Encode, NewRecord};
use crate::{Error, Result};
use millstream_connectors::kafka::{Cluster, KafkaTopic};
use millstream_core::{
    Decoder, Encoded, Encoder, Header, Headers, Record, RecordsBuilder, SchemaKind, Schemas,
};
use millstream_engine::SchemaRegistry;
use millstream_formats::avro;
use millstream_formats::json::{JsonDecoder, JsonOptions};
use millstream_log::{BatchBuilder, Codec, Topic, TopicOptions, partition_for};
use millstream_registry::NewSchema;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// A batch is closed when it has so many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// A record's own fields and those of its batch, beside key, value and headers.
const AROUND_A_RECORD: usize = 128;

pub struct Order {
    pub topic: String,
    pub partitions: Option<u32>,
    pub partition: Option<u32>,
    pub encode: Option<Encode>,
    pub records: Vec<NewRecord>,
}

/// What is written to.
enum To {
    Log(Topic),
    Kafka(KafkaTopic),
}

impl Service {
    pub async fn produce(&self, order: Order, elsewhere: &Elsewhere) -> Result<Value> {
        let place = self.place_of_topic(elsewhere, &order.topic)?;
        let (to, created) = match &place.cluster {
            Some(cluster) => topic_there(cluster, &order.topic, order.partitions).await?,
            None => {
                let (topic, created) = self.topic_to_write(&order.topic, order.partitions).await?;
                (To::Log(topic), created)
            }
        };
        if let Some(index) = order.partition
            && index >= to.partitions()
        {
            let there = millstream_engine::partitions_of(&order.topic, to.partitions());
            return Err(Error::mistake(format!("{there}, not {index}")));
        }
        let encoded = match &order.encode {
            Some(encode) => Some(self.as_avro(&order, encode, &place.registry).await?),
            None => None,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as i64);
        let mut builders: BTreeMap<u32, Vec<BatchBuilder>> = BTreeMap::new();
        let (mut spread, mut valued) = (0, 0);
        for record in &order.records {
            let index = match (order.partition, &record.key) {
                (Some(index), _) => index,
                (None, Some(key)) => partition_for(key.as_bytes(), to.partitions()),
                // Records without a key go around, a batch of requests at a time.
                (None, None) => {
                    spread += 1;
                    (now as u32).wrapping_add(spread - 1) % to.partitions()
                }
            };
            let value = match (&encoded, &record.value) {
                (Some(encoded), Some(_)) => {
                    valued += 1;
                    Some(encoded.row(valued - 1))
                }
                (_, value) => value.as_deref().map(str::as_bytes),
            };
            let mut headers = Vec::new();
            if !record.headers.is_empty() {
                let pairs = record.headers.iter().map(|(key, value)| Header {
                    key: key.as_bytes(),
                    value: Some(value.as_bytes()),
                });
                Headers::encode(pairs, &mut headers);
            }
            let key = record.key.as_deref().map(str::as_bytes);
            let bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers.len();
            if let Err(why) = to.takes(key, bytes) {
                return Err(bad_line(record, &why));
            }
            let open = builders.entry(index).or_default();
            if open.last().is_none_or(|builder| builder.bytes() + bytes > to.batch_bytes()) {
                open.push(BatchBuilder::new(to.codec()));
            }
            if let Some(builder) = open.last_mut() {
                builder.push(record.timestamp.unwrap_or(now), key, value, &headers);
            }
        }
        let last = to.append(builders).await?;
        end(Produced { records: order.records.len() as u64, last, created })
    }

    async fn topic_to_write(&self, name: &str, partitions: Option<u32>) -> Result<(Topic, bool)> {
        match (self.home().log.topic(name), partitions) {
            (Some(topic), Some(partitions)) if topic.partitions() != partitions => {
                Err(Error::mistake(format!(
                    "the topic `{name}` has {} partitions, not {partitions}",
                    topic.partitions()
                )))
            }
            (Some(topic), _) => Ok((topic, false)),
            (None, Some(partitions)) => {
                let (log, name) = (self.home().log.clone(), name.to_owned());
                let options = TopicOptions { partitions, ..TopicOptions::default() };
                Ok((blocking(move || Ok(log.create_topic(&name, options)?)).await?, true))
            }
            (None, None) => {
                let known = self.home().log.topics();
                let known: Vec<&str> = known.iter().map(|topic| topic.name()).collect();
                Err(Error::mistake(format!(
                    "{}; --partitions N makes it. A topic of Kafka is reached with --file \
                     PIPELINE.yaml or --brokers HOST:PORT",
                    unknown("topic", name, &known)
                )))
            }
        }
    }

    /// The values, JSON objects, as framed Avro, of the records that have one. All of them or an error that
    /// names the first that does not fit.
    async fn as_avro(
        &self,
        order: &Order,
        encode: &Encode,
        registry: &SchemaRegistry,
    ) -> Result<Encoded> {
        let (id, text) = match encode {
            Encode::Subject(subject) => match registry.latest(subject).await? {
                Some(schema) if schema.kind != SchemaKind::Avro => {
                    return Err(Error::mistake(format!(
                        "subject `{subject}` has {} schemas: values are encoded as Avro only",
                        millstream_engine::kind_name(schema.kind)
                    )));
                }
                Some(schema) => (schema.id, millstream_engine::inline(&schema)?),
                None => {
                    return Err(Error::mistake(format!(
                        "{} has no subject `{subject}`: `millstream schemas list` shows what it has",
                        registry.called()
                    )));
                }
            },
            Encode::Schema(text) => {
                let subject = format!("{}-value", order.topic);
                let id = match registry {
                    SchemaRegistry::Embedded(registry) => {
                        Schemas::register(registry, &subject, SchemaKind::Avro, text).await?
                    }
                    SchemaRegistry::Elsewhere { client, .. } => {
                        client.add(&subject, &NewSchema::avro(text.clone())).await?
                    }
                };
                (id, text.clone())
            }
        };
        let schema = avro::arrow_schema(&text)?;
        let mut records = RecordsBuilder::new();
        let valued: Vec<_> = order.records.iter().filter(|r| r.value.is_some()).collect();
        for (row, record) in valued.iter().enumerate() {
            records.push(Record {
                offset: row as i64,
                timestamp: 0,
                key: None,
                value: record.value.as_deref().map(str::as_bytes),
                headers: Headers::default(),
            });
        }
        let records = records.finish(valued.len() as i64);
        let mut decoder =
            JsonDecoder::new(schema.clone(), JsonOptions { record_bytes_max: usize::MAX })?;
        let decoded = decoder.decode(&records)?;
        if let Some(rejected) = decoded.rejected.first() {
            return Err(bad_line(valued[rejected.source_row as usize], &rejected.reason));
        }
        let mut encoder = avro::AvroEncoder::new(&text, Some(id), schema)?;
        let encoded = encoder.encode(&decoded.batch.rows)?;
        match encoded.rejected.first() {
            Some((row, why)) => Err(bad_line(valued[*row as usize], why)),
            None => Ok(encoded),
        }
    }
}

/// A topic of a cluster, made where it is missing and a number of partitions is given.
async fn topic_there(cluster: &Cluster, name: &str, partitions: Option<u32>) -> Result<(To, bool)> {
    let mut created = false;
    let opened = match KafkaTopic::open(cluster.clone(), name).await {
        Err(error) if error.kind() == "no_topic" => match partitions {
            Some(partitions) => {
                cluster.create_topic(name, partitions, None, &[]).await?;
                created = true;
                KafkaTopic::open(cluster.clone(), name).await?
            }
            None => return Err(Error::mistake(format!("{error}; --partitions N makes it"))),
        },
        opened => opened?,
    };
    match partitions {
        Some(wanted) if wanted != opened.partitions() => Err(Error::mistake(format!(
            "the topic `{name}` has {} partitions, not {wanted}",
            opened.partitions()
        ))),
        _ => Ok((To::Kafka(opened), created)),
    }
}

impl To {
    fn partitions(&self) -> u32 {
        match self {
            To::Log(topic) => topic.partitions(),
            To::Kafka(topic) => topic.partitions(),
        }
    }

    fn codec(&self) -> Codec {
        match self {
            To::Log(topic) => topic.options().codec,
            To::Kafka(_) => Codec::Lz4,
        }
    }

    fn batch_bytes(&self) -> usize {
        match self {
            To::Log(_) => BATCH_BYTES,
            To::Kafka(topic) => BATCH_BYTES.min(topic.bytes_max() / 2),
        }
    }

    /// Finds what a cluster would refuse before anything of it is written.
    fn takes(&self, key: Option<&[u8]>, bytes: usize) -> Result<(), String> {
        let To::Kafka(topic) = self else { return Ok(()) };
        let name = topic.name();
        if topic.wants_keys() && key.is_none() {
            return Err(format!("the record has no key, and topic `{name}` is compacted"));
        }
        match bytes + AROUND_A_RECORD > topic.bytes_max() {
            true => Err(format!(
                "the record has {bytes} bytes, topic `{name}` takes at most {} (`max.message.bytes`)",
                topic.bytes_max()
            )),
            false => Ok(()),
        }
    }

    /// Durable when this returns; gives the last record's place where it is known.
    async fn append(
        &self,
        builders: BTreeMap<u32, Vec<BatchBuilder>>,
    ) -> Result<Option<(u32, i64)>> {
        let mut last = None;
        match self {
            To::Log(topic) => {
                let mut waiting = Vec::new();
                for (index, open) in builders {
                    let partition =
                        topic.partition(index).ok_or_else(|| no_partition(topic, index))?;
                    for mut builder in open {
                        let appended = partition.append(&builder.finish())?;
                        last = Some((index, appended.last_offset));
                        waiting.push(appended.durable);
                    }
                }
                for durable in waiting {
                    durable.await?;
                }
            }
            To::Kafka(topic) => {
                let writer = topic.writer();
                let waiting = builders.into_iter().map(|(index, open)| {
                    let batches = open.into_iter().map(|mut builder| builder.finish());
                    writer.append(index, batches.collect())
                });
                let waiting: Vec<_> = waiting.collect();
                for durable in waiting {
                    durable.await?;
                }
            }
        }
        Ok(last)
    }
}

fn bad_line(record: &NewRecord, why: &str) -> Error {
    Error::mistake(format!("line {}: {why}; nothing of this batch was written", record.line))
}
