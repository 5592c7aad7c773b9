//! Files that are right.

use crate::read;
use millstream_config::*;
use std::path::PathBuf;

const NAVIGATION: &str = include_str!("navigation.yaml");

#[test]
fn the_navigation_pipeline_is_read_whole() {
    let pipeline = read(NAVIGATION).unwrap();
    insta::assert_json_snapshot!(pipeline.spec);
}

#[test]
fn little_is_needed() {
    let text = "pipeline: p\nsource: { topic: t, format: avro }\nsinks: [{ discard: true }]\n";
    let spec = read(text).unwrap().spec;
    assert_eq!(spec.dead_letters_topic(), "p.dead");
    assert_eq!(spec.source.name(), "t");
    assert_eq!(spec.source.max_record_bytes, Size(8 << 20));
    assert_eq!((spec.batch.max_rows, spec.batch.max_bytes), (2048, Size(512 << 10)));
    assert_eq!((spec.in_flight.batches, spec.in_flight.bytes), (8, Size(64 << 20)));
    assert_eq!(spec.max_dead_ratio, Ratio(0.05));
    assert_eq!(spec.commit_interval, Period::millis(100));
    assert_eq!((spec.delivery, spec.transaction_timeout), (Delivery::AtLeastOnce, None));
    assert_eq!(spec.input_of_sink(0), Input::Source);
    assert_eq!(spec.sinks[0].label(), "discard");
    let SourceFrom::Topic(topic) = &spec.source.from else { panic!("a topic") };
    assert_eq!(topic.start, StartAt::Earliest);
}

#[test]
fn formats_are_a_word_or_options() {
    for (format, wanted) in [
        ("avro", DecodeSpec::Avro(AvroDecode::default())),
        ("json", DecodeSpec::Json(JsonDecode::default())),
        ("{ avro: { framing: bare, schema_file: s.avsc } }", {
            let schema_file = Some(PathBuf::from("s.avsc"));
            DecodeSpec::Avro(AvroDecode { framing: Framing::Bare, subject: None, schema_file })
        }),
        ("json_schema", DecodeSpec::JsonSchema(JsonSchemaDecode::default())),
        ("{ json_schema: { subject: s } }", {
            let subject = Some("s".to_owned());
            DecodeSpec::JsonSchema(JsonSchemaDecode { subject, ..JsonSchemaDecode::default() })
        }),
        ("protobuf", DecodeSpec::Protobuf(ProtobufDecode::default())),
        ("{ protobuf: { schema_file: s.proto, message: Order } }", {
            let (schema_file, message) = (Some(PathBuf::from("s.proto")), Some("Order".to_owned()));
            DecodeSpec::Protobuf(ProtobufDecode {
                schema_file,
                message,
                ..ProtobufDecode::default()
            })
        }),
        ("text", DecodeSpec::Text(TextDecode::default())),
    ] {
        let text = format!(
            "pipeline: p\nsource: {{ topic: t, format: {format} }}\nsinks: [discard: true]\n"
        );
        assert_eq!(read(&text).unwrap().spec.source.format, wanted, "{format}");
    }
}

