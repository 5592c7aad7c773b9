//! Schema resolution, case by case and against apache-avro.

use crate::support::block_on;
use crate::support::{Generator, Registry, assert_row, decode, options, records_of};
use apache_avro::{Schema, from_avro_datum, to_avro_datum};
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, RecordBatch};
use millstream_core::{Decoder, Disposition};
use millstream_formats::avro::{AvroDecoder, Framing};
use proptest::prelude::*;
use serde_json::{Value, json};

fn reading(writer: &Value, reader: &Value) -> AvroDecoder {
    let mut options = options(Framing::Bare, &reader.to_string());
    options.writer_schema = Some(writer.to_string());
    AvroDecoder::new(options, Registry::new([] as [(u32, &str); 0])).unwrap()
}

fn record(fields: Value) -> Value {
    json!({"type": "record", "name": "R", "fields": fields})
}

fn read(writer: &Value, reader: &Value, bytes: &[u8]) -> Result<RecordBatch, String> {
    let mut decoded = decode(&mut reading(writer, reader), &records_of(&[bytes]));
    match decoded.rejected.pop() {
        Some(rejection) => Err(rejection.reason),
        None => Ok(decoded.batch.rows),
    }
}

#[test]
fn a_union_resolves_branch_by_branch() {
    let writer = record(json!([{"name": "a", "type": ["null", "int", "string"]}]));
    let plain = record(json!([{"name": "a", "type": "long"}]));
    let rows = read(&writer, &plain, &[2, 6]).unwrap();
    assert_eq!(rows.column(0).as_primitive::<Int64Type>().value(0), 3);
    let why = read(&writer, &plain, &[0]).unwrap_err();
    assert!(why.contains("field `a`: null"), "{why}");
    assert!(read(&writer, &plain, &[4, 2, b'x']).unwrap_err().contains("string was written"));
    let why = read(&writer, &plain, &[6, 6]).unwrap_err();
    assert!(why.contains("branch 3 of a union of 3"), "{why}");

    let swapped = record(json!([{"name": "a", "type": ["string", "double", "null"]}]));
    let rows = read(&writer, &swapped, &[2, 6]).unwrap();
    let branches = rows.column(0).as_struct();
    assert!(branches.column_by_name("string").unwrap().is_null(0));
    let double = branches.column_by_name("double").unwrap();
    assert_eq!(double.as_primitive::<Float64Type>().value(0), 3.0);
    assert!(read(&writer, &swapped, &[0]).unwrap().column(0).is_null(0));
}

#[test]
fn a_tag_beyond_an_optional_is_refused() {
    let schema = record(json!([{"name": "a", "type": ["null", "int"]}]));
    for bad in [[4, 6], [1, 6], [3, 6]] {
        assert!(read(&schema, &schema, &bad).unwrap_err().contains("branch"), "{bad:?}");
    }
}

#[test]
fn a_named_type_used_twice_evolves_at_both_places() {
    let inner =
        |t: &str| json!({"type": "record", "name": "P", "fields": [{"name": "i", "type": t}]});
    let writer = record(json!([{"name": "a", "type": inner("int")}, {"name": "b", "type": "P"}]));
    let reader =
        record(json!([{"name": "b", "type": inner("double")}, {"name": "a", "type": "P"}]));
    let rows = read(&writer, &reader, &[2, 4]).unwrap();
    for (column, value) in [("a", 1.0), ("b", 2.0)] {
        let inner = rows.column_by_name(column).unwrap().as_struct().column(0).clone();
        assert_eq!(inner.as_primitive::<Float64Type>().value(0), value);
    }
}

#[test]
fn defaults_of_every_kind_are_filled_in() {
    let writer = record(json!([{"name": "x", "type": "int"}]));
    let reader = record(json!([
        {"name": "u", "type": ["string", "null"], "default": "é"},
        {"name": "l", "type": {"type": "array", "items": "long"}, "default": [1, 2]},
        {"name": "m", "type": {"type": "map", "values": "int"}, "default": {"k": 1}},
        {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}, "default": "B"},
        {"name": "r", "type": {"type": "record", "name": "P", "fields": [
            {"name": "i", "type": "int", "default": 7}]}, "default": {}},
        {"name": "f", "type": {"type": "fixed", "name": "F", "size": 2}, "default": "\u{0}ÿ"},
        {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2},
            "default": "\u{1}\u{0}"}
    ]));
    let rows = read(&writer, &reader, &[2]).unwrap();
    assert_eq!(rows.column(0).as_string::<i32>().value(0), "é");
    assert_eq!(rows.column(1).as_list::<i32>().value(0).len(), 2);
    assert_eq!(rows.column(2).as_map().value(0).len(), 1);
    assert_eq!(rows.column(3).as_string::<i32>().value(0), "B");
    let inner = rows.column(4).as_struct().column(0).clone();
    assert_eq!(inner.as_primitive::<Int32Type>().value(0), 7);
    assert_eq!(rows.column(5).as_binary::<i32>().value(0), [0, 255]);
    assert_eq!(rows.column(6).as_primitive::<Decimal128Type>().value(0), 256);
}

