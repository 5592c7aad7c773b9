//! Nonsense in: it is refused in bounded time and memory, and its neighbours are unharmed.

use crate::support::{Dice, Generator, bare, decode, records_of};
use apache_avro::{Schema, to_avro_datum};
use arrow_array::Array;
use millstream_formats::avro::{VALUE_DEPTH_MAX, to_json};
use proptest::prelude::*;

const NAVIGATION: &str = include_str!("../data/navigation.avsc");

fn record(fields: &str) -> String {
    format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#)
}

fn refused(schema: &str, bytes: &[u8], part: &str) {
    let decoded = decode(&mut bare(schema), &records_of(&[bytes]));
    let reason = &decoded.rejected.first().expect("refused").reason;
    assert!(reason.contains(part), "{reason}");
}

#[test]
fn announced_sizes_are_not_believed() {
    // 2^62 of them.
    let huge = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
    let mut with_tail = huge.to_vec();
    with_tail.extend_from_slice(&[0; 64]);
    for (item, part) in [
        (r#""string""#, "are left"),
        (r#""bytes""#, "are left"),
        (r#"{"type":"array","items":"string"}"#, "cannot hold"),
        (r#"{"type":"map","values":"string"}"#, "cannot hold"),
        (r#"{"type":"array","items":"null"}"#, "take no bytes"),
        (r#"{"type":"array","items":{"type":"record","name":"E","fields":[]}}"#, "take no bytes"),
    ] {
        let schema = record(&format!(r#"{{"name":"a","type":{item}}}"#));
        refused(&schema, &with_tail, part);
        refused(&schema, &huge, "field `a`");
    }
    // Many blocks of a little less than too many each.
    let nulls = record(r#"{"name":"a","type":{"type":"array","items":"null"}}"#);
    let blocks = [0x80, 0x80, 0x40].repeat(10_000);
    refused(&nulls, &blocks, "take no bytes");
    // A block's size that leads past the end, or back.
    let list = record(r#"{"name":"a","type":{"type":"array","items":"int"}}"#);
    refused(&list, &[1, 0x7e, 2, 0], "a block of 63 bytes");
    refused(&list, &[1, 1, 2, 0], "a block of -1 bytes");
}

#[test]
fn depth_is_bounded_before_the_stack_is() {
    let schema = r#"{"type":"record","name":"L","fields":[
        {"name":"v","type":"int"},
        {"name":"next","type":{"type":"map","values":{"type":"array","items":["null","L"]}}}]}"#;
    let nested = |levels: usize| {
        let mut bytes = Vec::new();
        for _ in 0..levels {
            // v, one entry `k`, one item, the branch that is not null.
            bytes.extend_from_slice(&[2, 2, 2, b'k', 2, 2]);
        }
        bytes.extend_from_slice(&[2, 0]);
        // The ends of the item's block and of the entry's.
        bytes.extend(std::iter::repeat_n(0, levels * 2));
        bytes
    };
    let shallow = decode(&mut bare(schema), &records_of(&[nested(VALUE_DEPTH_MAX / 5)]));
    assert!(shallow.rejected.is_empty(), "{:?}", shallow.rejected);
    for levels in [VALUE_DEPTH_MAX, 100_000, 1_000_000] {
        refused(schema, &nested(levels), "levels deep");
        assert!(to_json(&nested(levels), schema).is_err());
    }
    // The same where nobody looks: the column is stepped over.
    let reader = r#"{"type":"record","name":"L","fields":[{"name":"v","type":"int"}]}"#;
    let mut options = crate::support::options(millstream_formats::avro::Framing::Bare, reader);
    options.writer_schema = Some(schema.to_owned());
    let registry = crate::support::Registry::new([] as [(u32, &str); 0]);
    let mut decoder = millstream_formats::avro::AvroDecoder::new(options, registry).unwrap();
    let decoded = decode(&mut decoder, &records_of(&[nested(3), nested(1_000_000)]));
    assert_eq!((decoded.batch.len(), decoded.rejected.len()), (1, 1));
}

#[test]
fn text_that_is_not_utf8_costs_its_record() {
    let schema = record(
        r#"{"name":"s","type":"string"},{"name":"l","type":{"type":"array","items":"string"}},
           {"name":"m","type":{"type":"map","values":"int"}}"#,
    );
    let good: &[u8] = &[4, 0xc3, 0xa9, 2, 2, b'x', 0, 2, 2, b'k', 2, 0];
    let mut decoder = bare(&schema);
    // In each kind of text; the first two are whole only when laid end to end.
    for bad in [
        &[2u8, 0xc3, 0, 0][..],
        &[2, 0xa9, 0, 0],
        &[2, b'x', 2, 2, 0xff, 0, 0],
        &[2, b'x', 0, 2, 2, 0xff, 2, 0],
    ] {
        let decoded = decode(&mut decoder, &records_of(&[good, bad, good, bad, bad, good]));
        assert_eq!(decoded.batch.origin.iter().collect::<Vec<_>>(), [0, 2, 5]);
        assert!(decoded.rejected[0].reason.contains("not UTF-8"), "{:?}", decoded.rejected);
        // Nothing of it is left behind.
        assert_eq!(decode(&mut decoder, &records_of(&[good, good])).batch.len(), 2);
    }
}

#[test]
fn every_cut_of_a_record_is_refused() {
    let mut generator = Generator::new(5);
    let schema = Schema::parse_str(NAVIGATION).unwrap();
    let value = generator.value(&schema);
    let bytes = to_avro_datum(&schema, value).unwrap();
    let cuts: Vec<&[u8]> = (0..bytes.len()).map(|end| &bytes[..end]).collect();
    let decoded = decode(&mut bare(NAVIGATION), &records_of(&cuts));
    assert_eq!(decoded.rejected.len(), cuts.len(), "a missing tail is never nulls");
}

#[test]
fn a_number_out_of_its_range_is_refused() {
    let decimal = record(
        r#"{"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}}"#,
    );
    refused(&decimal, &[4, 0x27, 0x10], "more than 4 digits");
    refused(&decimal, &[0x80, 1, 0x7f], "64 bytes are announced");
    let int = record(r#"{"name":"i","type":"int"}"#);
    refused(&int, &[0x80, 0x80, 0x80, 0x80, 0x10], "out of range");
    refused(&int, &[0xff; 11], "longer than 64 bits");
    refused(&record(r#"{"name":"b","type":"boolean"}"#), &[2], "0 or 1");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    /// Whatever a record is turned into, its neighbours come out as they went in.
    #[test]
    fn mutants_never_panic_and_harm_nobody(seed: u64) {
        let mut generator = Generator::new(seed);
        let text = match seed % 3 {
            0 => NAVIGATION.to_owned(),
            _ => generator.record(3).to_string(),
        };
        let schema = Schema::parse_str(&text).unwrap();
        let mut values: Vec<_> = (0..12)
            .map(|_| {
                let value = generator.value(&schema);
                to_avro_datum(&schema, value).unwrap()
            })
            .collect();
        let mut decoder = bare(&text);
        let before = decode(&mut decoder, &records_of(&values)).batch.rows;
        let mut dice = Dice(seed ^ 1);
        for row in (1..12).step_by(2) {
            mutate(&mut values[row], &mut dice);
        }
        let after = decode(&mut decoder, &records_of(&values));
        for (at, row) in after.batch.origin.iter().enumerate().filter(|(_, row)| row % 2 == 0) {
            for (old, new) in before.columns().iter().zip(after.batch.rows.columns()) {
                prop_assert!(old.slice(row as usize, 1) == new.slice(at, 1), "row {row} changed");
            }
        }
        for row in (0..12).step_by(2) {
            prop_assert!(after.rejected.iter().all(|r| r.source_row != row));
        }
        for value in &values {
            let _ = to_json(value, &text);
        }
    }
}

fn mutate(value: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..1 + dice.below(4) {
        let at = dice.below(value.len() + 1);
        match dice.below(5) {
            0 => value.truncate(at),
            1 => {
                let len = dice.below(20);
                *value = dice.bytes(len);
            }
            2 => value.insert(at, dice.next() as u8),
            3 if at < value.len() => value[at] ^= 1 << dice.below(8),
            _ => {
                let extreme = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
                value.splice(at..at, extreme[..1 + dice.below(10)].iter().copied());
            }
        }
    }
}
