//! What decoding and encoding cost, beside arrow-avro on the same records:
//!
//! ```sh
//! cargo run --release -p millstream-formats --example decode_cost
//! ```

use arrow_array::RecordBatch;
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{
    Decoder, Encoder, Error, Headers, Record, Records, RecordsBuilder, RegisteredSchema, Result,
    SchemaKind, Schemas,
};
use millstream_formats::avro::{AvroDecoder, AvroEncoder, AvroOptions, Framing};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const SCHEMA: &str = include_str!("../tests/data/navigation.avsc");
const ID: u32 = 7;
const BATCH: usize = 4096;
const BATCHES: usize = 32;
const ROUNDS: usize = 7;

struct One;

#[async_trait]
impl Schemas for One {
    async fn by_id(&self, id: u32) -> Result<Arc<RegisteredSchema>> {
        let (kind, text) = (SchemaKind::Avro, SCHEMA.into());
        Ok(Arc::new(RegisteredSchema { id, kind, text, references: Vec::new() }))
    }

    async fn latest(&self, _: &str) -> Result<Option<Arc<RegisteredSchema>>> {
        Ok(None)
    }

    async fn register(&self, _: &str, _: SchemaKind, _: &str) -> Result<u32> {
        Err(Error::stop("registry", "read only"))
    }
}

fn main() {
    let values: Vec<Vec<u8>> = (0..BATCH * BATCHES).map(|at| value(at as u64)).collect();
    let bytes: usize = values.iter().map(Vec::len).sum();
    println!("{} records of {} bytes on average", values.len(), bytes / values.len());
    let runs: Vec<Records> = values.chunks(BATCH).map(records).collect();

    let mut all = decoder(None);
    let mut five = decoder(Some(&["uid", "seen_at", "url", "site", "status"]));
    let batches: Vec<RecordBatch> =
        runs.iter().map(|run| all.decode(run).expect("valid").batch.rows).collect();
    let mut encoder = AvroEncoder::new(SCHEMA, Some(ID), all.schema()).expect("fits");

    let mut best = [f64::MAX; 5];
    for _ in 0..ROUNDS {
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        let schema = AvroSchema::new(SCHEMA.to_owned());
        store.set(Fingerprint::Id(ID), schema.clone()).expect("a fresh store");
        let mut peer = ReaderBuilder::new()
            .with_batch_size(BATCH)
            .with_writer_schema_store(store.clone())
            .build_decoder()
            .expect("a valid schema");
        let work: [&mut dyn FnMut(); 5] = [
            &mut || {
                for chunk in values.chunks(BATCH) {
                    for value in chunk {
                        peer.decode(value).expect("valid");
                    }
                    black_box(peer.flush().expect("valid"));
                }
            },
            &mut || {
                for run in &runs {
                    black_box(all.decode(run).expect("valid"));
                }
            },
            &mut || {
                for run in &runs {
                    black_box(five.decode(run).expect("valid"));
                }
            },
            &mut || {
                for batch in &batches {
                    black_box(encoder.encode(batch).expect("valid"));
                }
            },
            &mut || {
                for batch in &batches {
                    black_box(peer_encode(batch));
                }
            },
        ];
        for (at, work) in work.into_iter().enumerate() {
            let start = Instant::now();
            work();
            best[at] = best[at].min(start.elapsed().as_secs_f64() / values.len() as f64 * 1e9);
        }
    }
    let names =
        ["arrow-avro, all", "decode, all", "decode, 5 of 13", "encode", "arrow-avro encode"];
    for (name, nanos) in names.iter().zip(best) {
        println!("{name:18} {nanos:7.0} ns a record, {:.2} of arrow-avro", nanos / best[0]);
    }
    println!("5 of 13 to all: {:.2}", best[2] / best[1]);
}

/// What arrow-avro's own row encoder gives, for the columns as it would derive them itself.
fn peer_encode(batch: &RecordBatch) -> usize {
    let mut encoder = arrow_avro::writer::WriterBuilder::new(batch.schema().as_ref().clone())
        .with_fingerprint_strategy(arrow_avro::schema::FingerprintStrategy::Id(ID))
        .build_encoder::<arrow_avro::writer::format::AvroSoeFormat>()
        .expect("writable columns");
    encoder.encode(batch).expect("valid");
    encoder.flush().len()
}

fn decoder(columns: Option<&[&str]>) -> AvroDecoder {
    let options = AvroOptions {
        framing: Framing::Confluent,
        reader_schema: SCHEMA.to_owned(),
        columns: columns.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
        writer_schema: None,
        record_bytes_max: 8 << 20,
    };
    let mut decoder = AvroDecoder::new(options, Arc::new(One)).expect("a valid schema");
    let first = records(&[value(0)]);
    decoder.prepare(&first).now_or_never().expect("never waits").expect("known");
    decoder
}

fn records(values: &[Vec<u8>]) -> Records {
    let mut builder = RecordsBuilder::new();
    for (at, value) in values.iter().enumerate() {
        let headers = Headers::default();
        let (offset, value) = (at as i64, Some(value.as_slice()));
        builder.push(Record { offset, timestamp: 0, key: None, value, headers });
    }
    builder.finish(values.len() as i64)
}

/// A `Navigation` of about 300 bytes.
fn value(at: u64) -> Vec<u8> {
    let mix = at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut out = vec![0];
    out.extend_from_slice(&ID.to_be_bytes());
    text(&format!("u-{:016x}", mix), &mut out);
    long(1_700_000_000_000 + at as i64 * 7, &mut out);
    text(&format!("https://shop.example.org/c/{}/p/{}", mix % 90, mix >> 44), &mut out);
    match mix % 3 {
        0 => long(0, &mut out),
        _ => {
            long(1, &mut out);
            text("https://www.example.com/search?q=blue+shoes", &mut out);
        }
    }
    text("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", &mut out);
    text(&format!("10.{}.{}.{}", mix % 256, mix >> 8 & 255, mix >> 16 & 255), &mut out);
    long(if mix.is_multiple_of(20) { 404 } else { 200 }, &mut out);
    long(1, &mut out);
    long((mix >> 40) as i64, &mut out);
    long((mix % 5000) as i64, &mut out);
    text("Example shop", &mut out);
    text("CH", &mut out);
    long(2, &mut out);
    text("sale", &mut out);
    text("summer", &mut out);
    long(0, &mut out);
    long(1, &mut out);
    text("utm_source", &mut out);
    text("newsletter", &mut out);
    long(0, &mut out);
    long((mix % 3) as i64, &mut out);
    long(2, &mut out);
    for at in 0..2 {
        text(&format!("SKU-{:06}", (mix >> at) % 1_000_000), &mut out);
        out.extend_from_slice(&(19.9 + at as f64).to_le_bytes());
        long(1 + at, &mut out);
    }
    long(0, &mut out);
    out
}

fn text(text: &str, out: &mut Vec<u8>) {
    long(text.len() as i64, out);
    out.extend_from_slice(text.as_bytes());
}

fn long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
