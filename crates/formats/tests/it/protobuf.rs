//! Protobuf against vectors of Google's own implementation, then evolution, framing and nonsense.

use crate::support::{Registry, block_on, decode, records_of, rows_of};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use flate2::read::GzDecoder;
use millstream_core::{
    Decoder, Disposition, Encoder, Error, RegisteredSchema, SchemaKind, Schemas,
};
use millstream_formats::json::JsonEncoder;
use millstream_formats::protobuf::{
    Framing, ProtobufDecoder, ProtobufEncoder, ProtobufOptions, arrow_schema,
};
use millstream_testkit::fuzz;
use serde_json::{Map, Value};
use std::io::Read;
use std::sync::Arc;

const VECTORS: &[u8] = include_bytes!("../data/protobuf_vectors.jsonl.gz");

/// The first line, which has the schemas, and the cases.
fn vectors() -> (Value, Vec<Value>) {
    let mut text = String::new();
    GzDecoder::new(VECTORS).read_to_string(&mut text).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    (lines.next().unwrap(), lines.collect())
}

fn references(list: &Value) -> Vec<(String, Arc<str>)> {
    let pair =
        |pair: &Value| (pair[0].as_str().unwrap().to_owned(), pair[1].as_str().unwrap().into());
    list.as_array().unwrap().iter().map(pair).collect()
}

fn options(framing: Framing, schema: &str, message: Option<&str>) -> ProtobufOptions {
    ProtobufOptions {
        framing,
        reader_schema: schema.to_owned(),
        references: Vec::new(),
        message: message.map(str::to_owned),
        columns: None,
        record_bytes_max: 8 << 20,
    }
}

/// A registry with one schema, under id 7.
struct One(Arc<RegisteredSchema>);

impl One {
    fn new(kind: SchemaKind, text: &str, references: Vec<(String, Arc<str>)>) -> Arc<One> {
        let text = text.into();
        Arc::new(One(Arc::new(RegisteredSchema { id: 7, kind, text, references })))
    }
}

#[async_trait::async_trait]
impl Schemas for One {
    async fn by_id(&self, id: u32) -> millstream_core::Result<Arc<RegisteredSchema>> {
        match id {
            7 => Ok(self.0.clone()),
            8 => Err(Error::retry("down", "the registry is down")),
            _ => Err(Error::reject("unknown_schema", "no such schema")),
        }
    }

    async fn latest(&self, _: &str) -> millstream_core::Result<Option<Arc<RegisteredSchema>>> {
        Ok(None)
    }

    async fn register(&self, _: &str, _: SchemaKind, _: &str) -> millstream_core::Result<u32> {
        Err(Error::stop("registry", "read only"))
    }
}

fn bare(schema: &str) -> ProtobufDecoder {
    let nobody = Registry::new([] as [(u32, &str); 0]);
    ProtobufDecoder::new(options(Framing::Bare, schema, None), nobody).unwrap()
}

fn framed(reader: &str, writer: &str) -> ProtobufDecoder {
    let registry = One::new(SchemaKind::Protobuf, writer, Vec::new());
    ProtobufDecoder::new(options(Framing::Confluent, reader, None), registry).unwrap()
}

/// Each row as JSON.
fn shown(decoder: &mut ProtobufDecoder, values: &[Vec<u8>]) -> Vec<Value> {
    let decoded = decode(decoder, &records_of(values));
    let why: Vec<_> = decoded.rejected.iter().map(|rejection| &rejection.reason).collect();
    assert!(why.is_empty(), "{why:?}");
    let rows = decoded.batch.rows;
    let encoded = JsonEncoder::new(rows.schema()).unwrap().encode(&rows).unwrap();
    rows_of(&encoded).iter().map(|row| serde_json::from_slice(row).unwrap()).collect()
}

/// Why a record is rejected.
fn rejected(decoder: &mut ProtobufDecoder, value: &[u8]) -> (String, String) {
    let decoded = decode(decoder, &records_of(&[value]));
    let rejection = decoded.rejected.first().expect("a rejection");
    (rejection.kind.to_owned(), rejection.reason.clone())
}

