//! Records with a JSON Schema in the registry, and with its GUID in a header.

use crate::harness::{Bench, file};
use millstream_core::{Header, Headers, Records, SchemaKind, Schemas};
use millstream_engine::{Catalog, plan_all};
use millstream_log::{BatchBuilder, Codec};
use serde_json::{Value, json};

const VISIT: &str = r#"{"type":"object","required":["id"],"properties":{
    "id":{"type":"integer"},"at":{"type":"string","format":"date-time"},
    "site":{"type":"object","properties":{"name":{"type":"string"},"size":{"type":"integer"}}},
    "other":{"type":"string"}}}"#;

const PIPELINE: &str = "pipeline: p
source:
  topic: visits
  format: json_schema
steps:
  - sql: SELECT id, at, site['name'] AS site FROM input WHERE id < 10
sinks:
  - topic: out
    format: json_schema
";

#[tokio::test(flavor = "multi_thread")]
async fn records_with_a_json_schema_go_through() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("visits", 1);
    let registry = &bench.home.registry;
    let id = Schemas::register(registry, "visits-value", SchemaKind::Json, VISIT).await.unwrap();
    let older = r#"{"type":"object","properties":{"id":{"type":"integer"}}}"#;
    let older = Schemas::register(registry, "older", SchemaKind::Json, older).await.unwrap();
    let guid = registry.by_id(id).unwrap().guid;
    let name = [&[1][..], &guid.0].concat();

    let mut builder = BatchBuilder::new(Codec::None);
    let framed = |id: u32, record: &str| [&[0][..], &id.to_be_bytes(), record.as_bytes()].concat();
    let visit =
        r#"{"id":1,"at":"2024-05-31T14:00:00+02:00","site":{"name":"a","size":2},"other":"x"}"#;
    let values = [
        framed(id, visit),
        framed(older, r#"{"id":2}"#),
        framed(id, r#"{"id":3,"site":{"name":4}}"#),
        framed(id, r#"{"id":50}"#),
        framed(77, r#"{"id":5}"#),
    ];
    for value in &values {
        builder.push(1_000, None, Some(value), &[]);
    }
    let header = [Header { key: b"__value_schema_id", value: Some(&name) }];
    let mut headers = Vec::new();
    Headers::encode(header.into_iter(), &mut headers);
    builder.push(1_000, None, Some(br#"{"id":6,"site":{"name":"b"}}"#), &headers);
    bench.append("visits", 0, builder).await;

    bench.start(&[file(dir.path(), "p.yaml", PIPELINE)]).await;
    bench.idle().await;
    assert_eq!(bench.counts("p"), (6, 3, 1, 2));
    let schema = registry.latest("out-value").await.unwrap().unwrap();
    assert_eq!(schema.kind, SchemaKind::Json);
    let text: Value = serde_json::from_str(&schema.text).unwrap();
    assert_eq!((&text["title"], &text["required"]), (&json!("out"), &json!(["id"])));
    let records = bench.records("out");
    let rows: Vec<Value> = records
        .iter()
        .flat_map(Records::iter)
        .map(|record| {
            let (frame, row) = record.value.unwrap().split_at(5);
            assert_eq!(frame, [&[0][..], &schema.id.to_be_bytes()].concat());
            serde_json::from_slice(row).unwrap()
        })
        .collect();
    assert_eq!(
        rows,
        [
            json!({"id": 1, "at": "2024-05-31T12:00:00Z", "site": "a"}),
            json!({"id": 2, "at": null, "site": null}),
            json!({"id": 6, "at": null, "site": "b"}),
        ]
    );
    let reasons: Vec<_> = bench.letters("p.dead").into_iter().map(|l| l.reason).collect();
    assert!(reasons[0].contains("at /site/name: expected string, found 4"), "{reasons:?}");
    assert!(reasons[1].contains("schema id 77"), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_another_kind_is_a_mistake_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("visits", 1);
    let registry = &bench.home.registry;
    Schemas::register(registry, "visits-value", SchemaKind::Json, VISIT).await.unwrap();
    let mistakes = async |text: &str| {
        let file = file(dir.path(), "p.yaml", text);
        let planned = plan_all(&[file], &mut Catalog::new(bench.home.clone())).await;
        planned.err().map(|mistakes| mistakes.render(false)).unwrap_or_default()
    };
    assert_eq!(mistakes(PIPELINE).await, "");
    let avro =
        mistakes(&PIPELINE.replace("format: json_schema\nsteps", "format: avro\nsteps")).await;
    assert!(avro.contains("subject `visits-value` has JSON schemas, not Avro ones"), "{avro}");
    // A closed schema of before does not take rows with another property.
    let closed = r#"{"type":"object","properties":{"id":{"type":"string"}},
        "additionalProperties":false}"#;
    Schemas::register(registry, "out-value", SchemaKind::Json, closed).await.unwrap();
    let out = mistakes(PIPELINE).await;
    assert!(out.contains("not compatible with subject `out-value`"), "{out}");
}
