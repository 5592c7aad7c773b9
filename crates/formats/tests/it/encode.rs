//! Columns into Avro: conversions, mismatches, rows that cannot be written, derived schemas.

use crate::support::{bare, decode, records_of, rows_of};
use apache_avro::types::Value;
use apache_avro::{Schema as AvroSchema, from_avro_datum};
use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::types::Int8Type;
use arrow_array::*;
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use millstream_core::{Encoder, types};
use millstream_formats::avro::{AvroEncoder, avro_schema_for};
use std::sync::Arc;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let nullable = columns.into_iter().map(|(name, array)| (name, array, true));
    RecordBatch::try_from_iter_with_nullable(nullable).unwrap()
}

fn record(fields: serde_json::Value) -> String {
    serde_json::json!({"type": "record", "name": "R", "fields": fields}).to_string()
}

/// Encodes and reads back with apache-avro.
fn written(schema: &str, rows: &RecordBatch) -> Vec<Result<Vec<(String, Value)>, String>> {
    let encoded = AvroEncoder::new(schema, None, rows.schema()).unwrap().encode(rows).unwrap();
    let avro = AvroSchema::parse_str(schema).unwrap();
    let mut rejected = encoded.rejected.iter().peekable();
    rows_of(&encoded)
        .into_iter()
        .enumerate()
        .map(|(row, bytes)| {
            if let Some((_, why)) = rejected.next_if(|(at, _)| *at as usize == row) {
                assert!(bytes.is_empty(), "a rejected row is empty");
                return Err(why.clone());
            }
            let mut rest = bytes.as_slice();
            let Value::Record(fields) = from_avro_datum(&avro, &mut rest, None).unwrap() else {
                panic!("not a record");
            };
            assert!(rest.is_empty());
            Ok(fields)
        })
        .collect()
}

fn first(schema: &str, rows: &RecordBatch) -> Value {
    written(schema, rows)[0].as_ref().unwrap()[0].1.clone()
}

#[test]
fn text_of_every_layout_becomes_strings_and_symbols() {
    let enumerated = serde_json::json!([
        {"name": "a", "type": {"type": "enum", "name": "E", "symbols": ["X", "Y"]}}]);
    let optional = serde_json::json!([{"name": "a", "type": ["string", "null"]}]);
    let dictionary: DictionaryArray<Int8Type> = [Some("Y"), None, Some("Z")].into_iter().collect();
    let texts = || [Some("Y"), None, Some("Z")].into_iter();
    let layouts: [ArrayRef; 4] = [
        Arc::new(texts().collect::<StringArray>()),
        Arc::new(texts().collect::<LargeStringArray>()),
        Arc::new(texts().collect::<StringViewArray>()),
        Arc::new(dictionary),
    ];
    for layout in layouts {
        let rows = batch(vec![("a", layout)]);
        let symbols = written(&record(enumerated.clone()), &rows);
        assert_eq!(symbols[0].as_ref().unwrap()[0].1, Value::Enum(1, "Y".into()));
        assert!(symbols[1].as_ref().unwrap_err().contains("field `a`: null"), "{symbols:?}");
        assert!(symbols[2].as_ref().unwrap_err().contains("`Z` is none of X, Y"), "{symbols:?}");
        let strings = written(&record(optional.clone()), &rows);
        let branch = |at, value| Value::Union(at, Box::new(value));
        assert_eq!(strings[0].as_ref().unwrap()[0].1, branch(0, Value::String("Y".into())));
        assert_eq!(strings[1].as_ref().unwrap()[0].1, branch(1, Value::Null));
    }
}