fn frame(index: &[u8], body: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 0, 7], index, body].concat()
}

/// `{"$json": v}` stands for text that reads as `v`, whatever its spaces.
fn same(got: &Value, wanted: &Value) -> bool {
    match (got, wanted) {
        (Value::String(text), Value::Object(one)) if one.contains_key("$json") => {
            serde_json::from_str::<Value>(text).is_ok_and(|got| same(&got, &one["$json"]))
        }
        (Value::Object(got), Value::Object(wanted)) => alike(got, wanted),
        (Value::Array(got), Value::Array(wanted)) => {
            got.len() == wanted.len()
                && got.iter().zip(wanted).all(|(got, wanted)| same(got, wanted))
        }
        (Value::Number(got), Value::Number(wanted)) => {
            got == wanted || got.as_f64() == wanted.as_f64() && (got.is_f64() || wanted.is_f64())
        }
        (got, wanted) => got == wanted,
    }
}

fn alike(got: &Map<String, Value>, wanted: &Map<String, Value>) -> bool {
    got.len() == wanted.len()
        && got.iter().all(|(name, got)| wanted.get(name).is_some_and(|wanted| same(got, wanted)))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

fn zigzags(index: &Value) -> Vec<u8> {
    let places: Vec<u8> =
        index.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u8 * 2).collect();
    [vec![places.len() as u8 * 2], places].concat()
}

#[test]
fn vectors_give_their_rows_from_text_and_from_descriptors() {
    let (head, cases) = vectors();
    assert!(cases.len() > 100);
    let forms = [("schema", "references"), ("descriptor", "descriptor_references")];
    for (schema, list) in forms {
        let text = head[schema].as_str().unwrap();
        let imports = references(&head[list]);
        for message in ["shop.Order", "Node", "shop.Order.Line"] {
            let named = |case: &&Value| case["message"].as_str().unwrap().ends_with(message);
            let cases: Vec<&Value> = cases.iter().filter(named).collect();
            assert!(!cases.is_empty(), "{message}");
            let registry = One::new(SchemaKind::Protobuf, text, imports.clone());
            for framing in [Framing::Confluent, Framing::Bare] {
                let mut options = options(framing, text, Some(message));
                options.references = imports.clone();
                let values = cases.iter().map(|case| {
                    let body = bytes(case["hex"].as_str().unwrap());
                    match framing {
                        Framing::Confluent => frame(&zigzags(&case["index"]), &body),
                        Framing::Bare => body,
                    }
                });
                let values: Vec<Vec<u8>> = values.collect();
                let mut decoder = ProtobufDecoder::new(options, registry.clone()).unwrap();
                let rows = shown(&mut decoder, &values);
                for (case, row) in cases.iter().zip(&rows) {
                    let wanted = &case["row"];
                    assert!(
                        same(row, wanted),
                        "{} {}\n   got {row}\nwanted {wanted}",
                        case["kind"],
                        case["hex"]
                    );
                }
            }
        }
    }
}