#[test]
fn what_cannot_be_read_holds_the_partition_and_says_why() {
    let reader = record(json!([{"name": "a", "type": "int"}]));
    for (writer, part) in [
        (
            record(json!([{"name": "a", "type": "string"}])),
            "`a`: string was written, int is wanted",
        ),
        (record(json!([{"name": "b", "type": "int"}])), "`a` is missing"),
        (json!("int"), "int"),
    ] {
        let registry = Registry::new([(9, writer.to_string())]);
        let mut decoder =
            AvroDecoder::new(options(Framing::Confluent, &reader.to_string()), registry).unwrap();
        let records = records_of(&[[0, 0, 0, 0, 9, 2]]);
        let error = block_on(decoder.prepare(&records)).unwrap_err();
        assert_eq!(error.disposition(), Disposition::Stop);
        assert!(error.to_string().contains("schema id 9"), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn recursive_parts_are_json_and_evolve_too() {
    let node = |t: &str, extra: Value| {
        let mut fields = vec![
            json!({"name": "v", "type": t}),
            json!({"name": "kids", "type": {"type": "array", "items": "N"}}),
        ];
        fields.extend(extra.as_array().unwrap().clone());
        json!({"type": "record", "name": "N", "fields": fields})
    };
    let writer = node("int", json!([]));
    let reader = node("double", json!([{"name": "s", "type": "string", "default": "d"}]));
    // 1 with two kids, 2 and 3, the second with a kid of its own.
    let bytes = [2, 4, 4, 0, 6, 2, 8, 0, 0, 0];
    let rows = read(&writer, &reader, &bytes).unwrap();
    let kids = rows.column_by_name("kids").unwrap().as_list::<i32>().value(0);
    let kids = kids.as_string::<i32>();
    assert_eq!(kids.value(0), r#"{"v":2.0,"kids":[],"s":"d"}"#);
    assert_eq!(kids.value(1), r#"{"v":3.0,"kids":[{"v":4.0,"kids":[],"s":"d"}],"s":"d"}"#);
    assert!(read(&writer, &reader, &bytes[..9]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn evolution_agrees_with_apache_avro(seed: u64) {
        let mut generator = Generator::new(seed);
        generator.decimals = false;
        let writer = generator.record(2);
        let mut reader = writer.clone();
        evolve(&mut reader, &mut generator);
        let (written, wanted) = (Schema::parse(&writer).unwrap(), Schema::parse(&reader).unwrap());
        let values: Vec<_> = (0..5).map(|_| generator.value(&written)).collect();
        let bytes: Vec<_> =
            values.iter().map(|v| to_avro_datum(&written, v.clone()).unwrap()).collect();
        let decoded = decode(&mut reading(&writer, &reader), &records_of(&bytes));
        prop_assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
        for (row, bytes) in bytes.iter().enumerate() {
            let expected =
                from_avro_datum(&written, &mut bytes.as_slice(), Some(&wanted)).unwrap();
            assert_row(&expected, &decoded.batch.rows, row);
        }
    }
}

/// Reorders and drops fields, adds some with defaults, widens numbers, makes some optional.
fn evolve(record: &mut Value, generator: &mut Generator) {
    let fields = record["fields"].as_array_mut().unwrap();
    for field in fields.iter_mut() {
        let widened = match field["type"].as_str() {
            Some("int") => [json!("long"), json!("float"), json!("double"), json!(["null", "int"])]
                [generator.dice.below(4)]
            .clone(),
            Some("long") => json!("double"),
            Some("float") => json!("double"),
            Some("string") => json!(["null", "string"]),
            _ => {
                if field["type"]["type"] == "record" {
                    evolve(&mut field["type"], generator);
                }
                continue;
            }
        };
        if generator.dice.below(2) == 0 {
            field["type"] = widened;
        }
    }
    if fields.len() > 1 && generator.dice.below(2) == 0 {
        let gone = generator.dice.below(fields.len());
        fields.remove(gone);
    }
    let at = generator.dice.below(fields.len() + 1);
    fields.insert(at, json!({"name": "added", "type": ["null", "int"], "default": null}));
    let with = generator.dice.below(fields.len());
    fields.swap(0, with);
}
