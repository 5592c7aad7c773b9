//! Anything at all as batches: from a producer, and as what stands in a segment.

use millstream_core::{Header as RecordHeader, Headers};
use millstream_log::codec::{
    BatchBuilder, Codec, EncodedBatch, HEADER_BYTES, Header, batches, decode, records_of, split,
};
use millstream_testkit::fuzz;

/// Batches of every codec, alone and two in a row.
fn corpus() -> Vec<Vec<u8>> {
    let mut headers = Vec::new();
    let header = [RecordHeader { key: b"trace", value: Some(b"abc") }];
    Headers::encode(header.into_iter(), &mut headers);
    let mut corpus = Vec::new();
    for codec in Codec::ALL {
        let batch = |records: u64| {
            let mut builder = BatchBuilder::new(codec);
            for at in 0..records {
                let value = format!("a value that packs well, a value that packs well, {at}");
                let key = (at % 3 > 0).then_some(&b"key"[..]);
                let headers = if at % 2 == 0 { &headers[..] } else { &[] };
                let value = (at % 5 < 4).then_some(value.as_bytes());
                builder.push(1_700_000_000_000 + at as i64, key, value, headers);
            }
            builder.finish()
        };
        corpus.push(batch(1).into_bytes_at(0));
        let mut row = batch(12).into_bytes_at(0);
        row.extend(batch(7).into_bytes_at(12));
        corpus.push(row);
        // The last record that has an offset at all, and one too many.
        corpus.push(batch(1).into_bytes_at(i64::MAX - 1));
        corpus.push(batch(1).into_bytes_at(i64::MAX));
    }
    corpus
}

/// Makes lengths, checksums and offsets right again, so that what lies behind them is reached.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    let mut offset = bytes.first_chunk::<8>().map_or(0, |first| i64::from_be_bytes(*first));
    while bytes.len() - at >= HEADER_BYTES {
        let batch = &mut bytes[at..];
        batch[..8].copy_from_slice(&offset.to_be_bytes());
        batch[12..16].fill(0);
        batch[16] = 2;
        let len = match Header::read(batch) {
            Ok(header) if header.bytes <= batch.len() => header.bytes,
            _ => {
                let len = batch.len();
                batch[8..12].copy_from_slice(&(len as i32 - 12).to_be_bytes());
                let count = i32::from_be_bytes([batch[57], batch[58], batch[59], batch[60]]);
                batch[23..27].copy_from_slice(&count.wrapping_sub(1).to_be_bytes());
                len
            }
        };
        let crc = crc32c::crc32c(&batch[21..len]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        let Ok(header) = Header::read(batch) else { break };
        offset = header.next_offset();
        at += len;
    }
    bytes
}

fn read(bytes: &[u8]) {
    let base = bytes.first_chunk::<8>().map_or(0, |first| i64::from_be_bytes(*first));
    for expected in [0, base] {
        if let Ok(found) = batches(bytes, expected) {
            let whole: usize = found.iter().map(|(_, header)| header.bytes).sum();
            assert!(whole <= bytes.len());
        }
        let records = records_of(bytes.to_vec(), expected);
        for record in records.iter().flat_map(|records| records.iter()) {
            record.headers.iter().for_each(drop);
        }
        // In small bites and from the middle: the same bytes, never beyond them.
        if let Ok(decoded) = decode(bytes.to_vec(), expected, expected.saturating_add(5), 100) {
            assert!(decoded.consumed <= bytes.len());
            assert!(decoded.next >= expected);
        }
    }
}

#[test]
fn fuzz_batches_in_a_log() {
    fuzz::run("fuzz_batches_in_a_log", &corpus(), |bytes| {
        read(bytes);
        read(&sealed(bytes));
    });
}

#[test]
fn fuzz_batches_from_a_producer() {
    fuzz::run("fuzz_batches_from_a_producer", &corpus(), |bytes| {
        for bytes in [bytes.to_vec(), sealed(bytes)] {
            let _ = EncodedBatch::parse(bytes.clone());
            // What is taken can be read wherever it is put.
            for batch in split(&bytes).into_iter().flatten() {
                let (records, control) =
                    (batch.len() as i64, Header::read(batch.as_bytes()).unwrap().is_control());
                let read = records_of(batch.into_bytes_at(1_000), 1_000).unwrap();
                assert_eq!(read.next_offset(), 1_000 + records);
                assert_eq!(read.len() as i64, if control { 0 } else { records });
            }
        }
    });
}