/// What the decoder makes of a record again, after it was encoded from what it made of it.
#[test]
fn what_was_decoded_is_encoded_back() {
    let (head, cases) = vectors();
    let (text, imports) = (head["schema"].as_str().unwrap(), references(&head["references"]));
    for message in ["shop.Order", "shop.Node", "shop.Order.Line"] {
        let mut options = options(Framing::Confluent, text, Some(message));
        options.references = imports.clone();
        let registry = One::new(SchemaKind::Protobuf, text, imports.clone());
        let mut decoder = ProtobufDecoder::new(options, registry).unwrap();
        let of = cases.iter().filter(|case| case["message"] == message);
        let (bodies, values): (Vec<_>, Vec<_>) = of
            .map(|case| {
                let body = bytes(case["hex"].as_str().unwrap());
                let index = zigzags(&case["index"]);
                (case["kind"] == "plain", frame(&index, &body))
            })
            .unzip();
        let rows = decode(&mut decoder, &records_of(&values)).batch.rows;
        let encoder =
            ProtobufEncoder::new(text, &imports, Some(message), Some(7), rows.schema()).unwrap();
        let encoded = { encoder }.encode(&rows).unwrap();
        assert_eq!(encoded.rejected, []);
        let again = decode(&mut decoder, &records_of(&rows_of(&encoded))).batch.rows;
        // Texts of JSON may have their members in another order; their bytes are the same again.
        for (at, column) in rows.columns().iter().enumerate() {
            let name = rows.schema().field(at).name().clone();
            if !["extra", "tree", "children", "named"].contains(&name.as_str()) {
                assert_eq!(column, again.column(at), "{name}");
            }
        }
        assert_eq!(rows.num_rows(), again.num_rows());
        // A plain record of Google's is ours byte for byte, but for the order of maps and fields
        // finer than a column is: the length tells.
        let plain = bodies.iter().zip(&values).zip(rows_of(&encoded));
        let equal = plain.filter(|((plain, value), ours)| **plain && value.len() == ours.len());
        assert!(message != "shop.Order" || equal.count() > 10);
    }
}

#[test]
fn json_texts_go_back_into_their_messages() {
    let (head, cases) = vectors();
    let (text, imports) = (head["schema"].as_str().unwrap(), references(&head["references"]));
    for message in ["shop.Order", "shop.Node"] {
        let mut options = options(Framing::Bare, text, Some(message));
        options.references = imports.clone();
        let nobody = Registry::new([] as [(u32, &str); 0]);
        let mut decoder = ProtobufDecoder::new(options, nobody).unwrap();
        let of: Vec<&Value> = cases.iter().filter(|case| case["message"] == message).collect();
        let values: Vec<Vec<u8>> =
            of.iter().map(|case| bytes(case["hex"].as_str().unwrap())).collect();
        let rows = decode(&mut decoder, &records_of(&values)).batch.rows;
        let mut encoder =
            ProtobufEncoder::new(text, &imports, Some(message), None, rows.schema()).unwrap();
        let encoded = encoder.encode(&rows).unwrap();
        for (row, case) in shown(&mut decoder, &rows_of(&encoded)).iter().zip(&of) {
            assert!(
                same(row, &case["row"]),
                "{}\n   got {row}\nwanted {}",
                case["hex"],
                case["row"]
            );
        }
    }
}

