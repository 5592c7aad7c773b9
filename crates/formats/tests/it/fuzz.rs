//! Anything at all as a record, and as an Avro schema. A bad record between two good ones costs
//! itself only.

use crate::support::{Generator, Registry, bare, decode, options, records_of};
use apache_avro::{Schema as AvroSchema, to_avro_datum};
use arrow_schema::{Field, Schema, SchemaRef};
use millstream_core::{Decoder, Encoder, types};
use millstream_formats::avro::{AvroDecoder, AvroText, Framing, arrow_schema, to_json};
use millstream_formats::csv::{CsvDecoder, CsvOptions};
use millstream_formats::json::{JsonDecoder, JsonEncoder, JsonOptions};
use millstream_formats::text::{TextDecoder, TextOptions};
use millstream_testkit::fuzz;
use std::sync::Arc;

const NAVIGATION: &str = include_str!("../data/navigation.avsc");

const READER: &str = r#"{"type":"record","name":"R","fields":[
    {"name":"id","type":"long"},
    {"name":"name","type":["null","string"],"default":null},
    {"name":"kind","type":{"type":"enum","name":"K","symbols":["A","B"],"default":"A"}},
    {"name":"tags","type":{"type":"array","items":"string"},"default":["x"]},
    {"name":"rate","type":"double","default":0.5}]}"#;

/// What [`READER`] has to read, each with a record of it.
const WRITERS: [(&str, &[u8]); 4] = [
    (READER, &[2, 2, 4, b'a', b'b', 2, 2, 2, b't', 0, 0, 0, 0, 0, 0, 0, 0xe0, 0x3f]),
    (
        r#"{"type":"record","name":"R","fields":[{"name":"kind","type":{"type":"enum","name":"K",
            "symbols":["C","B"]}},{"name":"id","type":"int"},
            {"name":"gone","type":{"type":"map","values":["null","R"]}}]}"#,
        &[2, 6, 2, 2, b'k', 0, 0],
    ),
    (
        r#"{"type":"record","name":"R","fields":[{"name":"id","type":"long"},
            {"name":"rate","type":"float"},{"name":"name","type":"bytes"},
            {"name":"kind","type":{"type":"enum","name":"K","symbols":["B"]}},
            {"name":"tags","type":{"type":"array","items":["string","bytes"]}}]}"#,
        &[2, 0, 0, 0, 0x3f, 2, b'n', 0, 1, 6, 2, 2, b't', 0],
    ),
    (
        r#"{"type":"record","name":"R","fields":[
            {"name":"skipped","type":{"type":"fixed","name":"F","size":3}},
            {"name":"kind","type":{"type":"enum","name":"K","symbols":["A","B"]}},
            {"name":"id","type":["int","long"]}]}"#,
        &[1, 2, 3, 0, 2, 4],
    ),
];

/// Decodes the record between two copies of a good one, which must stay as they are; then shows
/// as JSON whatever came out.
fn between(decoder: &mut dyn Decoder, good: &[u8], record: &[u8]) {
    let decoded = decode(decoder, &records_of(&[good, record, good]));
    assert!(decoded.rejected.iter().all(|rejection| rejection.source_row == 1), "a good one");
    let rows = decoded.batch.rows;
    let last = rows.num_rows() - 1;
    for column in rows.columns() {
        assert!(column.slice(0, 1) == column.slice(last, 1), "the good ones differ");
    }
    let encoded = JsonEncoder::new(rows.schema()).unwrap().encode(&rows).unwrap();
    for row in 0..encoded.len() {
        if encoded.rejected.iter().all(|(at, _)| *at as usize != row) {
            is_json(encoded.row(row));
        }
    }
}

fn is_json(text: &[u8]) {
    let read = serde_json::from_slice::<serde::de::IgnoredAny>(text);
    assert!(read.is_ok(), "not JSON: {}", String::from_utf8_lossy(text));
}

