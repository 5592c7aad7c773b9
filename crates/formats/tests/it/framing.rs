//! Confluent frames, schema ids that come and go, sizes, and rows in their order.

use crate::support::{Registry, block_on, decode, options, records, records_of};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use millstream_core::{
    Decoder, Disposition, Guid, Header, Headers, Origin, Record, RecordsBuilder, SchemaKind,
};
use millstream_formats::avro::{AvroDecoder, AvroOptions, Framing, arrow_schema};
use millstream_formats::protobuf::{self, ProtobufDecoder, ProtobufOptions};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const INT: &str = r#"{"type":"record","name":"R","fields":[{"name":"x","type":"int"}]}"#;
const LONG: &str = r#"{"type":"record","name":"R","fields":[
    {"name":"gone","type":"string"},{"name":"x","type":"long"}]}"#;
const READER: &str = r#"{"type":"record","name":"R","fields":[{"name":"x","type":"long"}]}"#;

fn decoder(registry: &Arc<Registry>) -> AvroDecoder {
    AvroDecoder::new(options(Framing::Confluent, READER), registry.clone()).unwrap()
}

fn reasons(decoder: &mut AvroDecoder, value: &[u8]) -> (&'static str, String) {
    let mut decoded = decode(decoder, &records_of(&[value]));
    let rejection = decoded.rejected.pop().expect("rejected");
    (rejection.kind, rejection.reason)
}

#[test]
fn ids_alternate_and_rows_keep_their_order() {
    let registry = Registry::new([(1, INT), (2, LONG)]);
    let mut decoder = decoder(&registry);
    let values: Vec<Vec<u8>> = (0..100u8)
        .map(|at| match at % 3 {
            0 => vec![0, 0, 0, 0, 2, 4, b'a', b'b', at],
            1 => vec![0, 0, 0, 0, 9, at],
            _ => vec![0, 0, 0, 0, 1, at],
        })
        .collect();
    let decoded = decode(&mut decoder, &records_of(&values));
    let column = decoded.batch.rows.column(0).as_primitive::<Int64Type>().clone();
    for (row, source) in decoded.batch.origin.iter().enumerate() {
        let zigzag = i64::from(source);
        assert_eq!(column.value(row), (zigzag >> 1) ^ -(zigzag & 1));
    }
    assert_eq!(decoded.rejected.len(), 33);
    assert!(decoded.rejected.iter().all(|r| r.kind == "unknown_schema" && r.source_row % 3 == 1));
    assert!(decoded.rejected[0].reason.contains("schema id 9"), "{:?}", decoded.rejected[0]);
    assert_eq!(registry.asked.load(Ordering::Relaxed), 3, "each id is asked for once");
}

#[test]
fn a_whole_run_of_one_id_needs_no_origins() {
    let registry = Registry::new([(1, INT)]);
    let decoded = decode(&mut decoder(&registry), &records_of(&[[0, 0, 0, 0, 1, 2]; 5]));
    assert!(matches!(decoded.batch.origin, Origin::Same(5)));
}

#[test]
fn a_registry_that_is_down_holds_the_run() {
    let registry = Registry::new([(1, INT)]);
    registry.down.store(true, Ordering::Relaxed);
    let mut decoder = decoder(&registry);
    let run = records_of(&[[0, 0, 0, 0, 1, 2]]);
    let error = block_on(decoder.prepare(&run)).unwrap_err();
    assert_eq!(error.disposition(), Disposition::Retry);
    registry.down.store(false, Ordering::Relaxed);
    assert_eq!(decode(&mut decoder, &run).batch.len(), 1);
}

#[test]
fn an_id_that_is_registered_later_is_found() {
    let mut decoder = decoder(&Registry::new([] as [(u32, &str); 0]));
    assert_eq!(reasons(&mut decoder, &[0, 0, 0, 0, 1, 2]).0, "unknown_schema");
    let registry = Registry::new([(1, INT)]);
    let mut decoder = AvroDecoder::new(options(Framing::Confluent, READER), registry).unwrap();
    assert_eq!(decode(&mut decoder, &records_of(&[[0, 0, 0, 0, 1, 2]])).batch.len(), 1);
}

