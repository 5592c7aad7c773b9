//! JSON whose schema is a JSON Schema: columns from schemas, records that fit and that do not,
//! schemas that change, and back.

use crate::support::{Registry, block_on, decode, records_of, rows_of};
use arrow_schema::{DataType, Field, Schema};
use flate2::read::GzDecoder;
use millstream_core::{
    Decoder, Disposition, Encoder, Guid, Header, Headers, Record, RecordsBuilder, SchemaKind, types,
};
use millstream_formats::json::JsonEncoder;
use millstream_formats::json_schema::{
    Framing, JsonSchemaDecoder, JsonSchemaEncoder, JsonSchemaOptions, References, arrow_schema,
    json_schema_for,
};
use millstream_testkit::fuzz;
use serde_json::{Value, json};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const SUITE: &[u8] = include_bytes!("../data/json_schema_suite.json.gz");

const ORDER: &str = r##"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "Order", "type": "object",
  "required": ["id", "status", "lines", "placed"],
  "properties": {
    "id": {"type": "integer"},
    "uuid": {"type": "string", "format": "uuid"},
    "status": {"enum": ["OPEN", "PAID"]},
    "version": {"const": 2},
    "placed": {"type": "string", "format": "date-time"},
    "day": {"type": ["string", "null"], "format": "date"},
    "rate": {"type": "number"},
    "gift": {"oneOf": [{"type": "null"}, {"type": "boolean"}]},
    "blob": {"type": "string", "contentEncoding": "base64"},
    "customer": {"$ref": "#/$defs/Customer"},
    "lines": {"type": "array", "items": {"$ref": "#/$defs/Line"}},
    "tags": {"type": "object", "additionalProperties": {"type": "string"}},
    "extra": {},
    "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
    "category": {"$ref": "#/$defs/Category"}
  },
  "$defs": {
    "Customer": {"type": "object", "required": ["name"],
      "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}},
    "Line": {"allOf": [{"properties": {"sku": {"type": "string"}}, "required": ["sku"]},
      {"properties": {"count": {"type": "integer", "format": "int32"}}}]},
    "Category": {"type": "object",
      "properties": {"name": {"type": "string"}, "parent": {"$ref": "#/$defs/Category"}}}
  }
}"##;

fn good() -> Value {
    json!({
        "id": 7, "uuid": "00112233-4455-6677-8899-aabbccddeeff", "status": "PAID", "version": 2,
        "placed": "2024-05-31T14:00:00.25+02:00", "day": "2024-05-31", "rate": 1, "gift": true,
        "blob": "AAEC", "customer": {"name": "Ann", "age": 41},
        "lines": [{"sku": "a", "count": 2}, {"sku": "b"}], "tags": {"k": "v"},
        "extra": {"any": [1, null]}, "either": 5,
        "category": {"name": "x", "parent": {"name": "y"}}, "unknown": [{}]
    })
}

fn options(framing: Framing, schema: &str) -> JsonSchemaOptions {
    JsonSchemaOptions {
        framing,
        reader_schema: schema.to_owned(),
        references: Vec::new(),
        columns: None,
        record_bytes_max: 1 << 20,
    }
}

fn bare(schema: &str) -> JsonSchemaDecoder {
    let registry = Registry::new([] as [(u32, &str); 0]);
    JsonSchemaDecoder::new(options(Framing::Bare, schema), registry).unwrap()
}

fn registry(schemas: &[(u32, &str)]) -> Arc<Registry> {
    let schemas =
        schemas.iter().map(|(id, text)| (*id, (SchemaKind::Json, (*text).to_owned()))).collect();
    Arc::new(Registry { schemas, ..Registry::default() })
}

fn framed(id: u8, record: &Value) -> Vec<u8> {
    [&[0, 0, 0, 0, id], record.to_string().as_bytes()].concat()
}

/// The columns by name, with `?` where they may be null.
fn columns(schema: &Schema) -> Vec<String> {
    let fields = schema.fields().iter();
    let mark = |field: &Field| if field.is_nullable() { "?" } else { "" };
    fields.map(|f| format!("{} {}{}", f.name(), types::name(f.data_type()), mark(f))).collect()
}