#[test]
fn moments_numbers_and_addresses_are_converted() {
    let logical = |base: &str, name: &str| {
        record(serde_json::json!([{"name": "a", "type": {"type": base, "logicalType": name}}]))
    };
    let micros = || batch(vec![("a", Arc::new(TimestampMicrosecondArray::from(vec![-1])) as _)]);
    assert_eq!(first(&logical("long", "timestamp-millis"), &micros()), Value::TimestampMillis(-1));
    let millis = || batch(vec![("a", Arc::new(TimestampMillisecondArray::from(vec![5])) as _)]);
    assert_eq!(
        first(&logical("long", "timestamp-micros"), &millis()),
        Value::TimestampMicros(5000)
    );
    let beyond = batch(vec![("a", Arc::new(TimestampMillisecondArray::from(vec![i64::MAX])) as _)]);
    let refused = written(&logical("long", "timestamp-micros"), &beyond);
    assert!(refused[0].as_ref().unwrap_err().contains("out of range"));
    let last = 253_402_300_799_999;
    let latest = batch(vec![("a", Arc::new(TimestampMillisecondArray::from(vec![last])) as _)]);
    assert_eq!(
        first(&logical("long", "timestamp-micros"), &latest),
        Value::TimestampMicros(last * 1000)
    );
    let nanos = written(&logical("long", "timestamp-nanos"), &latest);
    let why = nanos[0].as_ref().unwrap_err();
    assert!(why.contains("253402300799999") && why.contains("to 2262-04-11"), "{why}");
    let day = batch(vec![("a", Arc::new(Date32Array::from(vec![2_932_896])) as _)]);
    assert_eq!(first(&logical("int", "date"), &day), Value::Date(2_932_896));
    assert_eq!(
        first(&logical("long", "timestamp-millis"), &day),
        Value::TimestampMillis(2_932_896 * 86_400_000)
    );
    let time = batch(vec![("a", Arc::new(Time64MicrosecondArray::from(vec![1_500])) as _)]);
    assert_eq!(first(&logical("int", "time-millis"), &time), Value::TimeMillis(1));

    let plain = |name: &str| record(serde_json::json!([{"name": "a", "type": name}]));
    let long = batch(vec![("a", Arc::new(Int64Array::from(vec![7, i64::MAX])) as _)]);
    let narrowed = written(&plain("int"), &long);
    assert_eq!(narrowed[0].as_ref().unwrap()[0].1, Value::Int(7));
    assert!(narrowed[1].as_ref().unwrap_err().contains("out of range"));
    let unsigned = batch(vec![("a", Arc::new(UInt64Array::from(vec![1, u64::MAX])) as _)]);
    assert!(written(&plain("long"), &unsigned)[1].is_err());

    let mut address = [0u8; 16];
    address[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
    let ip = FixedSizeBinaryArray::try_from_iter([address].into_iter()).unwrap();
    let ip = batch(vec![("a", Arc::new(ip) as _)]);
    assert_eq!(first(&plain("string"), &ip), Value::String("10.0.0.1".into()));

    let decimal = Decimal128Array::from(vec![12, 99_999]).with_precision_and_scale(6, 1).unwrap();
    let decimal = batch(vec![("a", Arc::new(decimal) as _)]);
    let schema = record(serde_json::json!([{"name": "a", "type":
        {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2}}]));
    let scaled = written(&schema, &decimal);
    assert_eq!(scaled[0].as_ref().unwrap()[0].1, Value::Decimal(vec![120].into()));
    assert!(scaled[1].as_ref().unwrap_err().contains("5 digits"));
}

#[test]
fn all_mismatches_are_listed_at_once() {
    let schema = record(serde_json::json!([
        {"name": "a", "type": "int"},
        {"name": "b", "type": ["null", "boolean"]},
        {"name": "c", "type": "long"},
        {"name": "d", "type": "string", "default": "x"},
        {"name": "s", "type": {"type": "record", "name": "S", "fields": [
            {"name": "x", "type": "int"}]}}]));
    let inner = Fields::from(vec![Field::new("x", DataType::Utf8, true)]);
    let input = Arc::new(Schema::new(vec![
        Field::new("a", DataType::Utf8, true),
        Field::new("b", DataType::Int32, true),
        Field::new("s", DataType::Struct(inner), false),
        Field::new("extra", DataType::Int32, true),
    ]));
    let error = AvroEncoder::new(&schema, None, input).err().unwrap().to_string();
    for part in ["`a` of type string", "`b` of type int", "`c`", "`s.x`", "`extra`"] {
        assert!(error.contains(part), "{part} in {error}");
    }
    assert!(!error.contains("`d`"), "{error}");
}

#[test]
fn a_missing_column_takes_the_default() {
    let schema = record(serde_json::json!([
        {"name": "d", "type": ["string", "null"], "default": "x"}, {"name": "a", "type": "int"}]));
    let rows = batch(vec![("a", Arc::new(Int32Array::from(vec![1])) as _)]);
    let expected = Value::Union(0, Box::new(Value::String("x".into())));
    assert_eq!(first(&schema, &rows), expected);
}

#[test]
fn a_frame_stands_before_each_row_and_a_bad_row_is_empty() {
    let schema = record(serde_json::json!([{"name": "a", "type": "int"}]));
    let rows = batch(vec![("a", Arc::new(Int32Array::from(vec![Some(1), None, Some(2)])) as _)]);
    let mut encoder = AvroEncoder::new(&schema, Some(0x01020304), rows.schema()).unwrap();
    let encoded = encoder.encode(&rows).unwrap();
    assert_eq!(rows_of(&encoded), [vec![0, 1, 2, 3, 4, 2], vec![], vec![0, 1, 2, 3, 4, 4]]);
    assert_eq!(encoded.rejected.len(), 1);
    assert_eq!(encoded.rejected[0].0, 1);
}

#[test]
fn two_branches_of_a_union_at_once_are_refused() {
    let schema = record(serde_json::json!([{"name": "u", "type": ["int", "string"]}]));
    let (ints, texts) = (
        Int32Array::from(vec![Some(1), None, Some(1), None]),
        vec![None, Some("x"), Some("x"), None],
    );
    let union = StructArray::from(vec![
        (Arc::new(Field::new("int", DataType::Int32, true)), Arc::new(ints) as ArrayRef),
        (
            Arc::new(Field::new("string", DataType::Utf8, true)),
            Arc::new(StringArray::from(texts)) as _,
        ),
    ]);
    let values = written(&schema, &batch(vec![("u", Arc::new(union) as _)]));
    assert_eq!(values.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, false]);
    assert!(values[2].as_ref().unwrap_err().contains("more than one"));
}