#[test]
fn fuzz_avro() {
    // The first byte says which of the schemas an input is of.
    let mut schemas = vec![NAVIGATION.to_owned()];
    schemas.extend((1..40).map(|seed| Generator::new(seed).record(3).to_string()));
    let mut corpus = Vec::new();
    let mut targets = Vec::new();
    for (at, text) in schemas.iter().enumerate() {
        let schema = AvroSchema::parse_str(text).unwrap();
        let mut generator = Generator::new(at as u64);
        let mut values = Vec::new();
        for _ in 0..4 {
            let value = generator.value(&schema);
            values.push(to_avro_datum(&schema, value).unwrap());
        }
        corpus.extend(values.iter().map(|value| [&[at as u8], &value[..]].concat()));
        targets.push((bare(text), AvroText::new(text, []).unwrap(), values.remove(0)));
    }
    fuzz::run("fuzz_avro", &corpus, |bytes| {
        let Some((first, record)) = bytes.split_first() else { return };
        let at = usize::from(*first) % targets.len();
        let (decoder, text, good) = &mut targets[at];
        between(decoder, good, record);
        if let Ok(json) = text.to_json(record) {
            is_json(json.as_bytes());
        }
    });
}

#[test]
fn fuzz_avro_of_many_writers() {
    let registry = Registry::new(WRITERS.iter().zip(1..).map(|((text, _), id)| (id, *text)));
    let mut decoder = AvroDecoder::new(options(Framing::Confluent, READER), registry).unwrap();
    let corpus: Vec<Vec<u8>> = WRITERS
        .iter()
        .zip(1..)
        .map(|((_, record), id)| [&[0, 0, 0, 0, id], *record].concat())
        .collect();
    let decoded = decode(&mut decoder, &records_of(&corpus));
    assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
    let mut cases = 0;
    fuzz::run("fuzz_avro_of_many_writers", &corpus, |bytes| {
        // Unknown ids are remembered: a fresh decoder now and then keeps them few.
        cases += 1;
        if cases % 5_000 == 0 {
            let registry = Registry::new(WRITERS.iter().zip(1..).map(|((t, _), id)| (id, *t)));
            decoder = AvroDecoder::new(options(Framing::Confluent, READER), registry).unwrap();
        }
        between(&mut decoder, &corpus[1], bytes);
    });
}

