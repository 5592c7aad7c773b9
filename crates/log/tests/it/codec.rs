//! Batches: against bytes made by hand from Kafka's specification, against a second reader written
//! apart from the first, and against bytes that are anything at all.

use millstream_core::{Header as RecordHeader, Headers};
use millstream_log::codec::{
    BATCH_BYTES_MAX, BatchBuilder, Codec, EncodedBatch, Header, Invalid, records_of, split,
};
use proptest::prelude::*;

type Part = Option<Vec<u8>>;
/// Timestamp, key, value, headers.
type Plain = (i64, Part, Part, Vec<(Vec<u8>, Part)>);

fn encode(codec: Codec, records: &[Plain]) -> EncodedBatch {
    let mut builder = BatchBuilder::new(codec);
    for (timestamp, key, value, headers) in records {
        let headers = headers.iter();
        let headers = headers.map(|(key, value)| RecordHeader { key, value: value.as_deref() });
        let mut bytes = Vec::new();
        Headers::encode(headers, &mut bytes);
        builder.push(*timestamp, key.as_deref(), value.as_deref(), &bytes);
    }
    assert_eq!(builder.len(), records.len());
    builder.finish()
}

fn decode(bytes: Vec<u8>, base: i64) -> Vec<Plain> {
    let records = records_of(bytes, base).unwrap();
    assert_eq!(records.first_offset(), Some(base));
    assert_eq!(records.next_offset(), base + records.len() as i64);
    let plain = records.iter().map(|record| {
        let own = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
        let headers = record.headers.iter().map(|h| (h.key.to_vec(), own(h.value)));
        (record.timestamp, own(record.key), own(record.value), headers.collect())
    });
    plain.collect()
}

/// Reads a batch by the letter of the specification; shares nothing with the crate, its checksum
/// included.
mod second {
    use super::{Part, Plain};
    use std::io::Read;

    struct Cursor<'a>(&'a [u8]);

    impl<'a> Cursor<'a> {
        fn take(&mut self, len: usize) -> &'a [u8] {
            let (part, rest) = self.0.split_at(len);
            self.0 = rest;
            part
        }

        fn int(&mut self, len: usize) -> i64 {
            let bytes = self.take(len);
            let negative = bytes[0] & 0x80 != 0;
            let start = if negative { -1i64 } else { 0 };
            bytes.iter().fold(start, |value, byte| value << 8 | i64::from(*byte))
        }

        fn varint(&mut self) -> i64 {
            let (mut value, mut shift) = (0u128, 0);
            loop {
                let byte = self.take(1)[0];
                value += u128::from(byte % 128) << shift;
                shift += 7;
                if byte < 128 {
                    break;
                }
            }
            let half = (value / 2) as i128;
            (if value % 2 == 0 { half } else { -half - 1 }) as i64
        }

        fn part(&mut self) -> Part {
            let len = self.varint();
            (len >= 0).then(|| self.take(len as usize).to_vec())
        }
    }

    fn crc32c(bytes: &[u8]) -> u32 {
        let mut crc = !0u32;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            }
        }
        !crc
    }

    fn unpack(codec: i64, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match codec {
            0 => out.extend_from_slice(bytes),
            1 => drop(flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).unwrap()),
            2 => {
                let mut cursor = Cursor(bytes);
                assert_eq!(cursor.take(8), b"\x82SNAPPY\0");
                assert_eq!((cursor.int(4), cursor.int(4)), (1, 1));
                while !cursor.0.is_empty() {
                    let len = cursor.int(4) as usize;
                    let block = snap::raw::Decoder::new().decompress_vec(cursor.take(len));
                    out.extend_from_slice(&block.unwrap());
                }
            }
            3 => {
                assert_eq!(bytes[..4], [0x04, 0x22, 0x4d, 0x18], "an LZ4 frame");
                assert_ne!(bytes[4] & 0x20, 0, "Java reads independent blocks only");
                let mut decoder = lz4_flex::frame::FrameDecoder::new(bytes);
                decoder.read_to_end(&mut out).unwrap();
            }
            4 => out = zstd::decode_all(bytes).unwrap(),
            codec => panic!("codec {codec}"),
        }
        out
    }

    pub fn read(bytes: &[u8]) -> (i64, Vec<Plain>) {
        let mut cursor = Cursor(bytes);
        let base = cursor.int(8);
        assert_eq!(cursor.int(4) as usize, cursor.0.len());
        assert_eq!(cursor.int(4), 0, "leader epoch");
        assert_eq!(cursor.int(1), 2, "magic");
        let crc = cursor.int(4) as u32;
        assert_eq!(crc, crc32c(cursor.0));
        let attributes = cursor.int(2);
        let last_delta = cursor.int(4);
        let (base_time, max_time) = (cursor.int(8), cursor.int(8));
        assert_eq!((cursor.int(8), cursor.int(2), cursor.int(4)), (-1, -1, -1), "no producer");
        let count = cursor.int(4);
        assert_eq!(last_delta, count - 1);
        let body = unpack(attributes & 7, cursor.0);
        let mut cursor = Cursor(&body);
        let mut records = Vec::new();
        for index in 0..count {
            let len = cursor.varint() as usize;
            let mut record = Cursor(cursor.take(len));
            assert_eq!(record.int(1), 0, "attributes");
            let time = base_time.wrapping_add(record.varint());
            assert_eq!(record.varint(), index);
            let (key, value) = (record.part(), record.part());
            let headers = (0..record.varint()).map(|_| (record.part().unwrap(), record.part()));
            let headers = headers.collect();
            assert!(record.0.is_empty());
            records.push((time, key, value, headers));
        }
        assert!(cursor.0.is_empty());
        assert_eq!(records.iter().map(|record| record.0).max(), Some(max_time));
        (base, records)
    }
}