#[test]
fn a_registry_is_the_pipelines_or_a_sources_or_a_sinks_own() {
    let text = "
pipeline: p
registry: { url: [http://all:8081] }
source: { topic: t, format: avro }
sinks:
  - { topic: a, format: avro }
  - topic: b
    format: { avro: { subject_strategy: topic_record } }
    registry: { url: [https://own], username: ann, password: hunter2, auto_register: true }
  - { discard: true }
";
    let spec = read(text).unwrap().spec;
    let all = spec.source_registry().unwrap();
    assert_eq!(
        (all.url.as_slice(), all.auto_register),
        (["http://all:8081".to_owned()].as_slice(), false)
    );
    assert_eq!(all.timeout, Period::seconds(10));
    assert_eq!(spec.sink_registry(0), Some(all));
    let own = spec.sink_registry(1).unwrap();
    assert_eq!(own.url, ["https://own"]);
    assert!(own.auto_register);
    assert!(!format!("{own:?} {}", serde_json::to_string(own).unwrap()).contains("hunter2"));
    let SinkTo::Topic(sink) = &spec.sinks[1].to else { panic!("a topic") };
    let EncodeSpec::Avro(avro) = &sink.format else { panic!("avro") };
    assert_eq!(avro.subject.strategy, SubjectStrategy::TopicRecord);
    let text = text.replace(
        "registry: { url: [http://all:8081] }\nsource: { topic: t, ",
        "source: { topic: t, registry: { url: [http://one] }, ",
    );
    let spec = read(&text).unwrap().spec;
    assert_eq!(spec.source_registry().unwrap().url, ["http://one"]);
    assert_eq!(spec.sink_registry(0), None, "the embedded one");
}

#[test]
fn columns_keep_their_order_and_types() {
    let text = r#"
pipeline: p
source:
  file: x.csv
  header: true
  format: { csv: { columns: { z: bigint, a: "decimal(10, 2)", m: "string[]" }, delimiter: tab } }
sinks: [{ discard: true }]
"#;
    let spec = read(text).unwrap().spec;
    let DecodeSpec::Csv(csv) = &spec.source.format else { panic!("csv") };
    let columns: Vec<String> = csv.columns.0.iter().map(|(n, t)| format!("{n} {t}")).collect();
    assert_eq!(columns, ["z bigint", "a decimal(10, 2)", "m string[]"]);
    assert_eq!(csv.columns.schema().field(0).name(), "z");
    assert_eq!((csv.delimiter, csv.quote), (Delimiter(b'\t'), Delimiter(b'"')));
}

#[test]
fn steps_and_sinks_branch() {
    let text = "
pipeline: p
source: { topic: t, format: json }
steps:
  - { name: all, sql: SELECT * FROM input }
  - { name: errors, sql: SELECT * FROM input WHERE status > 399 }
  - { name: good, from: all, sql: SELECT * FROM input WHERE status < 400 }
  - { sql: SELECT 1 AS one FROM input }
sinks:
  - { topic: errors, from: errors, format: json }
  - { topic: good, from: good, format: json }
  - { topic: raw, from: source, format: avro }
  - { discard: true }
";
    let spec = read(text).unwrap().spec;
    let steps: Vec<Input> = (0..4).map(|step| spec.input_of_step(step)).collect();
    assert_eq!(steps, [Input::Source, Input::Step(0), Input::Step(0), Input::Step(2)]);
    let sinks: Vec<Input> = (0..4).map(|sink| spec.input_of_sink(sink)).collect();
    assert_eq!(sinks, [Input::Step(1), Input::Step(2), Input::Source, Input::Step(3)]);
    assert_eq!((spec.step_label(1).as_str(), spec.step_label(3).as_str()), ("errors", "step 4"));
}

#[test]
fn a_spec_survives_a_round_trip_through_json() {
    let spec = read(NAVIGATION).unwrap().spec;
    let json = serde_json::to_value(&spec).unwrap();
    assert_eq!(serde_json::from_value::<PipelineSpec>(json).unwrap(), spec);
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_change_nothing() {
    let windows = format!("\u{feff}{}", NAVIGATION.replace('\n', "\r\n"));
    let (plain, windows) = (read(NAVIGATION).unwrap(), read(&windows).unwrap());
    assert_eq!(plain.spec, windows.spec);
    for path in ["/steps/0/sql", "/sinks/1/key", "/dead_letters/topic"] {
        assert_eq!(plain.places().of(path), windows.places().of(path), "{path}");
    }
}

#[test]
fn variables_stand_in_for_any_value() {
    let text = "
pipeline: ${NAME:-p}
source: { topic: \"${TOPIC}\", format: \"${NONE:-json}\", max_record_bytes: \"${SIZE:-1MiB}\" }
batch:
  max_rows: ${ROWS}
in_flight: { batches: \"${BATCHES:-3}\" }
steps:
  - sql: SELECT '$${TOPIC}' AS t, '$5' AS price, ${COLUMN} FROM input
sinks:
  - { table: x, key: [\"${COLUMN}\"] }
metrics:
  buckets: [\"${B:-0.5}\", 1]
";
    let spec = read(text).unwrap().spec;
    assert_eq!((spec.pipeline.as_str(), spec.source.name().as_str()), ("p", "navigation"));
    assert_eq!(spec.source.format, DecodeSpec::Json(JsonDecode::default()));
    assert_eq!((spec.batch.max_rows, spec.in_flight.batches), (512, 3));
    assert_eq!(spec.source.max_record_bytes, Size(1 << 20));
    let sql = "SELECT '${TOPIC}' AS t, '$5' AS price, a_much_longer_column FROM input";
    assert_eq!(spec.steps[0].sql, sql);
    assert_eq!(spec.metrics.buckets, Some(vec![0.5, 1.0]));

    let follow = "pipeline: p\nsource: { file: f, follow: \"${FOLLOW}\", format: text }\n\
                  sinks: [discard: true]\n";
    let SourceFrom::File(file) = read(follow).unwrap().spec.source.from else { panic!("a file") };
    assert!(file.follow);
}

#[test]
fn aliases_repeat_a_value() {
    let text = "
pipeline: p
source: { topic: t, format: json }
lookups:
  a: { table: a, cache: &cache { max_entries: 5, ttl: 1m } }
  b: { table: b, cache: *cache }
sinks: [discard: true]
";
    let spec = read(text).unwrap().spec;
    assert_eq!(spec.lookups["a"].cache, spec.lookups["b"].cache);
    assert_eq!(spec.lookups["b"].cache.max_entries, 5);
}

#[test]
fn sinks_have_names_of_their_own() {
    let text = "
pipeline: p
source: { topic: t, format: json }
sinks:
  - { table: visits, key: [id] }
  - { topic: visits, format: json }
  - { topic: other, format: json }
  - { name: second, topic: other, format: avro }
";
    let spec = read(text).unwrap().spec;
    let labels: Vec<String> = (0..4).map(|sink| spec.sink_label(sink)).collect();
    assert_eq!(labels, ["table visits", "topic visits", "other", "second"]);
}

#[test]
fn a_kafka_cluster_is_read_and_written_with_the_defaults_that_the_help_promises() {
    let text = "
pipeline: p
source:
  kafka:
    brokers: [a:9092, b:9092]
    pattern: orders\\..*
    sasl: { mechanism: scram-sha-256, username: u, password: hunter2 }
    tls: { ca: ca.pem }
  format: json
sinks:
  - kafka: { brokers: [a:9092], topic_column: to }
    key: id
    format: json
dead_letters: { topic: dead, kafka: { brokers: [a:9092] } }
";
    let spec = read(text).unwrap().spec;
    let SourceFrom::Kafka(from) = &spec.source.from else { panic!("kafka") };
    let from = &from.kafka;
    assert_eq!((from.start, from.isolation), (KafkaStart::Earliest, Isolation::ReadCommitted));
    assert_eq!((from.on_lost_offset, from.protocol), (LostOffset::Hold, GroupProtocol::Auto));
    assert_eq!(from.session_timeout, Period::seconds(45));
    assert_eq!(spec.source.name(), "orders\\..*");
    let sasl = from.cluster.sasl.as_ref().unwrap();
    assert_eq!(sasl.password.as_ref().unwrap().reveal(), "hunter2");
    assert!(!format!("{spec:?}").contains("hunter2"));
    let SinkTo::Kafka(to) = &spec.sinks[0].to else { panic!("kafka") };
    assert_eq!((to.compression, to.kafka.label()), (Compression::Lz4, "to"));
    assert!(spec.dead_letters.unwrap().kafka.is_some());
}