#[test]
fn fuzz_avro_schemas() {
    let mut corpus = vec![NAVIGATION.to_owned()];
    corpus.extend(WRITERS.iter().map(|(text, _)| (*text).to_owned()));
    corpus.extend((1..20).map(|seed| Generator::new(seed).record(2).to_string()));
    let known = "type name namespace fields symbols size items values default aliases record enum \
        fixed array map null boolean int long float double bytes string logicalType decimal uuid \
        date time-millis time-micros timestamp-millis timestamp-micros duration precision scale R";
    let words: Vec<&str> = known.split_whitespace().collect();
    let records: [&[u8]; 4] = [&[], &[0; 40], &[2; 40], &[0xff; 40]];
    fuzz::run_text("fuzz_avro_schemas", &corpus, &words, |text| {
        let _ = to_json(&[2, 2, 2, 2], text);
        if let Ok(schema) = arrow_schema(text) {
            let registry = Registry::new([] as [(u32, &str); 0]);
            let mut options = options(Framing::Bare, text);
            let mut decoder = AvroDecoder::new(options.clone(), registry.clone())
                .expect("a schema that has columns can be read with");
            assert_eq!(decoder.schema(), schema);
            decode(&mut decoder, &records_of(&records));
            // The columns are defaults, or there is a sentence.
            options.writer_schema = Some(r#"{"type":"record","name":"R","fields":[]}"#.to_owned());
            if let Ok(mut decoder) = AvroDecoder::new(options, registry) {
                decode(&mut decoder, &records_of(&[b""; 2]));
            }
        }
    });
}

fn columns(text: &[(&str, &str)]) -> SchemaRef {
    let field = |(name, of): &(&str, &str)| Field::new(*name, types::parse(of).unwrap(), true);
    Arc::new(Schema::new(text.iter().map(field).collect::<Vec<_>>()))
}

const FLAT: [(&str, &str); 12] = [
    ("b", "boolean"),
    ("i", "int"),
    ("l", "bigint"),
    ("f", "float"),
    ("d", "double"),
    ("n", "decimal(20, 2)"),
    ("s", "string"),
    ("day", "date"),
    ("at", "time"),
    ("t", "timestamp"),
    ("u", "timestamp_us"),
    ("ip", "ip"),
];

const WORDS: [&str; 14] = [
    "2024-02-29",
    "2023-02-29",
    "0000-01-01",
    "-9999-01-01",
    "+262143-12-31",
    "24:00:00",
    "23:59:60.999999999",
    "2024-01-31T12:00:00Z",
    "2024-01-31 12:00:00.123456789+14:00",
    "1700000000000",
    "::1",
    "1.2.3.4",
    "::ffff:1.2.3.4",
    "99999999999999999999.995",
];

#[test]
fn fuzz_json() {
    let mut all = FLAT.to_vec();
    all.extend([
        ("y", "bytes"),
        ("tags", "string[][]"),
        ("m", "map<struct<x int, more decimal(5, 1)[]>>"),
        ("site", "struct<id int, name string, at timestamp>"),
    ]);
    let mut decoder =
        JsonDecoder::new(columns(&all), JsonOptions { record_bytes_max: 1 << 20 }).unwrap();
    let good = r#"{"b":true,"i":-1,"l":9007199254740993,"f":0.1,"d":1e300,"n":"12.34","s":"aé\n\ud83e\udd80","day":"2024-02-29","at":"12:00:00.5","t":"2024-01-31T12:00:00Z","u":1700000000000,"ip":"10.0.0.1","y":"AAEC","tags":[["a"],null,[]],"m":{"k":{"x":1,"more":[1.5]}},"site":{"id":3,"name":null,"at":"2024-01-31T12:00:00.123Z"},"other":[{}]}"#;
    let corpus = [good, "{}", r#"{"tags":[],"m":{},"site":null,"n":1.2345e1}"#, " { \"i\" : 7 } "];
    fuzz::run_text("fuzz_json", &corpus, &WORDS, |text| {
        between(&mut decoder, good.as_bytes(), text.as_bytes());
    });
    fuzz::run("fuzz_json", &corpus, |bytes| between(&mut decoder, good.as_bytes(), bytes));
}

#[test]
fn fuzz_csv() {
    let good = "true,-1,9007199254740993,0.1,1e300,12.34,\"a \"\"é\"\", b\",2024-02-29,12:00:00.5,2024-01-31T12:00:00Z,2024-01-31 12:00:00,10.0.0.1";
    let corpus = [good, ",,,,,,,,,,,", "false,1,2,3,4,5,plain,,,,,::1\r\n", "\"\",\"1\"\n"];
    let mut decoder = CsvDecoder::new(columns(&FLAT), CsvOptions::default()).unwrap();
    let mut plain = CsvDecoder::new(
        columns(&[("a", "string"), ("b", "int")]),
        CsvOptions { delimiter: b'\t', quote: None, record_bytes_max: 1 << 10 },
    )
    .unwrap();
    let mut target = |bytes: &[u8]| {
        between(&mut decoder, good.as_bytes(), bytes);
        between(&mut plain, b"a\t1", bytes);
    };
    fuzz::run_text("fuzz_csv", &corpus, &WORDS, |text| target(text.as_bytes()));
    fuzz::run("fuzz_csv", &corpus, target);
}

#[test]
fn fuzz_text() {
    let pattern = r#"^(?P<ip>\S+) \S+ (?P<s>\S+) \[(?P<t>[^\]]+)\] "(?P<line>[^"]*)" (?P<i>\d{3}) (?P<l>-|\d+)(?: (?P<d>[-+.\de]+))?$"#;
    let of = columns(&[
        ("ip", "ip"),
        ("s", "string"),
        ("t", "timestamp"),
        ("line", "string"),
        ("i", "int"),
        ("l", "bigint"),
        ("d", "double"),
    ]);
    let good = r#"83.149.9.216 - - [2015-05-17T10:05:03Z] "GET /a HTTP/1.1" 200 7697 0.5"#;
    let corpus = [good, r#"::1 - me [2015-05-17T10:05:03Z] "" 404 1"#, "", "nothing of it\r\n"];
    let options = TextOptions { record_bytes_max: 1 << 20 };
    let mut decoder = TextDecoder::new(pattern, of.clone(), options.clone()).unwrap();
    fuzz::run_text("fuzz_text", &corpus, &WORDS, |text| {
        between(&mut decoder, good.as_bytes(), text.as_bytes());
    });
    fuzz::run("fuzz_text", &corpus, |bytes| between(&mut decoder, good.as_bytes(), bytes));
    let words = ["(?P<s>", "(?:", "\\d", "{3}", "*", "+", "?", "^", "$", "[^", "|", "\\p{L}"];
    fuzz::run_text("fuzz_text", &[pattern, "(?P<ip>.*)"], &words, |pattern| {
        let _ = TextDecoder::new(pattern, of.clone(), options.clone());
    });
}
