//! Appends records that a person or a script hands in.

use super::topics::no_partition;
use super::{Service, blocking, end};
use crate::answers::Produced;
use crate::protocol::{Encode, NewRecord};
use crate::{Error, Result};
use millstream_core::{
    Decoder, Encoded, Encoder, Header, Headers, Record, RecordsBuilder, SchemaKind, Schemas,
};
use millstream_engine::Catalog;
use millstream_formats::avro;
use millstream_formats::json::{JsonDecoder, JsonOptions};
use millstream_log::{BatchBuilder, Topic, TopicOptions, partition_for};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// A batch is closed when it has so many bytes.
const BATCH_BYTES: usize = 1 << 20;

pub struct Order {
    pub topic: String,
    pub partitions: Option<u32>,
    pub partition: Option<u32>,
    pub encode: Option<Encode>,
    pub records: Vec<NewRecord>,
}

impl Service {
    pub async fn produce(&self, order: Order) -> Result<Value> {
        let (topic, created) = self.topic_to_write(&order.topic, order.partitions).await?;
        if let Some(index) = order.partition
            && index >= topic.partitions()
        {
            return Err(no_partition(&topic, index));
        }
        let encoded = match &order.encode {
            Some(encode) => Some(self.as_avro(&order, encode).await?),
            None => None,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as i64);
        let mut builders: BTreeMap<u32, Vec<BatchBuilder>> = BTreeMap::new();
        let mut spread = 0;
        for (row, record) in order.records.iter().enumerate() {
            let index = match (order.partition, &record.key) {
                (Some(index), _) => index,
                (None, Some(key)) => partition_for(key.as_bytes(), topic.partitions()),
                // Records without a key go around, a batch of requests at a time.
                (None, None) => {
                    spread += 1;
                    (now as u32).wrapping_add(spread - 1) % topic.partitions()
                }
            };
            let value = match &encoded {
                Some(encoded) => Some(encoded.row(row)),
                None => record.value.as_deref().map(str::as_bytes),
            };
            let mut headers = Vec::new();
            if !record.headers.is_empty() {
                let pairs = record.headers.iter().map(|(key, value)| Header {
                    key: key.as_bytes(),
                    value: Some(value.as_bytes()),
                });
                Headers::encode(pairs, &mut headers);
            }
            let open = builders.entry(index).or_default();
            if open.last().is_none_or(|builder| builder.bytes() > BATCH_BYTES) {
                open.push(BatchBuilder::new(topic.options().codec));
            }
            if let Some(builder) = open.last_mut() {
                let key = record.key.as_deref().map(str::as_bytes);
                builder.push(record.timestamp.unwrap_or(now), key, value, &headers);
            }
        }
        let mut waiting = Vec::new();
        let mut last = None;
        for (index, open) in builders {
            let partition = topic.partition(index).ok_or_else(|| no_partition(&topic, index))?;
            for mut builder in open {
                let appended = partition.append(&builder.finish())?;
                last = Some((index, appended.last_offset));
                waiting.push(appended.durable);
            }
        }
        for durable in waiting {
            durable.await?;
        }
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
                let error = self.topic(name).err();
                let why = error.map_or_else(String::new, |error| error.message);
                Err(Error::mistake(format!("{why}; --partitions N makes it")))
            }
        }
    }

    /// The values, JSON objects, as framed Avro. All of them or an error that names the first that
    /// does not fit.
    async fn as_avro(&self, order: &Order, encode: &Encode) -> Result<Encoded> {
        let registry = &self.home().registry;
        let (id, text) = match encode {
            Encode::Subject(subject) => match registry.latest(subject).await? {
                Some(schema) => {
                    let catalog = Catalog::new(self.home().clone());
                    let whole = catalog.subject(subject).await?;
                    (schema.id, whole.unwrap_or_else(|| schema.text.to_string()))
                }
                None => {
                    return Err(Error::mistake(format!(
                        "the registry has no subject `{subject}`: `millstream schemas list` shows \
                         what it has"
                    )));
                }
            },
            Encode::Schema(text) => {
                let subject = format!("{}-value", order.topic);
                let id = Schemas::register(registry, &subject, SchemaKind::Avro, text).await?;
                (id, text.clone())
            }
        };
        let schema = avro::arrow_schema(&text)?;
        let mut records = RecordsBuilder::new();
        for (row, record) in order.records.iter().enumerate() {
            if record.value.is_none() {
                return Err(bad_line(record, "a tombstone has no value to encode"));
            }
            records.push(Record {
                offset: row as i64,
                timestamp: 0,
                key: None,
                value: record.value.as_deref().map(str::as_bytes),
                headers: Headers::default(),
            });
        }
        let records = records.finish(order.records.len() as i64);
        let mut decoder =
            JsonDecoder::new(schema.clone(), JsonOptions { record_bytes_max: usize::MAX })?;
        let decoded = decoder.decode(&records)?;
        if let Some(rejected) = decoded.rejected.first() {
            let record = &order.records[rejected.source_row as usize];
            return Err(bad_line(record, &rejected.reason));
        }
        let mut encoder = avro::AvroEncoder::new(&text, Some(id), schema)?;
        let encoded = encoder.encode(&decoded.batch.rows)?;
        match encoded.rejected.first() {
            Some((row, why)) => Err(bad_line(&order.records[*row as usize], why)),
            None => Ok(encoded),
        }
    }
}

fn bad_line(record: &NewRecord, why: &str) -> Error {
    Error::mistake(format!("line {}: {why}; nothing of this batch was written", record.line))
}