fn part() -> impl Strategy<Value = Part> {
    proptest::option::of(prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        (any::<u8>(), 0..3000usize).prop_map(|(byte, len)| vec![byte; len]),
    ])
}

fn records() -> impl Strategy<Value = Vec<Plain>> {
    let time = prop_oneof![any::<i64>(), 1_700_000_000_000..1_700_000_100_000i64];
    let header = (proptest::collection::vec(any::<u8>(), 0..10), part());
    let headers = proptest::collection::vec(header, 0..3);
    proptest::collection::vec((time, part(), part(), headers), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_goes_in_comes_out(records in records(), base in 0..i64::MAX / 2, codec in 0..5i16) {
        let codec = Codec::of_id(codec).unwrap();
        let batch = encode(codec, &records);
        prop_assert_eq!(batch.len(), records.len());
        let bytes = batch.into_bytes_at(base);
        prop_assert_eq!(&decode(bytes.clone(), base), &records);
        prop_assert_eq!(second::read(&bytes), (base, records));
    }

    #[test]
    fn any_change_is_an_answer(
        records in records(),
        codec in 0..5i16,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        mend in any::<bool>(),
    ) {
        let mut bytes = encode(Codec::of_id(codec).unwrap(), &records).into_bytes_at(7);
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if mend {
            // With the checksum right again the parser itself is asked.
            let crc = crc32c::crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        let _ = records_of(bytes.clone(), 7);
        let _ = split(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(bytes.is_empty() || records_of(bytes.clone(), 7).is_err());
    }

    #[test]
    fn noise_is_not_a_batch(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(bytes.is_empty() || records_of(bytes.clone(), 0).is_err());
        prop_assert!(bytes.is_empty() || split(&bytes).is_err());
    }
}

/// One record, `key` and `value` with a header `h: x`, at 1000 ms and base offset 5, put together
/// from the specification; the checksum from an independent implementation.
const GOLDEN: &[u8] = &[
    0, 0, 0, 0, 0, 0, 0, 5, // base offset
    0, 0, 0, 68, // length
    0, 0, 0, 0, // leader epoch
    2, // magic
    0, 0, 0, 0, // checksum, put in by the test
    0, 0, // attributes
    0, 0, 0, 0, // last offset delta
    0, 0, 0, 0, 0, 0, 3, 232, // base time
    0, 0, 0, 0, 0, 0, 3, 232, // max time
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, // producer
    0, 0, 0, 1,  // records
    36, // length 18, zigzag
    0, 0, 0, // attributes, time delta, offset delta
    6, b'k', b'e', b'y', // key
    10, b'v', b'a', b'l', b'u', b'e', // value
    2, 2, b'h', 2, b'x', // headers
];

#[test]
fn a_batch_is_byte_for_byte_what_the_specification_says() {
    let mut golden = GOLDEN.to_vec();
    assert_eq!(golden.len(), 61 + 19);
    // The bitwise sum of the second reader would do; Python's crc32c gives the same.
    let crc = crc32c::crc32c(&golden[21..]);
    golden[17..21].copy_from_slice(&crc.to_be_bytes());
    let headers = vec![(b"h".to_vec(), Some(b"x".to_vec()))];
    let record = (1000, Some(b"key".to_vec()), Some(b"value".to_vec()), headers);
    let batch = encode(Codec::None, std::slice::from_ref(&record));
    assert_eq!(batch.into_bytes_at(5), golden);
    assert_eq!(second::read(&golden), (5, vec![record]));
}

#[test]
fn each_field_that_is_wrong_is_named() {
    let good = encode(Codec::None, &[(1, None, Some(b"v".to_vec()), vec![])]).into_bytes_at(9);
    let header = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        edit(&mut bytes);
        Header::read_at(&bytes, 9).map(|header| header.check(&bytes))
    };
    assert_eq!(header(&|_| ()), Ok(Ok(())));
    assert!(matches!(header(&|b| b.truncate(60)), Err(Invalid::Short { have: 60, need: 61 })));
    assert!(matches!(header(&|b| b[8] = 0xff), Err(Invalid::Length(_))));
    assert!(matches!(header(&|b| b[8] = 0x7f), Err(Invalid::Length(_))));
    assert!(matches!(header(&|b| b[16] = 1), Err(Invalid::Magic(1))));
    assert!(matches!(header(&|b| b[15] = 1), Err(Invalid::Epoch(1))));
    assert!(matches!(header(&|b| b[7] = 8), Err(Invalid::BaseOffset { found: 8, expected: 9 })));
    assert!(matches!(header(&|b| b[26] = 1), Err(Invalid::Count { records: 1, delta: 1 })));
    assert!(matches!(header(&|b| b[60] = 0), Err(Invalid::Count { records: 0, .. })));
    assert!(matches!(header(&|b| b[65] ^= 1), Ok(Err(Invalid::Checksum { .. }))));
    let short = header(&|b| b.truncate(b.len() - 1));
    assert!(matches!(short, Ok(Err(Invalid::Short { .. }))));
}

#[test]
fn a_bomb_is_refused_before_it_is_unpacked_whole() {
    // 200 MB of zeros pack to some KB.
    let mut builder = BatchBuilder::new(Codec::Zstd);
    let value = vec![0; 200 << 20];
    builder.push(0, None, Some(&value), &[]);
    let batch = builder.finish();
    assert!(batch.as_bytes().len() < 1 << 20);
    assert_eq!(EncodedBatch::parse(batch.as_bytes().to_vec()), Err(Invalid::TooLarge));
    let failed = records_of(batch.into_bytes_at(0), 0).unwrap_err();
    assert_eq!(failed.why, Invalid::TooLarge);
    const { assert!(BATCH_BYTES_MAX < 200 << 20) };
}

#[test]
fn records_that_do_not_pack_stay_as_they_are() {
    let record = (0, None, Some(b"x".to_vec()), vec![]);
    for codec in Codec::ALL {
        let batch = encode(codec, std::slice::from_ref(&record));
        assert_eq!(Header::read(batch.as_bytes()).unwrap().codec(), Ok(Codec::None), "{codec}");
        let batch = encode(codec, &vec![record.clone(); 1000]);
        assert_eq!(Header::read(batch.as_bytes()).unwrap().codec(), Ok(codec));
    }
}

#[test]
fn a_builder_starts_over_after_each_batch() {
    let mut builder = BatchBuilder::new(Codec::Lz4);
    for round in 0..3i64 {
        for n in 0..100 {
            builder.push(round * 1000 + n, None, Some(b"the same value each time"), &[]);
        }
        let batch = builder.finish();
        assert_eq!((builder.len(), batch.len()), (0, 100));
        assert_eq!(batch.max_time(), round * 1000 + 99);
        let records = decode(batch.as_bytes().to_vec(), 0);
        assert_eq!(records[0].0, round * 1000);
        builder.reuse(batch);
    }
}

#[test]
fn snappy_without_javas_framing_is_read_too() {
    let plain = encode(Codec::None, &[(5, None, Some(vec![b'a'; 500]), vec![])]);
    let mut bytes = plain.as_bytes()[..61].to_vec();
    bytes.extend(snap::raw::Encoder::new().compress_vec(&plain.as_bytes()[61..]).unwrap());
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[22] = 2;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(decode(bytes, 0)[0].2, Some(vec![b'a'; 500]));
}