/// The rows as JSON.
fn shown(decoder: &mut dyn Decoder, records: &[Vec<u8>]) -> Vec<Value> {
    let decoded = decode(decoder, &records_of(records));
    assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
    let rows = decoded.batch.rows;
    let encoded = JsonEncoder::new(rows.schema()).unwrap().encode(&rows).unwrap();
    rows_of(&encoded).iter().map(|row| serde_json::from_slice(row).unwrap()).collect()
}

fn reason(decoder: &mut dyn Decoder, record: &[u8]) -> (&'static str, String) {
    let mut decoded = decode(decoder, &records_of(&[record]));
    let rejection = decoded.rejected.pop().expect("rejected");
    (rejection.kind, rejection.reason)
}

#[test]
fn a_schema_gives_columns() {
    let schema = arrow_schema(ORDER, &Vec::new()).unwrap();
    assert_eq!(
        columns(&schema),
        [
            "id bigint",
            "uuid string?",
            "status string",
            "version bigint?",
            "placed timestamp_us",
            "day date?",
            "rate double?",
            "gift boolean?",
            "blob bytes?",
            "customer struct<name string, age bigint>?",
            "lines struct<sku string, count int>[]",
            "tags map<string>?",
            "extra string?",
            "either string?",
            "category struct<name string, parent string>?",
        ]
    );
}

#[test]
fn a_record_becomes_a_row() {
    let mut decoder = bare(ORDER);
    let small = json!({"id": 1, "status": "OPEN", "lines": [], "placed": "2024-01-01T00:00:00Z"});
    let records = [good().to_string().into_bytes(), small.to_string().into_bytes()];
    let rows = shown(&mut decoder, &records);
    let mut wanted = good();
    wanted["placed"] = "2024-05-31T12:00:00.25Z".into();
    wanted["rate"] = 1.0.into();
    wanted["lines"][1]["count"] = Value::Null;
    wanted["extra"] = r#"{"any":[1,null]}"#.into();
    wanted["either"] = "5".into();
    wanted["category"]["parent"] = r#"{"name":"y"}"#.into();
    wanted.as_object_mut().unwrap().remove("unknown");
    assert_eq!(rows[0], wanted);
    assert_eq!((&rows[1]["id"], &rows[1]["customer"]), (&json!(1), &Value::Null));
}

#[test]
fn a_value_of_another_type_is_refused_with_its_place() {
    let mut decoder = bare(ORDER);
    for (pointer, value, part) in [
        ("/id", json!("7"), "at /id: expected bigint, found the text `7`"),
        ("/id", json!(7.5), "at /id: expected bigint, found 7.5"),
        ("/id", Value::Null, "at /id: expected bigint, found null"),
        ("/uuid", json!("no"), "at /uuid: `no` is not a UUID"),
        ("/status", json!("GONE"), "at /status: `GONE` is none of OPEN, PAID"),
        ("/version", json!(3), "at /version: `3` is none of 2"),
        ("/placed", json!("yesterday"), "at /placed: `yesterday` is not a timestamp"),
        ("/placed", json!(1_700_000_000_000_i64), "at /placed: expected timestamp_us, found 17"),
        ("/day", json!(5), "at /day: expected date, found 5"),
        ("/rate", Value::Null, "at /rate: expected double, found null"),
        ("/gift", json!("yes"), "at /gift: expected boolean"),
        ("/blob", json!("%"), "at /blob: `%` is not base64"),
        ("/customer", json!([]), "at /customer: expected struct"),
        ("/customer/age", json!("old"), "at /customer/age: expected bigint"),
        ("/lines/1/sku", json!(1), "at /lines/1/sku: expected string, found 1"),
        ("/lines/0", Value::Null, "at /lines/0: expected struct"),
        ("/tags/k", json!(false), "at /tags/k: expected string, found false"),
        ("/category/name", json!(1), "at /category/name: expected string"),
    ] {
        let mut record = good();
        *record.pointer_mut(pointer).unwrap() = value;
        let (kind, why) = reason(&mut decoder, record.to_string().as_bytes());
        assert!(kind == "malformed" && why.starts_with(part), "{pointer}: {why}");
    }
    let mut record = good();
    record["customer"].as_object_mut().unwrap().remove("name");
    let (_, why) = reason(&mut decoder, record.to_string().as_bytes());
    assert_eq!(why, "at /customer: property `name` is missing");
    for (text, part) in [
        ("", "the record is empty"),
        ("[]", "expected an object"),
        ("{\"id\":1,\"id\":2}", "property `id` occurs twice"),
        ("{\"id\":1", "not JSON"),
        ("{} {}", "is missing"),
    ] {
        let (_, why) = reason(&mut decoder, text.as_bytes());
        assert!(why.contains(part), "{text}: {why}");
    }
    // A key with the signs that a pointer escapes.
    let schema =
        r#"{"properties":{"a/b~c":{"type":"object","additionalProperties":{"type":"null"}}}}"#;
    let (_, why) = reason(&mut bare(schema), br#"{"a/b~c":{"x/y":1}}"#);
    assert!(why.starts_with("at /a~1b~0c/x~1y: "), "{why}");
}

#[test]
fn a_required_property_that_is_absent_takes_its_default() {
    let schema = r#"{"type":"object","required":["a","b","c"],"properties":{
        "a":{"type":"integer","default":4},"b":{"type":"array","items":{"type":"string"},
        "default":["x"]},"c":{"type":["string","null"],"default":null},
        "d":{"type":"string","default":"not required"}}}"#;
    let rows = shown(&mut bare(schema), &[b"{}".to_vec(), br#"{"a":1,"b":[],"c":"y"}"#.to_vec()]);
    assert_eq!(rows[0], json!({"a": 4, "b": ["x"], "c": null, "d": null}));
    assert_eq!(rows[1], json!({"a": 1, "b": [], "c": "y", "d": null}));
    let wrong = r#"{"type":"object","required":["a"],"properties":{
        "a":{"type":"integer","default":"four"}}}"#;
    let (_, why) = reason(&mut bare(wrong), b"{}");
    assert!(why.contains("the default of `a`: expected bigint"), "{why}");
}

