//! Dead letters: rows that cannot be processed, kept whole with the reason and their position.
//!
//! A letter is a record of its own topic: key, value and headers are the record's own, so that any
//! Kafka tool can show it or send it on, and what we know of it is in headers that start with
//! `millstream.`.

use crate::metrics::PipelineMetrics;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_connectors::file::OVERSIZED_HEADER;
use millstream_connectors::kafka::{KafkaTopic, KafkaWriter};
use millstream_core::{Error, Header, Headers, Record, Rejection, Result, fault};
use millstream_log::{BatchBuilder, Codec, Topic};
use serde::Serialize;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const PREFIX: &str = "millstream.";
/// The note that stands first.
const FIRST_NOTE: &str = "millstream.pipeline";
/// A reason may quote the record; this much of it is kept.
const REASON_BYTES: usize = 4 * 1024;
/// Of a record above the bound this much is kept, with its length and checksum.
const KEPT_BYTES: usize = 64 * 1024;
/// How many bytes of letters go into one record batch.
const BATCH_BYTES: usize = 4 << 20;

/// Why a record became a letter.
#[derive(Debug, Clone)]
pub struct Verdict {
    pub source_row: u32,
    /// The step, sink or format that refused it.
    pub step: Arc<str>,
    pub kind: &'static str,
    pub reason: String,
}

impl From<(&Arc<str>, Rejection)> for Verdict {
    fn from((step, rejection): (&Arc<str>, Rejection)) -> Self {
        let Rejection { source_row, kind, reason } = rejection;
        Self { source_row, step: step.clone(), kind, reason }
    }
}

/// A letter as it is read back.
#[derive(Debug, Clone, Serialize)]
pub struct Letter {
    /// Where the letter is in the dead-letter topic.
    pub partition: u32,
    pub offset: i64,
    /// When it became one, in milliseconds since 1970.
    pub rejected_at: i64,
    pub pipeline: String,
    pub step: String,
    pub kind: String,
    pub reason: String,
    pub attempt: u32,
    pub source: String,
    pub source_partition: u32,
    pub source_offset: i64,
    /// The record's own timestamp.
    pub timestamp: i64,
    pub schema_id: Option<u32>,
    /// Of a record that was too big to keep: its length and CRC-32C. The value is its beginning.
    pub truncated: Option<String>,
    #[serde(skip)]
    pub key: Option<Bytes>,
    #[serde(skip)]
    pub value: Option<Bytes>,
    /// The record's own headers, encoded.
    #[serde(skip)]
    pub headers: Vec<u8>,
}

/// Where a pipeline's letters go. Cheap to clone.
#[derive(Clone)]
pub enum DeadLetters {
    Log(Topic),
    Kafka(KafkaTopic),
}

/// The same, opened for a partition task.
enum Out {
    Log(Topic),
    Kafka(KafkaWriter),
}

/// Writes a partition task's letters.
pub struct LetterWriter {
    out: Out,
    /// How many bytes of letters go into one record batch.
    batch_bytes: usize,
    pipeline: Arc<str>,
    source: Arc<str>,
    partition: u32,
    record_bytes_max: usize,
    /// The source marks lines that it could not keep whole.
    may_be_oversized: bool,
    /// How often these records have been tried: 1, more in a replay.
    pub attempt: u32,
    metrics: Arc<PipelineMetrics>,
}

impl DeadLetters {
    /// The topic's name.
    pub fn name(&self) -> &str {
        match self {
            DeadLetters::Log(topic) => topic.name(),
            DeadLetters::Kafka(topic) => topic.name(),
        }
    }
}

impl LetterWriter {
    pub fn new(
        to: &DeadLetters,
        pipeline: Arc<str>,
        source: Arc<str>,
        partition: u32,
        record_bytes_max: usize,
        may_be_oversized: bool,
        metrics: Arc<PipelineMetrics>,
    ) -> Self {
        let (out, record_bytes_max, batch_bytes) = match to {
            DeadLetters::Log(topic) => (Out::Log(topic.clone()), record_bytes_max, BATCH_BYTES),
            // What a letter adds to a record must find room too.
            DeadLetters::Kafka(topic) => {
                let most = topic.bytes_max();
                (Out::Kafka(topic.writer()), record_bytes_max.min(most / 2), most / 4)
            }
        };
        Self {
            out,
            batch_bytes,
            pipeline,
            source,
            partition,
            record_bytes_max,
            may_be_oversized,
            attempt: 1,
            metrics,
        }
    }

