//! The 497 vectors: see `tests/data/README.md`.

use crate::support::block_on;
use crate::support::{Registry, decode, options, records_of};
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use millstream_core::{Decoder, Disposition};
use millstream_formats::avro::{AvroDecoder, Framing};
use serde_json::Value;
use std::io::Read;
use std::path::Path;

#[test]
fn all_vectors_are_right() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let packed = std::fs::File::open(data.join("confluent_avro_vectors.jsonl.gz")).unwrap();
    let mut lines = String::new();
    flate2::read::GzDecoder::new(packed).read_to_string(&mut lines).unwrap();
    let registry: serde_json::Map<String, Value> =
        serde_json::from_slice(&std::fs::read(data.join("registry.json")).unwrap()).unwrap();
    let schemas = registry.iter().map(|(id, schema)| (id.parse().unwrap(), schema.to_string()));
    let registry = Registry::new(schemas);
    let mut seen = 0;
    for line in lines.lines() {
        // One expected value nests deeper than the JSON reader goes: it stays text.
        let (head, expected) = match line.split_once(", \"expect\": ") {
            Some((head, rest)) => (format!("{head}}}"), Some(&rest[..rest.len() - 1])),
            None => (line.to_owned(), None),
        };
        let vector: Value = serde_json::from_str(&head).unwrap();
        let name = vector["name"].as_str().unwrap();
        let id = vector["schema_id"].as_u64().unwrap() as u32;
        let reader = match vector.get("reader_schema").filter(|reader| !reader.is_null()) {
            Some(reader) => reader.to_string(),
            None => registry.schemas[&id].1.clone(),
        };
        let hex = vector["payload_hex"].as_str().unwrap();
        let payload: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        let records = records_of(&[payload]);
        let mut decoder =
            AvroDecoder::new(options(Framing::Confluent, &reader), registry.clone()).unwrap();
        seen += 1;
        let Some(expected) = expected else {
            assert!(vector["expect_error"].is_string(), "{name}");
            match block_on(decoder.prepare(&records)) {
                Err(error) => assert_eq!(error.disposition(), Disposition::Stop, "{name}"),
                Ok(()) => assert_eq!(decode(&mut decoder, &records).rejected.len(), 1, "{name}"),
            }
            continue;
        };
        let decoded = decode(&mut decoder, &records);
        assert!(decoded.rejected.is_empty(), "{name}: {:?}", decoded.rejected);
        let rows = decoded.batch.rows;
        if name == "recursive-200" {
            let next = rows.column_by_name("next").unwrap().as_string::<i32>().value(0);
            let text = format!("{{\"v\":199,\"next\":{next}}}");
            assert_eq!(text, expected.replace(' ', ""));
            continue;
        }
        let expected: Value = serde_json::from_str(expected).unwrap();
        let expected = expected.as_object().unwrap();
        assert_eq!(rows.num_columns(), expected.len(), "{name}");
        for (field, value) in expected {
            let column = rows.column_by_name(field).unwrap();
            assert!(is(value, column, 0), "{name}.{field}: {value} is not {column:?}");
        }
    }
    assert_eq!(seen, 497);
}

fn is(expected: &Value, array: &ArrayRef, row: usize) -> bool {
    if expected.is_null() || array.is_null(row) {
        return expected.is_null() && array.is_null(row);
    }
    let number = expected.as_i64();
    match array.data_type() {
        DataType::Boolean => expected.as_bool() == Some(array.as_boolean().value(row)),
        DataType::Int32 => number == Some(array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => number == Some(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            expected.as_f64().map(|expected| expected as f32) == Some(value)
        }
        DataType::Float64 => {
            expected.as_f64() == Some(array.as_primitive::<Float64Type>().value(row))
        }
        DataType::Timestamp(arrow_schema::TimeUnit::Millisecond, _) => {
            let value = array.as_primitive::<TimestampMillisecondType>().value(row);
            expected["$ts_us"].as_i64() == Some(value * 1000)
        }
        DataType::Timestamp(_, _) => {
            let value = array.as_primitive::<TimestampMicrosecondType>().value(row);
            expected["$ts_us"].as_i64() == Some(value)
        }
        DataType::Decimal128(_, 2) => {
            let value = array.as_primitive::<Decimal128Type>().value(row);
            let text = expected["$dec"].as_str().unwrap();
            text.replace('.', "").parse::<i128>().unwrap() == value
        }
        DataType::Utf8 => expected.as_str() == Some(array.as_string::<i32>().value(row)),
        DataType::Binary => {
            let text = expected.as_str().unwrap();
            let bytes: Vec<u8> =
                text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
            bytes == array.as_binary::<i32>().value(row)
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>().value(row);
            let items = expected.as_array().unwrap();
            items.len() == list.len()
                && items.iter().enumerate().all(|(at, item)| is(item, &list, at))
        }
        DataType::Map(..) => {
            let map = array.as_map().value(row);
            let entries = expected.as_object().unwrap();
            let keys = map.column(0).as_string::<i32>();
            entries.len() == map.len()
                && (0..map.len()).all(|at| is(&entries[keys.value(at)], map.column(1), at))
        }
        DataType::Struct(fields) => {
            let entries = expected.as_object().unwrap();
            let columns = array.as_struct().columns();
            entries.len() == fields.len()
                && fields.iter().zip(columns).all(|(f, column)| is(&entries[f.name()], column, row))
        }
        other => panic!("no vector has a column of {other}"),
    }
}