#[test]
fn recursive_values_go_back_from_their_text() {
    let schema = r#"{"type":"record","name":"N","fields":[{"name":"v","type":"int"},
        {"name":"next","type":["null","N"]},
        {"name":"raw","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}}]}"#;
    let bytes = [2u8, 2, 4, 2, 6, 0, 2, 5, 4, 1, 0, 2, 9];
    let rows = decode(&mut bare(schema), &records_of(&[bytes])).batch.rows;
    let encoded = AvroEncoder::new(schema, None, rows.schema()).unwrap().encode(&rows).unwrap();
    assert_eq!(encoded.rejected, []);
    assert_eq!(encoded.row(0), bytes);
}

#[test]
fn a_derived_schema_takes_the_columns_that_it_was_derived_from() {
    let names = [
        "boolean",
        "int",
        "bigint",
        "float",
        "double",
        "decimal(10, 2)",
        "string",
        "bytes",
        "date",
        "timestamp",
        "timestamp_us",
        "time",
        "ip",
        "string[]",
        "int[][]",
        "map<double>",
        "struct<id int, tags string[], more struct<a ip, b timestamp>>",
    ];
    for nullable in [true, false] {
        let fields: Vec<Field> = names
            .iter()
            .map(|name| Field::new(format!("max({name})"), types::parse(name).unwrap(), nullable))
            .chain([Field::new("ns", DataType::Timestamp(TimeUnit::Nanosecond, None), nullable)])
            .collect();
        let input: SchemaRef = Arc::new(Schema::new(fields));
        let text = avro_schema_for("my-topic.value.enriched 1", &input);
        AvroSchema::parse_str(&text).unwrap();
        let mut encoder = AvroEncoder::new(&text, None, input.clone()).unwrap();
        let rows = match nullable {
            true => {
                let columns = input.fields().iter().map(|f| new_null_array(f.data_type(), 2));
                RecordBatch::try_new(input.clone(), columns.collect()).unwrap()
            }
            false => RecordBatch::new_empty(input.clone()),
        };
        let encoded = encoder.encode(&rows).unwrap();
        assert_eq!(encoded.rejected, []);
        let back = decode(&mut bare(&text), &records_of(&rows_of(&encoded)));
        assert_eq!(back.batch.len(), rows.num_rows());
    }
}

#[test]
fn nested_lists_of_slices_keep_their_rows() {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in 0..6 {
        for item in 0..row {
            lists.values().append_value(format!("{row}.{item}"));
        }
        lists.append(row != 3);
    }
    let rows = batch(vec![("l", Arc::new(lists.finish()) as _)]).slice(2, 3);
    let schema = record(serde_json::json!([
        {"name": "l", "type": ["null", {"type": "array", "items": ["null", "string"]}]}]));
    let values = written(&schema, &rows);
    let text = format!("{values:?}");
    assert!(text.contains("2.1") && text.contains("4.3") && !text.contains("3.0"), "{text}");
    assert!(!text.contains("5.0"), "{text}");
}
