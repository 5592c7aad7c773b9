//! Decoding: bare arrow-avro, with nothing of ours around it, and the decoder of the pipelines.

use crate::generate::{Event, Frames, Generator, SCHEMA, SCHEMA_ID, SEED};
use crate::job::{Measured, Meter};
use anyhow::{Result, ensure};
use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use millstream_core::{Decoder as _, Headers, Record, RecordsBuilder};
use millstream_formats::avro::{AvroDecoder, AvroOptions, Framing};
use millstream_registry::{NewSchema, Registry};
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::sync::Arc;

const BATCH_ROWS: usize = 2048;
/// The columns that the narrow row keeps of the 13.
const KEPT: [&str; 5] = ["uid", "seen_at", "url", "status", "site"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Columns {
    All,
    Five,
}

/// Decodes generated records batch by batch, one message a call as a consumer gets them. Making
/// the records is not counted.
pub fn bare(columns: Columns, messages: u64) -> Result<Measured> {
    let mut decoder = decoder(columns)?;
    let mut generator = Generator::new(SEED);
    let mut frames = Frames::default();
    let (mut left, mut bytes, mut rows) = (messages as usize, 0, 0);
    let mut meter = Meter::paused();
    while left > 0 {
        generator.fill(&mut frames, left.min(BATCH_ROWS * 10));
        left -= frames.iter().len();
        bytes += frames.bytes() as u64;
        meter.resume();
        for (at, frame) in frames.iter().enumerate() {
            let used = decoder.decode(frame)?;
            ensure!(used == frame.len(), "a record decodes whole");
            if (at + 1) % BATCH_ROWS == 0 || at + 1 == frames.iter().len() {
                let batch = decoder.flush()?;
                rows += black_box(batch).map_or(0, |batch| batch.num_rows());
            }
        }
        meter.pause();
    }
    ensure!(rows as u64 == messages, "{rows} rows of {messages} records");
    let name = match columns {
        Columns::All => "bare arrow-avro, 13 columns",
        Columns::Five => "bare arrow-avro, 5 of 13 columns",
    };
    meter.measured(name, messages, bytes)
}

/// The same by the decoder that pipelines use, on batches as the engine hands them to it.
pub fn own(columns: Columns, messages: u64) -> Result<Measured> {
    let registry = Registry::in_memory();
    let id = registry.register("navigation-value", &NewSchema::avro(SCHEMA), false)?.id;
    ensure!(id == SCHEMA_ID, "the registry gave the schema id {id}");
    let options = AvroOptions {
        framing: Framing::Confluent,
        reader_schema: SCHEMA.to_owned(),
        columns: match columns {
            Columns::All => None,
            Columns::Five => Some(KEPT.map(str::to_owned).to_vec()),
        },
        writer_schema: None,
        record_bytes_max: 8 << 20,
    };
    let mut decoder = AvroDecoder::new(options, Arc::new(registry))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut generator = Generator::new(SEED);
    let mut event = Event::default();
    let (mut left, mut bytes, mut rows) = (messages as usize, 0, 0);
    let mut meter = Meter::paused();
    while left > 0 {
        let mut batches = Vec::with_capacity(10);
        while left > 0 && batches.len() < 10 {
            let count = left.min(BATCH_ROWS);
            let mut records = RecordsBuilder::new();
            for row in 0..count {
                generator.next_into(&mut event);
                records.push(Record {
                    offset: row as i64,
                    timestamp: event.seen_at,
                    key: Some(&event.uid),
                    value: Some(&event.frame),
                    headers: Headers::default(),
                });
                bytes += event.frame.len() as u64;
            }
            batches.push(records.finish(count as i64));
            left -= count;
        }
        meter.resume();
        for records in &batches {
            runtime.block_on(decoder.prepare(records))?;
            let decoded = black_box(decoder.decode(records)?);
            ensure!(decoded.rejected.is_empty(), "every record decodes");
            rows += decoded.batch.len();
        }
        meter.pause();
    }
    ensure!(rows as u64 == messages, "{rows} rows of {messages} records");
    let name = match columns {
        Columns::All => "decode, 13 columns",
        Columns::Five => "decode, 5 of 13 columns",
    };
    meter.measured(name, messages, bytes)
}

pub fn decoder(columns: Columns) -> Result<Decoder> {
    let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
    store.set(Fingerprint::Id(SCHEMA_ID), AvroSchema::new(SCHEMA.to_owned()))?;
    let builder = ReaderBuilder::new()
        .with_batch_size(BATCH_ROWS)
        .with_writer_schema_store(store)
        .with_active_fingerprint(Fingerprint::Id(SCHEMA_ID));
    let builder = match columns {
        Columns::All => builder,
        Columns::Five => builder.with_reader_schema(AvroSchema::new(cut_schema()?)),
    };
    Ok(builder.build_decoder()?)
}

/// The schema with the kept columns only.
fn cut_schema() -> Result<String> {
    let mut schema: serde_json::Value = serde_json::from_str(SCHEMA)?;
    if let Some(fields) = schema["fields"].as_array_mut() {
        fields.retain(|field| KEPT.iter().any(|kept| field["name"] == *kept));
    }
    Ok(schema.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_widths_decode_every_record() {
        for columns in [Columns::All, Columns::Five] {
            assert_eq!(bare(columns, 5_000).unwrap().messages, 5_000);
        }
        assert_eq!(decoder(Columns::Five).unwrap().schema().fields().len(), KEPT.len());
    }
}
