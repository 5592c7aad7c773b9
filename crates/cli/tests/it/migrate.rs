//! From one machine to Kafka: a pipeline that goes on there where it stopped here.

use crate::program::{Program, eventually};
use crate::registry::{Elsewhere, request};
use millstream_log::{Log, Reader};
use millstream_testkit::events::{Checker, Event, Fate, Generator};
use millstream_testkit::services::{self, unique};
use serde_json::Value;
use std::io::Write;
use std::process::Stdio;

const PARTITIONS: u32 = 4;
const COLUMNS: &str = "{ key: string, seq: bigint, fate: string, crc: string, number: string }";
const DATA: &str = "millstream-data";

#[test]
fn a_pipeline_goes_on_from_kafka_where_it_stopped_on_the_embedded_log() {
    let Some(kafka) = services::kafka() else { return };
    let brokers = kafka.bootstrap();
    let topic = unique("moved");
    let registry = Elsewhere::start();
    let program = Program::new();
    let source = format!(
        "source: {{ file: events.jsonl, follow: true, format: {{ json: {{ columns: {COLUMNS} }} }} }}"
    );
    program.write(
        "feed.yaml",
        format!(
            "pipeline: {topic}-feed\n{source}\nsinks: [{{ topic: {topic}, partitions: {PARTITIONS}, \
             key: key, format: avro }}]\n"
        ),
    );
    let work = |reads: &str, out: &str| {
        format!(
            "pipeline: {topic}\nsource:\n  {reads}\n  format: avro\nsteps:\n  - sql: SELECT * FROM \
             input WHERE fate <> 'drop'\nsinks: [{{ topic: {out}, partitions: 1, key: key, format: \
             json }}]\n"
        )
    };
    program.write("work.yaml", work(&format!("topic: {topic}"), "before"));
    let elsewhere = format!("registry: {{ url: [\"{}\"] }}\n", registry.url());
    let there = format!("kafka: {{ brokers: [\"{brokers}\"], topic: {topic} }}");
    program.write("new-work.yaml", elsewhere.clone() + &work(&there, "after"));
    program.write(
        "new-feed.yaml",
        format!(
            "{elsewhere}pipeline: {topic}-feed\n{source}\nsinks: [{{ {there}, key: key, format: \
             avro }}]\n"
        ),
    );
    // So that the topic's schema has not the id that an empty registry would give it.
    program.write("other.avsc", r#"{"type": "record", "name": "Other", "fields": []}"#);
    program.ok(&["schemas", "register", "other", "other.avsc"]);

    let mut generator = Generator::new(7, 40);
    let mut checker = Checker::default();
    let mut events = || {
        let events: Vec<Event> = (0..1_500)
            .map(|_| generator.event())
            .map(|event| match event.fate {
                Fate::Dead => Event::new(event.key, event.seq, Fate::Out),
                _ => event,
            })
            .collect();
        events.iter().for_each(|event| checker.sent(event));
        events
    };
    let parts = [events(), events(), events()];
    program.write("events.jsonl", lines(&parts[0]));

    let running = program.start(&["feed.yaml", "work.yaml"]);
    eventually("the first part is out", || {
        (rows(&program, "before") >= going_out(&parts[0])).then_some(())
    });
    let said = program.run(&["migrate", "new-work.yaml"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("a process runs on"), "{}", said.err);
    assert_eq!(running.end(), 0);

    // What the pipeline has not read yet, and the oldest records given up, within a batch.
    append(&program, &parts[1]);
    let running = program.start(&["feed.yaml"]);
    let all = (parts[0].len() + parts[1].len()) as u64;
    eventually("the second part is in the topic", || (rows(&program, &topic) >= all).then_some(()));
    assert_eq!(running.end(), 0);
    {
        let log = Log::open(&program.path(DATA).join("log"), Default::default()).unwrap();
        let first = log.topic(&topic).unwrap().partition(1).unwrap();
        assert_eq!(first.delete_before(7).unwrap(), 7);
    }

    let said = program.run(&["migrate", "work.yaml"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("has become") && said.err.contains("kafka: {"), "{}", said.err);
    let files = ["migrate", "new-work.yaml", "new-feed.yaml"];
    let plan = program.json(&[&files[..], &["--dry-run"]].concat());
    assert_eq!(plan["topics"][0]["created"], true, "{plan}");
    assert_eq!(plan["topics"][0]["copied"], all - 7, "{plan}");
    assert_eq!(plan["schemas"][0]["copied"], 2, "{plan}");

    // Killed while it copies; the next goes on.
    let mut child = program.command(&files).stdout(Stdio::null()).spawn().unwrap();
    let record = program.path(DATA).join("migrate.json");
    eventually("it has begun to copy", || record.exists().then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    // As an earlier one may have left it.
    let mode = format!("{}/mode/other?force=true", registry.url());
    request("PUT", &mode, &serde_json::json!({"mode": "IMPORT"}));
    let done = program.json(&files);
    let mode = request(
        "GET",
        &format!("{}/mode/other?defaultToGlobal=true", registry.url()),
        &Value::Null,
    );
    assert_ne!(mode["mode"], "IMPORT", "{mode}");
    assert_eq!(done["topics"][0]["created"], false, "{done}");
    assert_eq!(done["topics"][0]["continued"], true, "{done}");
    assert_eq!(done["topics"][0]["offsets"], "shifted", "{done}");
    assert_eq!(done["pipelines"][0]["group"], topic, "{done}");
    let again = program.json(&files);
    assert_eq!(again["topics"][0]["copied"], 0, "{again}");
    assert_eq!(again["schemas"][0]["there"], 2, "{again}");
    assert_eq!(again["pipelines"][0]["set"], false, "{again}");

    let running = program.start(&["new-feed.yaml", "new-work.yaml"]);
    append(&program, &parts[2]);
    let due = going_out(&parts[1]) + going_out(&parts[2]);
    eventually("the rest is out", || (rows(&program, "after") >= due).then_some(()));
    assert_eq!(running.end(), 0);
    // It has gone on over there, and is left alone.
    let again = program.json(&files);
    assert_eq!(again["topics"][0]["copied"], 0, "{again}");

    let mut found = collected(&program, "before");
    found.extend(collected(&program, "after"));
    checker.arrived("both topics", Fate::Out, &found, true, 0);
    assert_eq!(checker.faults(), []);
}

#[test]
fn what_cannot_be_moved_is_refused_and_changes_nothing() {
    let Some(kafka) = services::kafka() else { return };
    let brokers = kafka.bootstrap();
    let program = Program::new();
    let small = unique("small");
    for (topic, partitions) in [(&small, "2"), (&format!("{small}-b"), "2")] {
        program.ok(&["topics", "create", topic, "--partitions", partitions]);
    }
    let lines: String = (0..300).map(|n| format!("{n}:{}\n", "x".repeat(100))).collect();
    assert_eq!(program.feed(&["produce", &small, "--key-separator", ":"], &lines).code, 0);
    let file = |topic: &str| {
        let text = format!(
            "pipeline: p\nsource: {{ kafka: {{ brokers: [\"{brokers}\"], topic: {topic} }}, format: {{ \
             json: {{ columns: {{ a: bigint }} }} }} }}\nsinks: [{{ discard: true }}]\n"
        );
        program.write("p.yaml", text);
    };

    file(&format!("{small}-none"));
    let said = program.run(&["migrate", "p.yaml"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("neither the pipeline `p` nor a topic"), "{}", said.err);

    let other = format!("{small}-b");
    kafka.create_topic(&other, 3, &[]);
    file(&other);
    let said = program.run(&["migrate", "p.yaml"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("has 3 partitions and"), "{}", said.err);

    // A topic that takes small batches only, made by hand.
    kafka.create_topic(&small, 2, &[("max.message.bytes", "1000")]);
    file(&small);
    let done = program.json(&["migrate", "p.yaml"]);
    assert_eq!(done["topics"][0]["copied"], 300, "{done}");
    assert_eq!(done["topics"][0]["offsets"], "same", "{done}");
    // Without what it knows of its own copy, it is a topic of others.
    std::fs::remove_file(program.path(DATA).join("migrate.json")).unwrap();
    let said = program.run(&["migrate", "p.yaml"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("records already"), "{}", said.err);
}

#[test]
fn an_id_that_means_another_schema_stops_the_move() {
    let Some(kafka) = services::kafka() else { return };
    let registry = Elsewhere::start();
    let program = Program::new();
    let topic = unique("clash");
    program.ok(&["topics", "create", &topic]);
    program.write("a.avsc", r#"{"type": "record", "name": "A", "fields": []}"#);
    program.ok(&["schemas", "register", "a", "a.avsc"]);
    crate::registry::register(&registry.url(), "b", "AVRO", r#""string""#);
    program.write(
        "p.yaml",
        format!(
            "pipeline: p\nregistry: {{ url: [\"{}\"] }}\nsource: {{ kafka: {{ brokers: [\"{}\"], \
             topic: {topic} }}, format: avro }}\nsinks: [{{ discard: true }}]\n",
            registry.url(),
            kafka.bootstrap()
        ),
    );
    let said = program.run(&["migrate", "p.yaml"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("id 1, which records here carry for `a`"), "{}", said.err);
    assert!(!program.path(DATA).join("migrate.json").exists());
}

fn lines(events: &[Event]) -> String {
    events.iter().map(|event| event.line() + "\n").collect()
}

fn append(program: &Program, events: &[Event]) {
    let path = program.path("events.jsonl");
    let mut file = std::fs::File::options().append(true).open(path).unwrap();
    file.write_all(lines(events).as_bytes()).unwrap();
}

fn going_out(events: &[Event]) -> u64 {
    events.iter().filter(|event| event.fate == Fate::Out).count() as u64
}

/// Records of a topic, while `run` is up.
fn rows(program: &Program, topic: &str) -> u64 {
    let topics: Value = program.json(&["topics", "list"]);
    let topics = topics.as_array().unwrap();
    let found = topics.iter().find(|row| row["name"] == topic);
    found.map_or(0, |row| row["records"].as_u64().unwrap())
}

fn collected(program: &Program, topic: &str) -> Vec<Event> {
    let log = Log::open_read_only(&program.path(DATA).join("log")).unwrap();
    let partition = log.topic(topic).unwrap().partition(0).unwrap();
    let mut reader = Reader::new(&partition, 0, 1 << 20).unwrap();
    let mut events = Vec::new();
    while let Some(records) = reader.try_next().unwrap() {
        for record in records.iter() {
            events.push(serde_json::from_slice(record.value.unwrap()).unwrap());
        }
    }
    events
}
