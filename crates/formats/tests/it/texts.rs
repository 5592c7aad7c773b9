//! JSON, CSV and lines of text.

use crate::support::{decode, records, records_of, rows_of};
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, Float64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use millstream_core::{Decoder, Encoder, types};
use millstream_formats::csv::{CsvDecoder, CsvOptions};
use millstream_formats::json::{JsonDecoder, JsonEncoder, JsonOptions};
use millstream_formats::text::{TextDecoder, TextOptions};
use std::sync::Arc;

fn columns(columns: &[(&str, &str)]) -> SchemaRef {
    let field = |(name, of): &(&str, &str)| Field::new(*name, types::parse(of).unwrap(), true);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

fn json(of: &[(&str, &str)]) -> JsonDecoder {
    JsonDecoder::new(columns(of), JsonOptions { record_bytes_max: 1 << 20 }).unwrap()
}

/// What each value becomes as JSON again, or why it does not.
fn through(decoder: &mut dyn Decoder, values: &[&[u8]]) -> Vec<Result<String, String>> {
    let decoded = decode(decoder, &records_of(values));
    let rows = decoded.batch.rows;
    let encoded = JsonEncoder::new(rows.schema()).unwrap().encode(&rows).unwrap();
    let mut out: Vec<_> = decoded
        .rejected
        .into_iter()
        .map(|rejection| (rejection.source_row, Err(rejection.reason)))
        .collect();
    for (row, source) in decoded.batch.origin.iter().enumerate() {
        let rejected = encoded.rejected.iter().find(|(at, _)| *at as usize == row);
        out.push((
            source,
            match rejected {
                Some((_, why)) => Err(why.clone()),
                None => Ok(String::from_utf8(encoded.row(row).to_vec()).unwrap()),
            },
        ));
    }
    out.sort_by_key(|(row, _)| *row);
    out.into_iter().map(|(_, result)| result).collect()
}

#[test]
fn json_of_every_type_goes_there_and_back() {
    let mut decoder = json(&[
        ("b", "boolean"),
        ("i", "int"),
        ("l", "bigint"),
        ("f", "float"),
        ("d", "double"),
        ("n", "decimal(20, 2)"),
        ("s", "string"),
        ("y", "bytes"),
        ("day", "date"),
        ("t", "timestamp"),
        ("u", "timestamp_us"),
        ("c", "time"),
        ("ip", "ip"),
        ("a", "string[]"),
        ("m", "map<double>"),
        ("r", "struct<id int, ips ip[]>"),
    ]);
    let full = r#"{"b":true,"i":-5,"l":9007199254740993,"f":0.1,"d":1e300,"n":"12.30","s":"é\n\"","y":"AP8=","day":"2024-02-29","t":"2024-05-31T12:00:00.5Z","u":"1969-12-31T23:59:59.999999Z","c":"01:02:03.5","ip":"10.0.0.1","a":["x",null],"m":{"k":1.5},"r":{"id":1,"ips":["::1"]}}"#;
    let nulls = r#"{"b":null,"i":null,"l":null,"f":null,"d":null,"n":null,"s":null,"y":null,"day":null,"t":null,"u":null,"c":null,"ip":null,"a":null,"m":null,"r":null}"#;
    let spaced = b" { \"l\" : 1.0, \"t\": 1717156800500, \"n\": 7, \"other\": [{}], \"d\": 2 } \n";
    let results = through(&mut decoder, &[full.as_bytes(), b"{}", spaced]);
    assert_eq!(results[0].as_deref(), Ok(full));
    assert_eq!(results[1].as_deref(), Ok(nulls));
    let text = results[2].as_ref().unwrap();
    for part in [r#""l":1,"#, r#""t":"2024-05-31T12:00:00.5Z""#, r#""n":"7.00""#, r#""d":2.0"#] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn bad_json_costs_itself_and_says_why() {
    let mut decoder = json(&[("a", "int"), ("s", "string"), ("r", "struct<x ip>")]);
    let deep = format!("{{\"s\":{}", "[".repeat(10_000));
    let cases: [(&[u8], &str); 16] = [
        (b"", "empty"),
        (b"{\"a\":1", "not JSON"),
        (b"{\"a\":1} x", "not JSON"),
        (b"{\"a\":1}{\"a\":2}", "not JSON"),
        (b"[1]", "expected an object"),
        (b"{\"a\":\"x\"}", "field `a`: expected int, found the text `x`"),
        (b"{\"a\":3000000000}", "field `a`: expected int"),
        (b"{\"a\":1.5}", "field `a`: expected int"),
        (b"{\"s\":5}", "field `s`: expected string"),
        (b"{\"s\":{}}", "found an object"),
        (b"{\"r\":{\"x\":\"1.2.3\"}}", "`1.2.3` is not an IP address"),
        (b"{\"a\":1,\"a\":2}", "occurs twice"),
        (b"{\"s\":\"\xff\"}", "not JSON"),
        (b"{\"other\":NaN}", "not JSON"),
        (deep.as_bytes(), "found an array"),
        (b"\x00\x00", "not JSON"),
    ];
    let good: &[u8] = br#"{"a":1,"s":"x","r":{"x":"::1"}}"#;
    let mut values = Vec::new();
    for (case, _) in &cases {
        values.extend([*case, good]);
    }
    let results = through(&mut decoder, &values);
    for (at, (_, part)) in cases.iter().enumerate() {
        let why = results[at * 2].as_ref().unwrap_err();
        assert!(why.contains(part), "{part} in {why}");
        assert_eq!(results[at * 2 + 1].as_ref().unwrap().as_bytes(), good);
    }
    let ignored = format!("{{\"other\":{}", "[".repeat(10_000));
    assert!(through(&mut decoder, &[ignored.as_bytes()])[0].is_err());
    let long = vec![b' '; (1 << 20) + 1];
    let decoded = decode(&mut decoder, &records([Some(long.as_slice()), None]));
    let kinds: Vec<_> = decoded.rejected.iter().map(|r| r.kind).collect();
    assert_eq!(kinds, ["oversized", "null_value"]);
}

#[test]
fn what_json_does_not_have_is_refused_row_by_row() {
    let values = Float64Array::from(vec![1.0, f64::NAN, f64::INFINITY, -0.0]);
    let rows = RecordBatch::try_from_iter([("x", Arc::new(values) as ArrayRef)]).unwrap();
    let encoded = JsonEncoder::new(rows.schema()).unwrap().encode(&rows).unwrap();
    let texts = rows_of(&encoded);
    assert_eq!(texts, [&b"{\"x\":1.0}"[..], b"", b"", b"{\"x\":-0.0}"]);
    let refused: Vec<_> = encoded.rejected.iter().map(|(row, _)| *row).collect();
    assert_eq!(refused, [1, 2]);
    assert!(encoded.rejected[0].1.contains("column `x`: NaN"));
    let duration = DataType::Duration(arrow_schema::TimeUnit::Second);
    let odd = Arc::new(Schema::new(vec![Field::new("odd", duration, true)]));
    assert!(JsonEncoder::new(odd).err().unwrap().to_string().contains("`odd`"));
}

#[test]
fn csv_fields_are_typed_and_quoted() {
    let of = columns(&[("id", "int"), ("name", "string"), ("at", "timestamp"), ("ip", "ip")]);
    let mut decoder = CsvDecoder::new(of, CsvOptions::default()).unwrap();
    let results = through(
        &mut decoder,
        &[
            b"1,\"a, \"\"b\"\"\",2024-01-01T00:00:00Z,10.0.0.1\r\n",
            b",\"\",,",
            b"2,,1000,",
            b"x,a,,",
            b"1,a",
            b"1,a,,,",
            b"1,\"a,,",
            b"1,\"a\"b,,",
            b"1,\xff,,",
            b"",
        ],
    );
    assert_eq!(
        results[0].as_deref(),
        Ok(r#"{"id":1,"name":"a, \"b\"","at":"2024-01-01T00:00:00Z","ip":"10.0.0.1"}"#)
    );
    assert_eq!(results[1].as_deref(), Ok(r#"{"id":null,"name":"","at":null,"ip":null}"#));
    assert_eq!(
        results[2].as_deref(),
        Ok(r#"{"id":2,"name":null,"at":"1970-01-01T00:00:01Z","ip":null}"#)
    );
    for (at, part) in [
        (3, "field `id`: `x` is not an integer"),
        (4, "2 fields, where 4 are due"),
        (5, "more than the 4 fields"),
        (6, "closing quote"),
        (7, "follows the closing quote"),
        (8, "not UTF-8"),
        (9, "1 fields"),
    ] {
        let why = results[at].as_ref().unwrap_err();
        assert!(why.contains(part), "{part} in {why}");
    }
    let tabs = CsvOptions { delimiter: b'\t', quote: None, ..CsvOptions::default() };
    let mut decoder = CsvDecoder::new(columns(&[("a", "string"), ("b", "int")]), tabs).unwrap();
    assert_eq!(through(&mut decoder, &[b"\"x\t1"])[0].as_deref(), Ok(r#"{"a":"\"x","b":1}"#));
}

#[test]
fn lines_are_taken_apart_by_their_groups() {
    let pattern = r#"^(?P<ip>\S+) \[(?P<at>[^\]]+)\] "(?P<verb>[A-Z]+) (?P<path>\S+)" (?P<status>\d{3})(?: (?P<bytes>\d+|-))?$"#;
    let of = columns(&[("status", "int"), ("ip", "ip"), ("path", "string"), ("bytes", "bigint")]);
    let options = || TextOptions { record_bytes_max: 1 << 20 };
    let mut decoder = TextDecoder::new(pattern, of, options()).unwrap();
    let results = through(
        &mut decoder,
        &[
            b"10.0.0.1 [now] \"GET /a\" 200 12\n",
            b"10.0.0.1 [now] \"GET /a\" 200",
            b"10.0.0.1 [now] \"get /a\" 200",
            b"10.0.0.1 [now] \"GET /a\" 200 -",
            b"10.0.0.1 [n\xffw]",
            b"",
        ],
    );
    assert_eq!(
        results[0].as_deref(),
        Ok(r#"{"status":200,"ip":"10.0.0.1","path":"/a","bytes":12}"#)
    );
    assert!(results[1].as_ref().unwrap().contains("\"bytes\":null"));
    for (at, part) in [
        (2, "not match the pattern: it does up to character 13, but not `] \"get /a\" 200`"),
        (3, "group `bytes`: `-` is not an integer"),
        (4, "not UTF-8 at its byte 11"),
        (5, "not match the pattern: ``"),
    ] {
        let why = results[at].as_ref().unwrap_err();
        assert!(why.contains(part), "{part} in {why}");
    }
    let missing = TextDecoder::new(pattern, columns(&[("nope", "int")]), options());
    let error = missing.err().unwrap().to_string();
    assert!(error.contains("`nope`") && error.contains("ip, at, verb"), "{error}");
    assert!(TextDecoder::new("(", columns(&[]), options()).is_err());
}

#[test]
fn a_megabyte_line_is_one_value() {
    let mut decoder = json(&[("s", "string")]);
    let text = format!("{{\"s\":\"{}\"}}", "x".repeat(1_000_000));
    let rows = decode(&mut decoder, &records_of(&[text])).batch.rows;
    assert_eq!(rows.column(0).as_string::<i32>().value(0).len(), 1_000_000);
    assert_eq!(rows.column(0).null_count(), 0);
    assert!(rows.column(0).as_primitive_opt::<Int32Type>().is_none());
}

#[test]
fn the_years_1_to_9999_go_in_and_out_and_others_are_told_their_range() {
    let columns = [("day", "date"), ("ms", "timestamp"), ("us", "timestamp_us")]
        .map(|(name, t)| Field::new(name, types::parse(t).unwrap(), true));
    let nanos = DataType::Timestamp(arrow_schema::TimeUnit::Nanosecond, Some("UTC".into()));
    let columns = columns.into_iter().chain([Field::new("ns", nanos, true)]).collect::<Vec<_>>();
    let columns: SchemaRef = Arc::new(Schema::new(columns));
    let mut decoder =
        JsonDecoder::new(columns.clone(), JsonOptions { record_bytes_max: 1 << 20 }).unwrap();
    let good: [&[u8]; 2] = [
        br#"{"day":"0001-01-01","ms":"0001-01-01T00:00:00Z","us":"0001-01-01T00:00:00Z","ns":"1677-09-21T00:12:43.145224192Z"}"#,
        br#"{"day":"9999-12-31","ms":"9999-12-31T23:59:59.999Z","us":"9999-12-31T23:59:59.999999Z","ns":"2262-04-11T23:47:16.854775807Z"}"#,
    ];
    for (text, result) in good.iter().zip(through(&mut decoder, &good)) {
        assert_eq!(result.unwrap().as_bytes(), *text);
    }
    for (bad, range) in [
        (
            r#"{"day":"10000-01-01"}"#,
            "`10000-01-01` is not a date as 2024-05-31, from 0001-01-01 to 9999-12-31",
        ),
        (r#"{"ms":"9999-12-31T23:59:59-01:00"}"#, "to 9999-12-31T23:59:59.999Z"),
        (
            r#"{"ms":253402300800000}"#,
            "253402300800000 milliseconds since 1970 are out of range: from 0001-01-01T00:00:00Z to 9999",
        ),
        (r#"{"ns":"2263-01-01T00:00:00Z"}"#, "to 2262-04-11T23:47:16.854775807Z"),
    ] {
        let why = through(&mut decoder, &[bad.as_bytes()])[0].clone().unwrap_err();
        assert!(why.contains(range), "{why}");
    }
    // Avro and tables hold more than the calendar has: what cannot be written is told.
    let beyond = arrow_array::TimestampMillisecondArray::from(vec![253_402_300_800_000, 0]);
    let rows = arrow_array::RecordBatch::try_from_iter([("at", Arc::new(beyond) as _)]).unwrap();
    let encoded = JsonEncoder::new(rows.schema()).unwrap().encode(&rows).unwrap();
    let why = "column `at`: the timestamp 253402300800000 (milliseconds since 1970) is out of \
               range: from 0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999Z";
    assert_eq!(encoded.rejected, [(0, why.to_owned())]);
}