#[test]
fn broken_frames_are_named() {
    let mut registry = Registry::new([(1, INT)]);
    let kinds = Arc::get_mut(&mut registry).unwrap();
    kinds.schemas.insert(3, (SchemaKind::Protobuf, "syntax = \"proto3\";".into()));
    kinds.schemas.insert(4, (SchemaKind::Avro, "{".into()));
    let mut decoder = decoder(&registry);
    for (value, part) in [
        (&b"{\"x\":1}"[..], "0x7b"),
        (b"", "empty"),
        (&[0, 0, 0], "3 bytes are too few"),
        (&[0, 0, 0, 0, 1], "`x`: the record ends too early"),
        (&[0, 0, 0, 0, 1, 2, 2], "1 byte is left over"),
        (&[0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 2], "6 bytes are left over"),
        (&[0, 0, 0, 0, 3, 2], "Protobuf"),
        (&[0, 0, 0, 0, 4, 2], "not JSON"),
    ] {
        let (_, reason) = reasons(&mut decoder, value);
        assert!(reason.contains(part), "{reason}");
    }
    let decoded = decode(&mut decoder, &records([None, Some(&[0, 0, 0, 0, 1, 2][..])]));
    assert_eq!((decoded.batch.len(), decoded.rejected[0].kind), (1, "null_value"));
}

#[test]
fn tombstones_are_passed_over_where_that_is_asked_for() {
    let schema = r#"{"type":"record","name":"R","fields":[{"name":"x","type":"long"}]}"#;
    let registry = Registry::new([] as [(u32, &str); 0]);
    let decoder = AvroDecoder::new(options(Framing::Bare, schema), registry).unwrap();
    let mut decoder = millstream_formats::skipping_tombstones(Box::new(decoder));
    let values = [None, Some(&[2][..]), None, Some(&[][..]), Some(&[4][..]), None];
    let decoded = decoder.decode(&records(values)).unwrap();
    // No row and no rejection: the acknowledgement counts such a record as filtered.
    assert_eq!(decoded.batch.origin.iter().collect::<Vec<_>>(), [1, 4]);
    let rejected: Vec<_> = decoded.rejected.iter().map(|r| (r.source_row, r.kind)).collect();
    assert_eq!(rejected, [(3, "malformed")]);
    let decoded = decoder.decode(&records([None, None])).unwrap();
    assert_eq!((decoded.batch.len(), decoded.rejected.len()), (0, 0));
}

#[test]
fn a_record_over_the_limit_costs_itself() {
    let schema = r#"{"type":"record","name":"R","fields":[{"name":"s","type":"string"}]}"#;
    let options = AvroOptions { record_bytes_max: 1 << 20, ..options(Framing::Bare, schema) };
    let mut decoder = AvroDecoder::new(options, Registry::new([] as [(u32, &str); 0])).unwrap();
    let text = |len: usize| {
        let mut bytes = Vec::new();
        let mut rest = (len as u64) << 1;
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes.resize(bytes.len() + len, b'x');
        bytes
    };
    let values = [text(3), text(100 << 20), text((1 << 20) - 3), text(1 << 20)];
    let decoded = decode(&mut decoder, &records_of(&values));
    assert_eq!(decoded.batch.origin.iter().collect::<Vec<_>>(), [0, 2]);
    assert!(decoded.rejected.iter().all(|r| r.kind == "oversized"), "{:?}", decoded.rejected);
}