#[test]
fn what_cannot_be_encoded_is_said() {
    use arrow_array::{Int64Array, RecordBatch, StringArray};
    let schema = "syntax = \"proto3\"; message M { int32 id = 1; E kind = 2; optional string s = 3;
        message Inner { int32 x = 1; } Inner inner = 4; } enum E { A = 0; B = 1; }";
    let batch =
        |columns: Vec<(&str, arrow_array::ArrayRef)>| RecordBatch::try_from_iter(columns).unwrap();
    let ids: arrow_array::ArrayRef =
        Arc::new(Int64Array::from(vec![Some(1), Some(1 << 40), None, Some(2), Some(3)]));
    let kinds = StringArray::from(vec!["B", "A", "A", "nothing", "7"]);
    let inner = StringArray::from(vec![r#"{"x":1}"#, "", "", "", r#"{"x":3}"#]);
    let rows =
        batch(vec![("id", ids.clone()), ("kind", Arc::new(kinds)), ("inner", Arc::new(inner))]);
    let mut encoder = ProtobufEncoder::new(schema, &[], None, Some(9), rows.schema()).unwrap();
    let encoded = encoder.encode(&rows).unwrap();
    assert_eq!(encoded.row(0), [0, 0, 0, 0, 9, 0, 8, 1, 16, 1, 34, 2, 8, 1]);
    assert_eq!(encoded.row(4), [0, 0, 0, 0, 9, 0, 8, 3, 16, 7, 34, 2, 8, 3]);
    let why: Vec<&str> = encoded.rejected.iter().map(|(_, why)| why.as_str()).collect();
    assert_eq!(why[0], "field `id`: 1099511627776 is beyond int32");
    assert_eq!(why[1], "field `id`: it is null, and the field cannot be absent");
    assert_eq!(why[2], "field `kind`: `nothing` is no name of the enum");
    let nested = ProtobufEncoder::new(
        schema,
        &[],
        Some("Inner"),
        Some(9),
        batch(vec![("x", ids.clone())]).schema(),
    );
    let row = nested.unwrap().encode(&batch(vec![("x", ids.clone())])).unwrap().row(0).to_vec();
    assert_eq!(row, [0, 0, 0, 0, 9, 4, 0, 0, 8, 1]);
    let wrong = batch(vec![("gone", ids.clone()), ("s", ids.clone()), ("inner", ids)]);
    let error =
        ProtobufEncoder::new(schema, &[], None, None, wrong.schema()).err().unwrap().chain();
    for words in ["`M` has no field `gone`", "`s` is string, its column", "`inner` is a `M.Inner`"]
    {
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn only_the_columns_asked_for_are_built() {
    let (head, cases) = vectors();
    let text = head["schema"].as_str().unwrap();
    let imports = references(&head["references"]);
    let mut options = options(Framing::Bare, text, Some("Order"));
    options.references = imports.clone();
    let columns = ["note", "at", "card", "cash.cents", "total.units", "lines.sku", "tree.value"];
    options.columns = Some(columns.map(str::to_owned).to_vec());
    let planned = arrow_schema(text, &imports, Some("Order"), options.columns.as_deref()).unwrap();
    let nobody = Registry::new([] as [(u32, &str); 0]);
    let mut decoder = ProtobufDecoder::new(options.clone(), nobody.clone()).unwrap();
    assert_eq!(decoder.schema(), planned);
    let cases = cases.iter().filter(|case| case["message"] == "shop.Order");
    let (values, wanted): (Vec<_>, Vec<_>) =
        cases.map(|case| (bytes(case["hex"].as_str().unwrap()), &case["row"])).unzip();
    let rows = shown(&mut decoder, &values);
    let names: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
    assert_eq!(names, ["note", "lines", "total", "card", "cash", "at", "tree"]);
    for (row, wanted) in rows.iter().zip(wanted) {
        // A member of a oneof that is not built still takes the place of one that is: `voucher`.
        for name in ["note", "lines", "card", "cash", "at"] {
            assert!(same(&row[name], &wanted[name]), "{name}: {row} {wanted}");
        }
        for (outer, inner) in [("total", "units"), ("tree", "value")] {
            let found = wanted[outer].as_object().map(|outer| outer[inner].clone());
            let wanted = found.map_or(Value::Null, |found| serde_json::json!({ inner: found }));
            assert_eq!(row[outer], wanted);
        }
    }
    options.columns = Some(vec!["nothing_such".into()]);
    let error = ProtobufDecoder::new(options, nobody).err().unwrap().chain();
    assert!(error.contains("message `shop.Order` has no field `nothing_such`"), "{error}");
}

const READER: &str = r#"syntax = "proto3"; package p;
    message M { int64 id = 1; string name = 2; E kind = 3; optional double rate = 4; repeated int32 n = 5;
                Inner inner = 6; }
    message Inner { string a = 1; int64 b = 2; }
    enum E { ZERO = 0; ONE = 1; }"#;

#[test]
fn an_older_and_a_newer_writer_are_read_by_number() {
    // `kind` and `rate` are not there yet, `id` is narrower, two fields have other names.
    let older = r#"syntax = "proto3"; package p; message Other { int32 x = 1; }
        message M { int32 id = 1; string title = 2; repeated int32 n = 5; In inner = 6; }
        message In { string a = 1; }"#;
    let mut decoder = framed(READER, older);
    let value = frame(&[2, 2], &[8, 5, 18, 1, b't', 42, 2, 1, 2, 50, 3, 10, 1, b'a']);
    let rows = shown(&mut decoder, &[value]);
    let wanted =
        r#"{"id":5,"name":"t","kind":"ZERO","rate":null,"n":[1,2],"inner":{"a":"a","b":0}}"#;
    assert_eq!(rows[0], serde_json::from_str::<Value>(wanted).unwrap());
    let newer = READER
        .replace("ONE = 1;", "ONE = 1; TWO = 2;")
        .replace("int64 id = 1;", "int64 id = 1; map<string, M> more = 90;");
    let mut decoder = framed(READER, &newer);
    let rows = shown(&mut decoder, &[frame(&[0], &[24, 2, 0xd2, 5, 2, 10, 0])]);
    assert_eq!(rows[0]["kind"], "TWO");
}

#[test]
fn a_writer_of_another_type_holds_and_says_which_field() {
    let cases = [
        ("int64 id = 1;", "string id = 1;", "`id` is of another type"),
        ("repeated int32 n = 5;", "int32 n = 5;", "`n` is repeated in one of them only"),
        ("int64 b = 2;", "double b = 2;", "`inner.b` is of another type"),
        ("Inner inner = 6;", "map<string, Inner> inner = 6;", "`inner` is repeated in one"),
    ];
    for (from, to, words) in cases {
        let mut decoder = framed(READER, &READER.replace(from, to));
        let records = records_of(&[frame(&[0], &[])]);
        let error = block_on(decoder.prepare(&records)).unwrap_err();
        assert_eq!(error.disposition(), Disposition::Stop);
        assert!(error.chain().contains(words), "{}", error.chain());
    }
}

#[test]
fn frames_that_do_not_read_cost_their_row() {
    let mut decoder = framed(READER, READER);
    let cases: [(&[u8], &str, &str); 12] = [
        (&[], "malformed", "the value is empty"),
        (&[2, 0, 0, 0, 7, 0], "malformed", "the first byte is 0x02"),
        (&[0, 0, 0], "malformed", "3 bytes are too few for a schema id"),
        (&[0, 0, 0, 0, 9, 0], "unknown_schema", "schema id 9 is unknown"),
        (&[0, 0, 0, 0, 7], "malformed", "message index"),
        (&[0, 0, 0, 0, 7, 1, 1], "malformed", "message index"),
        (&[0, 0, 0, 0, 7, 2, 2], "other_message", "the record is a `p.Inner`, not a `p.M`"),
        (&[0, 0, 0, 0, 7, 2, 20], "malformed", "no message at the record's index"),
        (&[0, 0, 0, 0, 7, 4, 0, 0], "malformed", "no message at the record's index"),
        (&[0, 0, 0, 0, 7, 0xfe, 0xff, 3], "malformed", "message index"),
        (&[0, 0, 0, 0, 7, 0, 8], "malformed", "the bytes end in the middle"),
        (&[0, 0, 0, 0, 7, 0, 10, 1, 65], "malformed", "field `id`: a run of bytes is where"),
    ];
    for (value, kind, words) in cases {
        let (got, why) = rejected(&mut decoder, value);
        assert_eq!(got, kind, "{value:?}: {why}");
        assert!(why.contains(words), "{value:?}: {why}");
    }
    let avro = One::new(SchemaKind::Avro, "\"int\"", Vec::new());
    let mut decoder =
        ProtobufDecoder::new(options(Framing::Confluent, READER, None), avro).unwrap();
    let (kind, why) = rejected(&mut decoder, &frame(&[0], &[]));
    assert!(kind == "unknown_schema" && why.contains("an Avro schema, not a Protobuf"), "{why}");
}

/// Whoever registers a descriptor counts the messages that maps imply; whoever registers the text
/// does not. Confluent's clients differ in the same way.
#[test]
fn a_message_index_counts_as_the_form_of_the_schema_does() {
    let text = "syntax = \"proto3\";
        message Outer { map<string, int32> first = 1; message Inner { int32 x = 1; } }";
    let descriptor = "CgxwbGFjZXMucHJvdG8iawoFT3V0ZXISIAoFZmlyc3QYASADKAsyES5PdXRlci5GaXJzdEVudHJ5\
        GiwKCkZpcnN0RW50cnkSCwoDa2V5GAEgASgJEg0KBXZhbHVlGAIgASgFOgI4ARoSCgVJbm5lchIJCgF4GAEgASgF\
        YgZwcm90bzM=";
    for (schema, place) in [(text, 0), (descriptor, 2)] {
        let registry = One::new(SchemaKind::Protobuf, schema, Vec::new());
        let options = options(Framing::Confluent, schema, Some("Inner"));
        let mut decoder = ProtobufDecoder::new(options, registry).unwrap();
        let value = frame(&[4, 0, place], &[8, 5]);
        let rows = decode(&mut decoder, &records_of(&[&value])).batch.rows;
        assert_eq!(rows.column(0).as_primitive::<Int32Type>().values(), &[5]);
        let encoder = ProtobufEncoder::new(schema, &[], Some("Inner"), Some(7), rows.schema());
        assert_eq!(encoder.unwrap().encode(&rows).unwrap().row(0), value);
        let (kind, why) = rejected(&mut decoder, &frame(&[4, 0, 2 - place], &[]));
        assert!(kind == "malformed" && why.contains("no message at the record's index"), "{why}");
    }
}

#[test]
fn a_registry_that_is_down_holds_the_run() {
    let mut decoder = framed(READER, READER);
    let records = records_of(&[[0, 0, 0, 0, 8, 0]]);
    let error = block_on(decoder.prepare(&records)).unwrap_err();
    assert_eq!(error.disposition(), Disposition::Retry);
}

#[test]
fn records_that_do_not_read_cost_their_row() {
    let schema = r#"syntax = "proto2"; import "google/protobuf/timestamp.proto";
        message M { required int32 id = 1; optional string s = 2; optional M m = 3;
                    optional google.protobuf.Timestamp t = 4; map<string, int32> c = 5;
                    repeated double d = 6; }"#;
    let mut deep = Vec::new();
    for _ in 0..200 {
        let mut length = Vec::new();
        let mut left = deep.len();
        while left > 127 {
            length.push(left as u8 | 128);
            left >>= 7;
        }
        length.push(left as u8);
        deep = [vec![26], length, deep].concat();
    }
    let cases: [(&[u8], &str); 13] = [
        (&[], "field `id`: it is required and absent"),
        (&[8, 1, 18, 1, 0xff], "UTF-8"),
        (&[8, 1, 18, 5, b'x'], "the bytes end in the middle of a value"),
        (&[8, 0x80], "the bytes end in the middle of a value"),
        (&[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], "over 64 bits"),
        (&[0, 1], "0 numbers no field"),
        (&[8, 1, 15], "there is no wire type 7"),
        (&[8, 1, 19, 20], "group"),
        (&[13, 1, 2, 3, 4], "field `id`: 32 fixed bits is where an integer is due"),
        (&[8, 1, 34, 12, 8, 128, 128, 128, 128, 128, 128, 128, 128, 64, 16, 0], "no timestamp"),
        (&[8, 1, 42, 3, 10, 1, 0xff], "field `c.key`: its text is not UTF-8"),
        (&[8, 1, 50, 7, 0, 0, 0, 0, 0, 0, 0], "the bytes end in the middle"),
        (&[&[8, 1], &deep[..]].concat(), "nested over 100 deep"),
    ];
    let mut decoder = bare(schema);
    for (value, words) in cases {
        let (kind, why) = rejected(&mut decoder, value);
        assert!(kind == "malformed" && why.contains(words), "{value:?}: {why}");
    }
    // Its neighbours are unharmed.
    let good: &[u8] = &[8, 9];
    let decoded = decode(&mut decoder, &records_of(&[good, &[8, 1, 18, 1, 0xff], good]));
    assert_eq!(decoded.batch.rows.column(0).as_primitive::<Int32Type>().values(), &[9, 9]);
}

#[test]
fn a_small_record_cannot_become_a_huge_one() {
    let fields: String = (1..200).map(|n| format!("int64 f{n} = {n};")).collect();
    let schema =
        format!("syntax = \"proto3\"; message M {{ repeated W w = 1; }} message W {{ {fields} }}");
    let bomb: Vec<u8> = [10, 0].repeat(500_000);
    let (_, why) = rejected(&mut bare(&schema), &bomb);
    assert!(why.contains("far larger decoded"), "{why}");
    let rows = decode(&mut bare(&schema), &records_of(&[[10, 0].repeat(1000)])).batch.rows;
    let list = rows.column(0).as_list::<i32>().value(0);
    assert_eq!(list.as_struct().column(0).as_primitive::<Int64Type>().len(), 1000);
}

#[test]
fn a_schema_that_does_not_read_says_where() {
    let file = |body: &str| format!("syntax = \"proto3\";\n{body}");
    let mut deep = "message A {".repeat(100);
    deep.push_str(&"}".repeat(100));
    let cases = [
        ("message M { Nobody n = 1; }", "field `M.n`: there is no type `Nobody`"),
        ("import \"gone.proto\"; message M {}", "imports `gone.proto`, which is none of"),
        (
            "message M { int32 a = 1; int32 b = 1; }",
            "message `M` has the name or the number of `b`",
        ),
        ("message M { int32 a = 0; }", "line 2: `a` has no valid number"),
        ("message M {\n int32 a 1; }", "line 3: `=` is due before `1`"),
        ("message M { int32 a = 1;", "the file ends in a declaration"),
        ("message M {} message M {}", "`M` is declared twice"),
        ("message M { map<double, int32> m = 1; }", "`double` cannot be a map's key"),
        ("message M { repeated group G = 1 { } }", "groups are not supported"),
        ("enum E { }", "enum `E` has no value"),
        ("/* never", "line 2: a comment does not end"),
        ("message M { string s = 1 [default = \"x]; }", "line 2: a text does not end"),
        ("", "it has no message"),
        ("hello", "`hello` begins no declaration"),
        (&deep, "declared over 32 deep"),
    ];
    for (body, words) in cases {
        let error = arrow_schema(&file(body), &[], None, None).unwrap_err();
        assert!(error.chain().contains(words), "{body}: {}", error.chain());
        assert_eq!(error.disposition(), Disposition::Stop);
    }
    let error = arrow_schema(READER, &[], Some("Gone"), None).unwrap_err();
    assert!(error.chain().contains("no message `Gone`; it has p.M, p.Inner"), "{}", error.chain());
}

#[test]
fn fuzz_protobuf_records_and_schemas() {
    let (head, cases) = vectors();
    let text = head["schema"].as_str().unwrap();
    let imports = references(&head["references"]);
    let mut options = options(Framing::Bare, text, Some("Order"));
    options.references = imports.clone();
    let nobody = Registry::new([] as [(u32, &str); 0]);
    let mut decoder = ProtobufDecoder::new(options, nobody).unwrap();
    let orders = cases.iter().filter(|case| case["message"] == "shop.Order");
    let corpus: Vec<Vec<u8>> =
        orders.step_by(4).map(|case| bytes(case["hex"].as_str().unwrap())).collect();
    let good = corpus[3].clone();
    fuzz::run("fuzz_protobuf", &corpus, |record| {
        let decoded = decode(&mut decoder, &records_of(&[&good, record, &good]));
        assert!(decoded.rejected.iter().all(|rejection| rejection.source_row == 1), "a good one");
        let rows = decoded.batch.rows;
        let last = rows.num_rows() - 1;
        for column in rows.columns() {
            assert!(column.slice(0, 1) == column.slice(last, 1), "the good ones differ");
        }
    });
    let descriptor = head["descriptor"].as_str().unwrap();
    let corpus = [text.to_owned(), READER.to_owned(), descriptor.to_owned()];
    let words =
        ["message", "oneof", "map<", "{", "}", "repeated", "import", "enum", "=", "[", "/*"];
    fuzz::run_text("fuzz_protobuf_schemas", &corpus, &words, |text| {
        // Whatever it says: it ends.
        let _ = arrow_schema(text, &imports, None, None);
    });
}
