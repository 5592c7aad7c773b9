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
/// What a record costs beside its parts, and a header beside its own, at most.
const AROUND_A_RECORD: usize = 128;
const AROUND_A_HEADER: usize = 10;

/// Why a record became a letter.
#[derive(Debug, Clone)]
pub struct Verdict {
    pub source_row: u32,
    /// The step, sink or format that refused it.
    pub step: Arc<str>,
    pub kind: &'static str,
    pub reason: String,
}

impl From<&Verdict> for Rejection {
    fn from(verdict: &Verdict) -> Self {
        let Verdict { source_row, kind, reason, .. } = verdict;
        Self { source_row: *source_row, kind, reason: reason.clone() }
    }
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
        let out = match to {
            DeadLetters::Log(topic) => Out::Log(topic.clone()),
            DeadLetters::Kafka(topic) => Out::Kafka(topic.writer()),
        };
        Self {
            out,
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
        let bounds = self.bounds();
        let mut batches = Vec::new();
        let mut builder = BatchBuilder::new(codec);
        for verdict in verdicts {
            let record = records.get(verdict.source_row as usize);
            let Cut { key, value, headers } = self.cut(bounds, record, verdict);
            let bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers.len();
            if !builder.is_empty() && builder.bytes() + bytes > bounds.batch {
                batches.push(builder.finish());
                builder.clear();
            }
            builder.push(now, key, value, &headers);
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

    /// Asked for anew each time: a cluster may take less than it said, or more than before.
    fn bounds(&self) -> Bounds {
        match &self.out {
            Out::Log(_) => {
                Bounds { record: self.record_bytes_max, batch: BATCH_BYTES, letter: usize::MAX }
            }
            // What a letter adds to a record must find room too.
            Out::Kafka(writer) => {
                let most = writer.bytes_max();
                Bounds {
                    record: self.record_bytes_max.min(most / 2),
                    batch: most / 4,
                    letter: most.saturating_sub(AROUND_A_RECORD),
                }
            }
        }
    }

    fn cut<'r>(&self, bounds: Bounds, record: Record<'r>, verdict: &Verdict) -> Cut<'r> {
        let mut value = record.value;
        let mut is_cut = false;
        if let Some(bytes) = value
            && bytes.len() > bounds.record
        {
            is_cut = true;
            value = Some(&bytes[..KEPT_BYTES.min(bounds.record)]);
        }
        let mut truncated = None;
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
            ("reason", bounded(&verdict.reason, bounds.letter / 4).to_owned()),
            ("attempt", self.attempt.to_string()),
            ("source", self.source.to_string()),
            ("partition", self.partition.to_string()),
            ("offset", record.offset.to_string()),
            ("timestamp", record.timestamp.to_string()),
        ];
        if let Some([0, a, b, c, d, ..]) = record.value {
            notes.push(("schema_id", u32::from_be_bytes([*a, *b, *c, *d]).to_string()));
        }
        let noted = |(name, text): &(&str, String)| {
            PREFIX.len() + name.len() + text.len() + AROUND_A_HEADER
        };
        // The note of what was cut has a length and a checksum.
        let room = bounds.letter.saturating_sub(notes.iter().map(noted).sum::<usize>() + 64);
        let headers = own.iter().map(|h| h.key.len() + h.value.map_or(0, <[u8]>::len));
        let headers = headers.map(|bytes| bytes + AROUND_A_HEADER).sum();
        let [key, kept] = [record.key, value].map(|part| part.map_or(0, <[u8]>::len));
        let fit = fit(room, kept, key, headers);
        value = value.map(|bytes| &bytes[..fit.value]);
        is_cut |= fit.value < kept || !fit.key || !fit.headers;
        if !fit.headers {
            own.clear();
        }
        if is_cut {
            let bytes = record.value.unwrap_or_default();
            truncated = Some(format!("{} {:08x}", bytes.len(), crc32c::crc32c(bytes)));
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
        Cut { key: record.key.filter(|_| fit.key), value, headers }
    }
}

/// How large things may be.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// A value that is kept whole.
    record: usize,
    batch: usize,
    /// A letter that is alone.
    letter: usize,
}

/// What is kept of a record, with our notes.
struct Cut<'r> {
    key: Option<&'r [u8]>,
    value: Option<&'r [u8]>,
    headers: Vec<u8>,
}

/// What of a record finds room.
#[derive(Debug, PartialEq, Eq)]
struct Fit {
    value: usize,
    key: bool,
    headers: bool,
}

/// Headers go first, then the key, then the end of the value.
fn fit(room: usize, value: usize, key: usize, headers: usize) -> Fit {
    let with_key = value.saturating_add(key) <= room;
    let with_headers = with_key && value + key + headers <= room;
    Fit { value: value.min(room), key: key == 0 || with_key, headers: headers == 0 || with_headers }
}

fn bounded(reason: &str, most: usize) -> &str {
    &reason[..reason.floor_char_boundary(REASON_BYTES.min(most))]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_that_is_too_large_loses_headers_then_its_key_then_the_end_of_its_value() {
        let kept = |room| {
            let Fit { value, key, headers } = fit(room, 50, 20, 30);
            (value, key, headers)
        };
        assert_eq!(kept(100), (50, true, true));
        assert_eq!(kept(99), (50, true, false));
        assert_eq!(kept(69), (50, false, false));
        assert_eq!(kept(49), (49, false, false));
        assert_eq!(fit(0, 0, 0, 0), Fit { value: 0, key: true, headers: true });
    }
}