#[test]
fn types_are_plain_ones() {
    let schema = r#"{"type":"record","name":"R","fields":[
        {"name":"e","type":{"type":"enum","name":"E","symbols":["A"]}},
        {"name":"u","type":{"type":"string","logicalType":"uuid"}},
        {"name":"t","type":["null",{"type":"long","logicalType":"timestamp-millis"}]},
        {"name":"o","type":["null","int",{"type":"record","name":"n.P","fields":[]},"E"]},
        {"name":"f","type":{"type":"fixed","name":"F","size":16}},
        {"name":"self","type":["null","R"]}]}"#;
    let names: Vec<_> = arrow_schema(schema)
        .unwrap()
        .fields()
        .iter()
        .map(|f| format!("{} {}", f.name(), millstream_core::types::name(f.data_type())))
        .collect();
    assert_eq!(
        names,
        [
            "e string",
            "u string",
            "t timestamp",
            "o struct<int int, P struct<>, E string>",
            "f bytes",
            "self string"
        ]
    );
    assert!(arrow_schema("\"int\"").unwrap_err().to_string().contains("rows need a record"));
}

#[test]
fn a_column_that_is_not_there_is_refused() {
    let options = AvroOptions { columns: Some(vec!["y".into()]), ..options(Framing::Bare, READER) };
    let error = AvroDecoder::new(options, Registry::new([] as [(u32, &str); 0])).err().unwrap();
    assert!(error.to_string().contains("`y`"), "{error}");
}

/// One record whose value stands alone, with this header.
fn with_header(value: &[u8], header: &[u8]) -> millstream_core::Records {
    let mut bytes = Vec::new();
    let header = Header { key: b"__value_schema_id", value: Some(header) };
    Headers::encode([header].into_iter(), &mut bytes);
    let mut builder = RecordsBuilder::new();
    let headers = Headers(&bytes);
    builder.push(Record { offset: 0, timestamp: 0, key: None, value: Some(value), headers });
    builder.finish(1)
}

#[test]
fn a_header_names_the_schema_of_avro_and_of_protobuf() {
    let mut registry = Registry::new([(1, INT)]);
    let known = Arc::get_mut(&mut registry).unwrap();
    let proto = "syntax = \"proto3\"; message A {} message B { int32 x = 1; }";
    known.schemas.insert(2, (SchemaKind::Protobuf, proto.into()));
    known.guids.extend([(Guid([7; 16]), 1), (Guid([8; 16]), 2)]);
    let guid = |byte: u8, beside: &[u8]| [&[1][..], &[byte; 16], beside].concat();

    let mut avro = decoder(&registry);
    let decoded = decode(&mut avro, &with_header(&[6], &guid(7, &[])));
    assert_eq!(decoded.batch.rows.column(0).as_primitive::<Int64Type>().values(), &[3]);
    let decoded = decode(&mut avro, &with_header(&[6], &guid(7, &[0])));
    assert!(decoded.rejected[0].reason.contains("left over"), "{:?}", decoded.rejected);
    // The frame of sixteen bytes may stand before the value too.
    let decoded = decode(&mut avro, &records_of(&[guid(7, &[6])]));
    assert_eq!(decoded.batch.len(), 1);

    let options = ProtobufOptions {
        framing: protobuf::Framing::Confluent,
        reader_schema: proto.to_owned(),
        references: Vec::new(),
        message: Some("B".to_owned()),
        columns: None,
        record_bytes_max: 1 << 20,
    };
    let mut decoder = ProtobufDecoder::new(options, registry).unwrap();
    let decoded = decode(&mut decoder, &with_header(&[8, 5], &guid(8, &[2, 2])));
    assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
    assert_eq!(decoded.batch.rows.column(0).as_primitive::<Int32Type>().values(), &[5]);
    for (place, part) in [(&[][..], "message index"), (&[2, 2, 0], "goes on"), (&[0], "is a `A`")] {
        let decoded = decode(&mut decoder, &with_header(&[8, 5], &guid(8, place)));
        assert!(decoded.rejected[0].reason.contains(part), "{part}: {:?}", decoded.rejected);
    }
}