    /// Appends a letter for each verdict, one a source row (its first). The future resolves when
    /// they are durable.
    pub fn append(
        &self,
        records: &millstream_core::Records,
        verdicts: &[Verdict],
    ) -> Result<BoxFuture<'static, Result<()>>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        let codec = match &self.out {
            Out::Log(topic) => topic.options().codec,
            Out::Kafka(_) => Codec::Lz4,
        };
        let mut batches = Vec::new();
        let mut builder = BatchBuilder::new(codec);
        for verdict in verdicts {
            self.push(&mut builder, now, records.get(verdict.source_row as usize), verdict);
            if builder.bytes() > self.batch_bytes {
                batches.push(builder.finish());
                builder.clear();
            }
        }
        if !builder.is_empty() {
            batches.push(builder.finish());
        }
        let durable = match &self.out {
            Out::Log(topic) => {
                let partition = topic.partition(self.partition % topic.partitions());
                let partition = partition.ok_or_else(|| {
                    Error::stop("no_partition", "the dead-letter topic has no partition")
                })?;
                // All or none: what is tried again must not be there twice.
                let durable = partition.append_all(&batches)?.durable;
                async move { Ok(durable.await?) }.boxed()
            }
            Out::Kafka(writer) => writer.append(self.partition, batches),
        };
        for verdict in verdicts {
            self.metrics.error(&verdict.step, verdict.kind, 1);
        }
        Ok(async move {
            durable.await?;
            fault::point("dead_letters.durable");
            Ok(())
        }
        .boxed())
    }

    fn push(&self, builder: &mut BatchBuilder, now: i64, record: Record<'_>, verdict: &Verdict) {
        let mut value = record.value;
        let mut truncated = None;
        if let Some(bytes) = value
            && bytes.len() > self.record_bytes_max
        {
            truncated = Some(format!("{} {:08x}", bytes.len(), crc32c::crc32c(bytes)));
            value = Some(&bytes[..KEPT_BYTES.min(bytes.len())]);
        }
        let mut own: Vec<Header<'_>> = Vec::new();
        for header in record.headers.iter() {
            if self.may_be_oversized && header.key == OVERSIZED_HEADER.as_bytes() {
                truncated = header.value.map(|v| String::from_utf8_lossy(v).into_owned());
            } else {
                own.push(header);
            }
        }
        let mut notes = vec![
            ("pipeline", self.pipeline.to_string()),
            ("step", verdict.step.to_string()),
            ("kind", verdict.kind.to_owned()),
            ("reason", bounded(&verdict.reason).to_owned()),
            ("attempt", self.attempt.to_string()),
            ("source", self.source.to_string()),
            ("partition", self.partition.to_string()),
            ("offset", record.offset.to_string()),
            ("timestamp", record.timestamp.to_string()),
        ];
        if let Some([0, a, b, c, d, ..]) = record.value {
            notes.push(("schema_id", u32::from_be_bytes([*a, *b, *c, *d]).to_string()));
        }
        if let Some(truncated) = truncated {
            notes.push(("truncated", truncated));
        }
        let notes: Vec<_> = notes.into_iter().map(|(k, v)| (format!("{PREFIX}{k}"), v)).collect();
        for (key, value) in &notes {
            own.push(Header { key: key.as_bytes(), value: Some(value.as_bytes()) });
        }
        let mut headers = Vec::new();
        Headers::encode(own.into_iter(), &mut headers);
        builder.push(now, record.key, value, &headers);
    }
}

fn bounded(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_BYTES)]
}

impl Letter {
    /// Reads a record of a dead-letter topic. `None` when it is not a letter.
    pub fn read(partition: u32, record: Record<'_>) -> Option<Letter> {
        let mut letter = Letter {
            partition,
            offset: record.offset,
            rejected_at: record.timestamp,
            pipeline: String::new(),
            step: String::new(),
            kind: String::new(),
            reason: String::new(),
            attempt: 1,
            source: String::new(),
            source_partition: 0,
            source_offset: -1,
            timestamp: 0,
            schema_id: None,
            truncated: None,
            key: record.key.map(Bytes::copy_from_slice),
            value: record.value.map(Bytes::copy_from_slice),
            headers: Vec::new(),
        };
        // Our notes come last; a record that was a letter before has some of its own.
        let mut own: Vec<Header<'_>> = record.headers.iter().collect();
        let begin = own.iter().rposition(|header| header.key == FIRST_NOTE.as_bytes())?;
        let notes = own.split_off(begin);
        for header in notes {
            let name = std::str::from_utf8(header.key).ok().and_then(|k| k.strip_prefix(PREFIX));
            let Some(name) = name else { continue };
            let text = String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned();
            match name {
                "pipeline" => letter.pipeline = text,
                "step" => letter.step = text,
                "kind" => letter.kind = text,
                "reason" => letter.reason = text,
                "attempt" => letter.attempt = text.parse().ok()?,
                "source" => letter.source = text,
                "partition" => letter.source_partition = text.parse().ok()?,
                "offset" => letter.source_offset = text.parse().ok()?,
                "timestamp" => letter.timestamp = text.parse().ok()?,
                "schema_id" => letter.schema_id = text.parse().ok(),
                "truncated" => letter.truncated = Some(text),
                _ => {}
            }
        }
        Headers::encode(own.into_iter(), &mut letter.headers);
        (!letter.pipeline.is_empty()).then_some(letter)
    }

    /// The record as its pipeline met it.
    pub fn record(&self) -> Record<'_> {
        Record {
            offset: self.source_offset,
            timestamp: self.timestamp,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: Headers(&self.headers),
        }
    }
}