#[test]
fn what_has_no_single_type_is_json_text() {
    for schema in [
        r#"{"type":["string","integer"]}"#,
        r#"{"oneOf":[{"type":"object","properties":{"a":{"type":"string"}}},{"type":"string"}]}"#,
        r#"{"type":"object"}"#,
        r#"{"type":"array"}"#,
        r#"{"type":"array","prefixItems":[{"type":"string"}],"items":{"type":"string"}}"#,
        r#"{"enum":[1,"a"]}"#,
        r#"true"#,
    ] {
        let schema = format!(r#"{{"properties":{{"v":{schema}}}}}"#);
        let rows = shown(&mut bare(&schema), &[br#"{"v": [1.50, "a"] }"#.to_vec()]);
        assert_eq!(rows, [json!({"v": "[1.50,\"a\"]"})], "{schema}");
    }
    let one = |schema: &str| {
        let schema = format!(r#"{{"properties":{{"v":{schema}}},"required":["v"]}}"#);
        columns(&arrow_schema(&schema, &Vec::new()).unwrap()).remove(0)
    };
    assert_eq!(one(r#"{"oneOf":[{"const":"a"},{"const":"b"}]}"#), "v string");
    assert_eq!(one(r#"{"anyOf":[{"type":"integer"},{"type":"number"}]}"#), "v double");
    assert_eq!(one(r#"{"anyOf":[{"type":"integer"},{"type":"null"}]}"#), "v bigint?");
    assert_eq!(one(r#"{"enum":["a",null]}"#), "v string?");
    assert_eq!(one(r#"{"type":"string","enum":["a"],"nullable":true}"#), "v string?");
    assert_eq!(one(r#"{"allOf":[{"type":"number"},{"type":"integer"}]}"#), "v bigint");
    assert_eq!(one(r#"{"type":"null"}"#), "v Null?");
}

#[test]
fn references_lead_to_other_subjects() {
    let main = r#"{"$id":"http://shop/order.json","type":"object","properties":{
        "customer":{"$ref":"customer.json"},"name":{"$ref":"customer.json#/definitions/name"}}}"#;
    let customer: Arc<str> =
        r##"{"type":"object","properties":{"name":{"$ref":"#/definitions/name"}},
        "definitions":{"name":{"type":"string"}}}"##
            .into();
    let references: References = vec![("customer.json".to_owned(), customer)];
    let schema = arrow_schema(main, &references).unwrap();
    assert_eq!(columns(&schema), ["customer struct<name string>?", "name string?"]);
    let error = arrow_schema(main, &Vec::new()).unwrap_err();
    assert!(error.to_string().contains("`customer.json`"), "{error}");
}

#[test]
fn schemas_change_from_row_to_row() {
    let reader = r#"{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"}}}"#;
    let older = r#"{"type":"object","properties":{"a":{"type":"integer"}}}"#;
    let other = r#"{"type":"object","properties":{"a":{"type":"string"}}}"#;
    let registry = registry(&[(1, reader), (2, older), (3, other)]);
    let mut decoder =
        JsonSchemaDecoder::new(options(Framing::Confluent, reader), registry.clone()).unwrap();
    let values = [framed(1, &json!({"a": 1, "b": "x"})), framed(2, &json!({"a": 2, "c": 0}))];
    let rows = shown(&mut decoder, &[values[0].clone(), values[1].clone(), values[0].clone()]);
    assert_eq!(rows[1], json!({"a": 2, "b": null}));
    assert_eq!(rows[0], rows[2]);
    assert_eq!(registry.asked.load(Ordering::Relaxed), 2, "each id is asked for once");
    assert_eq!(reason(&mut decoder, &framed(9, &json!({}))).0, "unknown_schema");
    assert!(reason(&mut decoder, b"{}").1.contains("0x7b"));
    let run = records_of(&[framed(3, &json!({"a": "x"}))]);
    let error = block_on(decoder.prepare(&run)).unwrap_err();
    assert_eq!((error.disposition(), error.kind()), (Disposition::Stop, "incompatible_schema"));
    assert!(error.to_string().contains("/a is a string, where the reader has a number"), "{error}");
    registry.down.store(true, Ordering::Relaxed);
    let error = block_on(decoder.prepare(&records_of(&[framed(8, &json!({}))]))).unwrap_err();
    assert_eq!(error.disposition(), Disposition::Retry);
    // Known ids go on.
    assert_eq!(shown(&mut decoder, &values).len(), 2);
}

#[test]
fn a_header_may_name_the_schema() {
    let schema = r#"{"type":"object","properties":{"a":{"type":"integer"}}}"#;
    let mut registry = Registry::default();
    registry.schemas.insert(1, (SchemaKind::Json, schema.to_owned()));
    registry.guids.insert(Guid([7; 16]), 1);
    let guid = [&[1][..], &[7; 16]].concat();
    let (long, unknown) = ([&guid[..], &[0]].concat(), [&[1][..], &[8; 16]].concat());
    let id = [0, 0, 0, 0, 1];
    let mut builder = RecordsBuilder::new();
    let records: [(&[u8], Option<&[u8]>); 7] = [
        (b"{\"a\":1}", Some(&guid)),
        (b"{\"a\":2}", Some(&id)),
        (b"\0\0\0\0\x01{\"a\":3}", None),
        (b"{\"a\":4}", Some(&long)),
        (b"{\"a\":5}", Some(&unknown)),
        (b"{\"a\":6}", Some(&guid[..9])),
        (b"{\"a\":7}", None),
    ];
    for (offset, (value, header)) in records.into_iter().enumerate() {
        let other = Header { key: b"trace", value: Some(b"x") };
        let key = Header { key: b"__key_schema_id", value: Some(&[0, 0, 0, 0, 9]) };
        let mut headers = vec![other, key];
        headers
            .extend(header.map(|value| Header { key: b"__value_schema_id", value: Some(value) }));
        let mut bytes = Vec::new();
        Headers::encode(headers.into_iter(), &mut bytes);
        let (offset, headers) = (offset as i64, Headers(&bytes));
        builder.push(Record { offset, timestamp: 0, key: None, value: Some(value), headers });
    }
    let mut decoder =
        JsonSchemaDecoder::new(options(Framing::Confluent, schema), Arc::new(registry)).unwrap();
    let decoded = decode(&mut decoder, &builder.finish(7));
    let rejected: Vec<_> =
        decoded.rejected.iter().map(|r| (r.source_row, r.reason.as_str())).collect();
    assert_eq!(decoded.batch.len(), 3, "{rejected:?}");
    assert!(rejected[0].1.contains("1 bytes are left over"), "{rejected:?}");
    assert!(rejected[1].1.contains("08080808-0808-0808-0808-080808080808"), "{rejected:?}");
    assert!(rejected[2].1.contains("header `__value_schema_id`: 9 bytes"), "{rejected:?}");
    assert!(rejected[3].1.contains("0x7b"), "{rejected:?}");
}

/// What is valid must become a row, whatever the schema; of what is not, wrong types at least must
/// not. Types of the suite's own that Arrow cannot hold are JSON text, which takes anything.
#[test]
fn the_suite_of_json_schema_is_never_refused_where_it_is_valid() {
    let mut text = String::new();
    GzDecoder::new(SUITE).read_to_string(&mut text).unwrap();
    let suite: Value = serde_json::from_str(&text).unwrap();
    let main = r#"{"type":"object","properties":{"v":{"$ref":"case"}},"required":["v"]}"#;
    let (mut valid, mut refused, mut unreadable) = (0, 0, Vec::new());
    for (file, cases) in suite.as_object().unwrap() {
        for case in cases.as_array().unwrap() {
            let name = format!("{file}: {}", case["description"]);
            let references = vec![("case".to_owned(), case["schema"].to_string().into())];
            let options = JsonSchemaOptions { references, ..options(Framing::Bare, main) };
            let empty = Registry::new([] as [(u32, &str); 0]);
            let mut decoder = match JsonSchemaDecoder::new(options, empty) {
                Ok(decoder) => decoder,
                Err(error) => {
                    unreadable.push(format!("{name}: {}", error.chain()));
                    continue;
                }
            };
            for test in case["tests"].as_array().unwrap() {
                let record = json!({"v": test["data"]}).to_string();
                let decoded = decode(&mut decoder, &records_of(&[record.as_bytes()]));
                if test["valid"] == true {
                    valid += 1;
                    assert!(
                        decoded.rejected.is_empty(),
                        "{name}: {record}: {:?}",
                        decoded.rejected
                    );
                } else if !decoded.rejected.is_empty() {
                    refused += 1;
                } else {
                    // Types alone, where there is one.
                    let alone = file.ends_with("/type.json") && case["schema"]["type"].is_string();
                    let typed = !["object", "array"].iter().any(|t| case["schema"]["type"] == **t);
                    assert!(!(alone && typed), "{name}: {record} became a row");
                }
            }
        }
    }
    assert!(valid > 500 && refused > 100, "{valid} valid, {refused} refused");
    // Five have references to files of the suite that are not among its cases.
    let missing = |why: &String| why.contains("none of the schema's references");
    assert!(unreadable.len() == 5 && unreadable.iter().all(missing), "{unreadable:#?}");
}

#[test]
fn derived_schemas_read_back() {
    let wanted = [
        ("a", "boolean"),
        ("b", "int"),
        ("c", "bigint"),
        ("d", "float"),
        ("e", "double"),
        ("f", "decimal(20, 4)"),
        ("g", "string"),
        ("h", "bytes"),
        ("i", "date"),
        ("j", "timestamp_us"),
        ("k", "time"),
        ("l", "ip"),
        ("m", "string[][]"),
        ("n", "map<bigint>"),
        ("o", "struct<x int, y struct<z date>[]>"),
    ];
    for nullable in [true, false] {
        let fields = wanted.map(|(name, of)| Field::new(name, types::parse(of).unwrap(), nullable));
        let schema = Schema::new(fields.to_vec());
        let text = json_schema_for("shop.Order", &schema);
        assert_eq!(*arrow_schema(&text, &Vec::new()).unwrap(), schema, "{text}");
        JsonSchemaEncoder::new(&text, &Vec::new(), Some(1), Arc::new(schema)).unwrap();
    }
}

#[test]
fn rows_encode_back_to_the_record() {
    let decoded = decode(&mut bare(ORDER), &records_of(&[good().to_string()]));
    let rows = decoded.batch.rows;
    let mut encoder = JsonSchemaEncoder::new(ORDER, &Vec::new(), Some(258), rows.schema()).unwrap();
    let encoded = encoder.encode(&rows).unwrap();
    assert!(encoded.rejected.is_empty(), "{:?}", encoded.rejected);
    let (frame, record) = encoded.row(0).split_at(5);
    assert_eq!(frame, [0, 0, 0, 1, 2]);
    let mut wanted = good();
    wanted["placed"] = "2024-05-31T12:00:00.25Z".into();
    wanted["rate"] = 1.0.into();
    wanted.as_object_mut().unwrap().remove("unknown");
    let record: Value = serde_json::from_slice(record).unwrap();
    // JSON text is JSON again, and what is null and not required is left out.
    assert_eq!(record, wanted);
}

#[test]
fn an_encoder_holds_to_its_schema() {
    let columns = |of: &[(&str, &str, bool)]| {
        let field = |(name, of, nullable): &(&str, &str, bool)| {
            Field::new(*name, types::parse(of).unwrap(), *nullable)
        };
        Arc::new(Schema::new(of.iter().map(field).collect::<Vec<_>>()))
    };
    let schema = r#"{"type":"object","additionalProperties":false,"required":["id","day"],
        "properties":{"id":{"type":"integer"},"day":{"type":"string","format":"date"},
        "kind":{"enum":["A"]},"size":{"enum":[1,2]},"any":{}}}"#;
    let input = columns(&[("id", "string", false), ("kind", "int", true), ("more", "int", true)]);
    let error = JsonSchemaEncoder::new(schema, &Vec::new(), None, input).err().unwrap();
    for part in ["`id` is string", "`day` has no column", "no property `more`", "`kind` is int"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    let input = columns(&[
        ("id", "bigint", true),
        ("day", "date", false),
        ("kind", "string", true),
        ("size", "int", true),
        ("any", "string", true),
    ]);
    let text = |id, kind, size, any| {
        format!(r#"{{"id":{id},"day":"2024-01-01","kind":{kind},"size":{size},"any":{any}}}"#)
    };
    let rows = [
        text("1", "\"A\"", "2", r#""[1]""#),
        text("null", "\"A\"", "1", "null"),
        text("1", "\"B\"", "1", "null"),
        text("1", "null", "3", "null"),
        text("1", "null", "null", r#""[""#),
        text("5", "null", "null", "null"),
    ];
    let options = millstream_formats::json::JsonOptions { record_bytes_max: 1 << 10 };
    let mut decoder = millstream_formats::json::JsonDecoder::new(input.clone(), options).unwrap();
    let decoded = decode(&mut decoder, &records_of(&rows));
    let mut encoder = JsonSchemaEncoder::new(schema, &Vec::new(), None, input).unwrap();
    let encoded = encoder.encode(&decoded.batch.rows).unwrap();
    let texts: Vec<_> =
        rows_of(&encoded).into_iter().map(|row| String::from_utf8(row).unwrap()).collect();
    let first = r#"{"id":1,"day":"2024-01-01","kind":"A","size":2,"any":[1]}"#;
    let last = r#"{"id":5,"day":"2024-01-01","any":null}"#;
    assert_eq!(texts, [first, "", "", "", "", last]);
    let why: Vec<_> = encoded.rejected.iter().map(|(row, why)| format!("{row} {why}")).collect();
    assert_eq!(
        why,
        [
            "1 column `id` is null, which the schema does not allow",
            "2 column `kind`: `B` is none of the schema's values",
            "3 column `size`: `3` is none of the schema's values",
            "4 column `any`: `[` is not JSON",
        ]
    );
}

#[test]
fn only_the_columns_that_are_used_are_built() {
    let options = JsonSchemaOptions {
        columns: Some(vec!["rate".to_owned(), "id".to_owned()]),
        ..options(Framing::Bare, ORDER)
    };
    let empty = Registry::new([] as [(u32, &str); 0]);
    let mut decoder = JsonSchemaDecoder::new(options, empty).unwrap();
    assert_eq!(columns(&decoder.schema()), ["id bigint", "rate double?"]);
    assert_eq!(shown(&mut decoder, &[good().to_string().into()]), [json!({"id": 7, "rate": 1.0})]);
}

#[test]
fn hostile_schemas_are_bounded() {
    let deep = |n: usize| {
        format!(
            r#"{{"properties":{{"v":{}{{}}{}}}}}"#,
            r#"{"type":"array","items":"#.repeat(n),
            "}".repeat(n)
        )
    };
    // As deep as JSON may be written; the inner part is JSON text.
    assert!(arrow_schema(&deep(50), &Vec::new()).is_ok());
    let error = arrow_schema(&deep(10_000), &Vec::new()).unwrap_err();
    assert!(error.to_string().contains("recursion"), "{error}");
    // Each level has the next one twice.
    let levels: Vec<String> = (0..40)
        .map(|at| {
            let next = format!(r##"{{"$ref":"#/$defs/l{}"}}"##, at + 1);
            format!(r#""l{at}":{{"type":"object","properties":{{"a":{next},"b":{next}}}}}"#)
        })
        .collect();
    let wide = format!(
        r##"{{"$ref":"#/$defs/l0","$defs":{{{},"l40":{{"type":"string"}}}}}}"##,
        levels.join(",")
    );
    let error = arrow_schema(&wide, &Vec::new()).unwrap_err();
    assert!(error.to_string().contains("nested columns"), "{error}");
    for (schema, part) in [
        ("", "not JSON"),
        ("[]", "no schema"),
        ("true", "rows need an object"),
        (r#"{"type":"objct"}"#, "no type of JSON Schema"),
        (r##"{"$ref":"#"}"##, "rows need an object"),
        (r##"{"properties":{"a":{"$ref":"#/nowhere"}}}"##, "refers to nothing"),
    ] {
        let error = arrow_schema(schema, &Vec::new()).unwrap_err();
        assert!(error.to_string().contains(part), "{schema}: {error}");
    }
    let mut decoder = bare(r#"{"properties":{"v":{}}}"#);
    let nested = format!(r#"{{"v":{}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
    assert!(!reason(&mut decoder, nested.as_bytes()).1.is_empty());
}

#[test]
fn fuzz_json_schema() {
    let mut decoder = bare(ORDER);
    let good = good().to_string();
    let small = r#"{"id":1,"status":"OPEN","lines":[{"sku":""}],"placed":"2024-01-01T00:00:00Z"}"#;
    let corpus = [good.as_str(), small, "{}"];
    let words = ["OPEN", "null", "[]", "{}", "1e400", "\\u0000", "2024-01-01T00:00:00Z", "-0"];
    let target = |bytes: &[u8], decoder: &mut JsonSchemaDecoder| {
        let decoded = decode(decoder, &records_of(&[good.as_bytes(), bytes, good.as_bytes()]));
        assert!(decoded.rejected.iter().all(|rejection| rejection.source_row == 1), "a good one");
        let rows = decoded.batch.rows;
        let mut encoder = JsonSchemaEncoder::new(ORDER, &Vec::new(), None, rows.schema()).unwrap();
        let encoded = encoder.encode(&rows).unwrap();
        for row in (0..encoded.len()).filter(|row| !encoded.row(*row).is_empty()) {
            // What was written is what was read.
            let again = decode(decoder, &records_of(&[encoded.row(row)]));
            assert!(again.batch.rows == rows.slice(row, 1), "{:?}", encoded.row(row));
        }
    };
    fuzz::run_text("fuzz_json_schema", &corpus, &words, |text| {
        target(text.as_bytes(), &mut decoder);
    });
    fuzz::run("fuzz_json_schema", &corpus, |bytes| target(bytes, &mut decoder));
}

#[test]
fn fuzz_json_schema_schemas() {
    let corpus = [ORDER, r##"{"$id":"a","properties":{"b":{"$ref":"a#c"}},"$anchor":"c"}"##];
    let words: Vec<&str> = "type properties required items oneOf anyOf allOf enum const $ref $defs \
        $id $anchor definitions additionalProperties patternProperties format date-time null object \
        array string integer number boolean default # #/ #/$defs/Line true false"
        .split_whitespace()
        .collect();
    fuzz::run_text("fuzz_json_schema_schemas", &corpus, &words, |text| {
        let Ok(schema) = arrow_schema(text, &Vec::new()) else { return };
        let mut decoder = bare(text);
        assert_eq!(decoder.schema(), schema);
        decode(&mut decoder, &records_of(&[good().to_string().as_bytes(), b"{}"]));
        let derived = json_schema_for("again", &schema);
        let again = arrow_schema(&derived, &Vec::new());
        assert!(schema.fields().is_empty() || again.is_ok(), "{derived}");
    });
}

#[test]
fn a_text_of_json_is_not_taken_for_another_type() {
    let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Utf8, true)]));
    let text = json_schema_for("t", &schema);
    let rows = shown(&mut bare(&text), &[br#"{"a":"[1]"}"#.to_vec()]);
    assert_eq!(rows, [json!({"a": "[1]"})]);
}
