//! A pipeline file that names real Cassandra, as look-up and as sink.

use crate::program::{Program, eventually};
use millstream_testkit::events::{Checker, Event, Fate, Generator};
use millstream_testkit::services::{self, Cassandra, unique};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;

const COLUMNS: &str = "{ key: string, seq: bigint, fate: string, crc: string, number: string }";
const KEYS: u64 = 40;

/// A keyspace of one's own.
struct Store {
    cassandra: Cassandra,
    keyspace: String,
    runtime: Runtime,
    session: Session,
}

impl Store {
    fn new() -> Option<Self> {
        let cassandra = services::cassandra()?;
        let runtime = Runtime::new().unwrap();
        let files = cassandra.files();
        let builder =
            SessionBuilder::new().known_nodes(cassandra.nodes()).user(&files.user, &files.password);
        let session = builder.build();
        let session = runtime.block_on(session).unwrap();
        let store =
            Self { cassandra, keyspace: unique("pipe").replace('-', "_"), runtime, session };
        let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
        store.cql(&format!("CREATE KEYSPACE KS WITH replication = {replication}"));
        store.cql("CREATE TABLE KS.places (key text PRIMARY KEY, place text, since timestamp)");
        store.cql(
            "CREATE TABLE KS.events (key text, seq bigint, fate text, crc text, number text, \
             place text, PRIMARY KEY (key, seq))",
        );
        for key in 0..KEYS {
            store.cql(&format!(
                "INSERT INTO KS.places (key, place) VALUES ('k{key}', 'place-{key}')"
            ));
        }
        Some(store)
    }

    /// Executes a statement; `KS` in it is the keyspace.
    fn cql(&self, statement: &str) {
        let statement = statement.replace("KS", &self.keyspace);
        let done = self.runtime.block_on(self.session.query_unpaged(statement.as_str(), ()));
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    /// What was stored, with what the look-up found.
    fn events(&self) -> Vec<Event> {
        let text =
            format!("SELECT key, seq, fate, crc, number, place FROM {}.events", self.keyspace);
        let rows = self.runtime.block_on(self.session.query_unpaged(text, ())).unwrap();
        let rows = rows.into_rows_result().unwrap();
        let rows = rows.rows::<(String, i64, String, String, String, String)>().unwrap();
        let mut events: Vec<Event> = rows
            .map(|row| {
                let (key, seq, fate, crc, number, place) = row.unwrap();
                assert_eq!(place, key.replace('k', "place-"));
                let row = serde_json::json!({
                    "key": key, "seq": seq, "fate": fate, "crc": crc, "number": number
                });
                serde_json::from_value(row).unwrap()
            })
            .collect();
        events.sort_by_key(|event| event.seq);
        events
    }

    /// The options of the cluster, as a pipeline file has them.
    fn cluster(&self) -> String {
        let nodes: Vec<_> = self.cassandra.nodes().iter().map(|n| format!("\"{n}\"")).collect();
        let files = self.cassandra.files();
        format!(
            "nodes: [{}], username: {}, password: {{ file: password }}, keyspace: {}",
            nodes.join(", "),
            files.user,
            self.keyspace
        )
    }

    fn program(&self) -> Program {
        let program = Program::new();
        let path = program.write("password", self.cassandra.files().password + "\n");
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        program.write("p.yaml", self.pipeline("", ""));
        program
    }

    fn pipeline(&self, lookup: &str, sink: &str) -> String {
        let cluster = self.cluster();
        format!(
            "pipeline: p
source: {{ file: events.jsonl, follow: true, format: {{ json: {{ columns: {COLUMNS} }} }} }}
lookups:
  places:
    cql: {{ {cluster}, table: places{lookup} }}
    cache: {{ max_entries: 20, ttl: 1s }}
steps:
  - sql: |
      SELECT i.key, i.seq, i.fate, i.crc, i.number, p.place
      FROM input i JOIN places p ON p.key = i.key
      WHERE i.fate <> 'drop' AND CAST(i.number AS BIGINT) >= 0
sinks: [{{ cql: {{ {cluster}, table: events{sink} }} }}]
max_dead_ratio: 1
batch: {{ max_rows: 50 }}
"
        )
    }
}

fn append(program: &Program, lines: &str) {
    let path = program.path("events.jsonl");
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(lines.as_bytes()).unwrap();
}

#[test]
fn rows_are_looked_up_and_stored_across_kills() {
    let Some(store) = Store::new() else { return };
    let program = store.program();
    append(&program, "");
    program.ok(&["check", "p.yaml"]);
    let mut generator = Generator::new(71, KEYS);
    let mut checker = Checker::default();
    let mut out = 0;
    for _ in 0..5 {
        let running = program.start(&["p.yaml"]);
        let events: Vec<Event> = (0..300).map(|_| generator.event()).collect();
        for part in events.chunks(60) {
            part.iter().for_each(|event| checker.sent(event));
            out += part.iter().filter(|event| event.fate == Fate::Out).count();
            append(&program, &part.iter().map(|event| event.line() + "\n").collect::<String>());
            std::thread::sleep(Duration::from_millis(30));
        }
        drop(running);
    }
    let running = program.start(&["p.yaml"]);
    eventually("all are stored", || (store.events().len() == out).then_some(()));
    assert_eq!(running.end(), 0);
    checker.arrived("out", Fate::Out, &store.events(), false, 0);
    assert_eq!(checker.faults(), []);
}

#[test]
fn a_key_that_the_store_refuses_costs_its_row() {
    let Some(store) = Store::new() else { return };
    let program = store.program();
    program.write("p.yaml", store.pipeline("", "").replace("follow: true, ", ""));
    // A key has at most 65,535 bytes.
    let long = "x".repeat(70_000);
    let lines = (0..KEYS).map(|n| {
        let key = if n == 17 { long.clone() } else { format!("k{n}") };
        let row = serde_json::json!({
            "key": key, "seq": n, "fate": "out", "crc": "c", "number": "1"
        });
        format!("{row}\n")
    });
    append(&program, &lines.collect::<String>());
    program.ok(&["run", "p.yaml", "--until-end", "--listen", "off"]);
    let stored: Vec<u64> = store.events().iter().map(|event| event.seq).collect();
    assert_eq!(stored, (0..KEYS).filter(|n| *n != 17).collect::<Vec<_>>());
    let letters = program.ok(&["dead-letters", "list"]);
    assert_eq!(letters.matches("Key length of").count(), 1, "{letters}");
}

#[test]
fn check_tells_what_the_store_has_not() {
    let Some(store) = Store::new() else { return };
    let program = store.program();
    append(&program, "");
    let told = |text: String| {
        program.write("p.yaml", text);
        let said = program.run(&["check", "p.yaml"]);
        assert_eq!(said.code, 2, "{}{}", said.out, said.err);
        said.err
    };
    let wrong = |from: &str, to: &str| told(store.pipeline("", "").replace(from, to));
    let text = wrong("table: places", "table: palces");
    assert!(text.contains("there is no table `palces`"), "{text}");
    let text = wrong("table: events", "table: evnets");
    assert!(text.contains("there is no table `evnets`"), "{text}");
    let text = wrong("ON p.key = i.key", "ON p.place = i.key");
    assert!(text.contains("it is asked by key"), "{text}");
    let text = wrong("i.crc, i.number", "i.crc, i.seq AS number");
    assert!(text.contains("column `number`"), "{text}");
    let text = wrong("i.key, i.seq,", "i.key,");
    assert!(text.contains("the rows have no `seq`"), "{text}");
    let text = told(store.pipeline(", columns: { key: string, place: bigint }", ""));
    assert!(text.contains("`place` of"), "{text}");
    assert!(text.contains("write `place: string`"), "{text}");
    let text = told(store.pipeline(", datacenter: dc7", ""));
    assert!(text.contains("no node is in the datacenter `dc7`; there is dc1"), "{text}");
    let text = told(store.pipeline("", ", datacenter: dc1, rack: r7"));
    assert!(text.contains("no node is in the rack `r7`; there is rack1"), "{text}");
    let text = told(store.pipeline("", ", ttl: 30000d"));
    assert!(text.contains("for 20 years at most"), "{text}");
    let text = told(store.pipeline("", ", ttl: 3d, ttl_column: crc"));
    assert!(text.contains("exclude each other"), "{text}");
    let secret = store.cassandra.files().password;
    program.write("password", "wrong");
    program.write("p.yaml", store.pipeline("", ""));
    let said = program.run(&["check", "p.yaml"]);
    assert!(said.err.contains("user") || said.err.contains("assword"), "{}", said.err);
    assert!(!said.err.contains(&secret));
}

#[test]
fn cases_run_without_the_cluster_where_columns_are_declared() {
    let program = Program::new();
    let pipeline = |columns: &str| {
        format!(
            "pipeline: p
source: {{ file: events.jsonl, format: {{ json: {{ columns: {{ key: string }} }} }} }}
lookups:
  places:
    cql: {{ nodes: [\"127.0.0.1:9\"], keyspace: k, table: places{columns} }}
steps: [{{ sql: \"SELECT i.key, p.place FROM input i JOIN places p ON p.key = i.key\" }}]
sinks: [{{ cql: {{ nodes: [\"127.0.0.1:9\"], keyspace: k, table: events }} }}]
"
        )
    };
    program.write(
        "p.test.yaml",
        "cases:
  - name: found
    input: [{ key: a }, { key: b }]
    lookups: { places: [{ key: a, place: here }] }
    expect: { rows: [{ key: a, place: here }], filtered: 1 }
",
    );
    program.write("events.jsonl", "");
    program.write("p.yaml", pipeline(", columns: { key: string, place: string }"));
    program.ok(&["test", "p.yaml"]);
    program.write("p.yaml", pipeline(""));
    let said = program.run(&["test", "p.yaml"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("declare its `columns:`"), "{}", said.err);
    let said = program.run(&["check", "p.yaml"]);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains("127.0.0.1:9 cannot be reached"), "{}", said.err);
}

#[test]
fn the_example_runs() {
    let Some(store) = Store::new() else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/cassandra");
    for statement in std::fs::read_to_string(folder.join("visits.cql")).unwrap().split(';') {
        if !statement.trim().is_empty() {
            store.cql(&statement.replace("shop", &store.keyspace));
        }
    }
    let program = Program::new();
    for file in ["visits.yaml", "visits.test.yaml", "visits.jsonl"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        program
            .write(file, text.replace("keyspace: shop", &format!("keyspace: {}", store.keyspace)));
    }
    let files = store.cassandra.files();
    let run = |args: &[&str]| {
        let mut command = program.command(args);
        command.env("CASSANDRA", store.cassandra.nodes()[0].as_str());
        command.env("CASSANDRA_USER", &files.user).env("CASSANDRA_PASSWORD", &files.password);
        let done = command.output().unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    run(&["check", "visits.yaml"]);
    assert!(run(&["test", "visits.yaml"]).contains("0 failed"));
    run(&["run", "visits.yaml", "--until-end", "--listen", "off"]);
    let text = format!("SELECT customer, page, name, TTL(page) FROM {}.visits", store.keyspace);
    let rows = store.runtime.block_on(store.session.query_unpaged(text, ())).unwrap();
    let rows = rows.into_rows_result().unwrap();
    let rows = rows.rows::<(i64, String, Option<String>, Option<i32>)>().unwrap();
    let mut rows: Vec<_> = rows.map(Result::unwrap).collect();
    rows.sort();
    assert!(rows.iter().all(|row| row.3.is_some()), "{rows:?}");
    let named: Vec<_> = rows.iter().map(|row| (row.0, &*row.1, row.2.as_deref())).collect();
    assert_eq!(
        named,
        [
            (1, "/", Some("Ada")),
            (1, "/cart", Some("Ada")),
            (2, "/cart", Some("Grace")),
            (3, "/", None)
        ]
    );
    assert!(program.ok(&["dead-letters", "list"]).contains("key is null"));
}

/// Slots of ten events of a key, each for the event that comes first.
fn claiming(cluster: &str) -> String {
    format!(
        "pipeline: p
source: {{ file: events.jsonl, follow: true, format: {{ json: {{ columns: {COLUMNS} }} }} }}
lookups:
  firsts:
    cql: {{ {cluster}, table: firsts, insert_if_not_exists: true, ttl: 3d }}
steps:
  - sql: |
      SELECT i.key, i.seq, f.applied, f.stored.seq AS first
      FROM input i
      LEFT JOIN firsts f
        ON f.key = i.key AND f.slot = i.seq / 10 AND f.place = i._offset AND f.seq = i.seq
      WHERE i.fate <> 'drop' AND CAST(i.number AS BIGINT) >= 0
sinks: [{{ cql: {{ {cluster}, table: outcomes }} }}]
max_dead_ratio: 1
batch: {{ max_rows: 50 }}
"
    )
}

/// An outcome that changes when an event is worked on again would be a row of its own.
fn claims(store: &Store) {
    store.cql(
        "CREATE TABLE KS.firsts (key text, slot bigint, place bigint, seq bigint, \
         PRIMARY KEY (key, slot))",
    );
    store.cql(
        "CREATE TABLE KS.outcomes (key text, seq bigint, applied boolean, first bigint, \
         PRIMARY KEY (key, seq, applied))",
    );
}

#[test]
fn each_key_is_claimed_by_its_first_event_across_kills() {
    let Some(store) = Store::new() else { return };
    claims(&store);
    let program = store.program();
    program.write("p.yaml", claiming(&store.cluster()));
    append(&program, "");
    program.ok(&["check", "p.yaml"]);
    let mut generator = Generator::new(5, KEYS);
    let mut sent: BTreeMap<(String, u64), Vec<u64>> = BTreeMap::new();
    let mut out = 0;
    for _ in 0..6 {
        let running = program.start(&["p.yaml"]);
        let events: Vec<Event> = (0..300).map(|_| generator.event()).collect();
        for part in events.chunks(60) {
            for event in part.iter().filter(|event| event.fate == Fate::Out) {
                sent.entry((event.key.clone(), event.seq / 10)).or_default().push(event.seq);
                out += 1;
            }
            append(&program, &part.iter().map(|event| event.line() + "\n").collect::<String>());
            std::thread::sleep(Duration::from_millis(40));
        }
        drop(running);
    }
    let running = program.start(&["p.yaml"]);
    let outcomes = || {
        let text = format!("SELECT key, seq, applied, first FROM {}.outcomes", store.keyspace);
        let rows = store.runtime.block_on(store.session.query_unpaged(text, ())).unwrap();
        let rows = rows.into_rows_result().unwrap();
        let rows = rows.rows::<(String, i64, bool, i64)>().unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>()
    };
    let outcomes = eventually("all have an outcome", || {
        let outcomes = outcomes();
        (outcomes.len() >= out).then_some(outcomes)
    });
    assert_eq!(running.end(), 0);
    assert_eq!(outcomes.len(), out, "an event has two outcomes");
    let mut first: BTreeMap<(String, u64), Vec<u64>> = BTreeMap::new();
    for (key, seq, applied, first_there) in outcomes {
        let (seq, slot) = (seq as u64, (key, seq as u64 / 10));
        assert_eq!(first_there as u64, sent[&slot][0], "{slot:?} {seq}");
        if applied {
            first.entry(slot).or_default().push(seq);
        }
    }
    let wanted: BTreeMap<_, _> =
        sent.into_iter().map(|(slot, seqs)| (slot, vec![seqs[0]])).collect();
    assert_eq!(first, wanted);
}

#[test]
fn what_is_shown_beforehand_claims_nothing() {
    let Some(store) = Store::new() else { return };
    claims(&store);
    let program = store.program();
    program.write("p.yaml", claiming(&store.cluster()));
    let events: Vec<Event> = [11, 12, 21].map(|seq| Event::new("k1".into(), seq, Fate::Out)).into();
    append(&program, &events.iter().map(|event| event.line() + "\n").collect::<String>());
    store.cql("INSERT INTO KS.firsts (key, slot, place, seq) VALUES ('k1', 2, -1, 20)");
    let shown = program.ok(&["run", "p.yaml", "--preview", "9"]);
    assert!(shown.contains("true") && shown.contains("false"), "{shown}");
    let text = format!("SELECT slot FROM {}.firsts", store.keyspace);
    let rows = store.runtime.block_on(store.session.query_unpaged(text, ())).unwrap();
    assert_eq!(rows.into_rows_result().unwrap().rows_num(), 1);
}

#[test]
fn check_tells_what_cannot_be_claimed() {
    let Some(store) = Store::new() else { return };
    claims(&store);
    store.cql(
        "CREATE TABLE KS.fixed (key text, slot bigint, s text static, PRIMARY KEY (key, slot))",
    );
    let program = store.program();
    append(&program, "");
    let told = |from: &str, to: &str| {
        let text = claiming(&store.cluster());
        assert!(text.contains(from));
        program.write("p.yaml", text.replace(from, to));
        let said = program.run(&["check", "p.yaml"]);
        assert_eq!(said.code, 2, "{}{}", said.out, said.err);
        said.err
    };
    let text = told(" AND f.slot = i.seq / 10", "");
    assert!(text.contains("is key, slot: the ON gives no `slot`"), "{text}");
    let text = told(" AND f.place = i._offset AND f.seq = i.seq", "");
    assert!(text.contains("no value beside its key"), "{text}");
    let text = told("f.seq = i.seq", "f.applied = true");
    assert!(text.contains("compare it in WHERE"), "{text}");
    let text = told("f.stored.seq AS", "f.stored.sec AS");
    assert!(text.contains("sec"), "{text}");
    let text = told("table: firsts", "table: fixed");
    assert!(text.contains("`s`") && text.contains("is static"), "{text}");
    let text = told("ttl: 3d", "ttl: 30000d");
    assert!(text.contains("for 20 years at most"), "{text}");
    let text = told("steps:", "    cache: { ttl: 1s }\nsteps:");
    assert!(text.contains("each row asks for itself"), "{text}");
}

#[test]
fn claims_are_tried_in_cases() {
    let program = Program::new();
    append(&program, "");
    let cluster = "nodes: [\"127.0.0.1:9\"], keyspace: k, \
                   columns: { key: string, slot: bigint, place: bigint, seq: bigint }";
    let text = claiming(cluster);
    // The sink has no `columns` of this kind.
    let text = text.replace(
        &format!("{cluster}, table: outcomes"),
        "nodes: [\"127.0.0.1:9\"], keyspace: k, table: o",
    );
    program.write("p.yaml", text);
    program.write(
        "p.test.yaml",
        "cases:
  - name: the first, one that comes later and one that nobody knows
    input:
      - { key: a, seq: 11, fate: out, number: '1' }
      - { key: a, seq: 12, fate: out, number: '1' }
      - { key: b, seq: 12, fate: out, number: '1' }
    lookups:
      firsts:
        - { key: a, slot: 1, place: 0, seq: 11, applied: true, stored: { seq: 11 } }
        - { key: a, slot: 1, place: 1, seq: 12, applied: false, stored: { seq: 11 } }
    expect:
      rows:
        - { key: a, seq: 11, applied: true, first: 11 }
        - { key: a, seq: 12, applied: false, first: 11 }
        - { key: b, seq: 12, applied: null, first: null }
",
    );
    program.ok(&["test", "p.yaml"]);
}

/// What the look-up's cache knows is asked for again when a topic of Kafka names its key.
#[test]
fn a_row_that_changed_is_seen_when_a_topic_says_so() {
    let (Some(store), Some(kafka)) = (Store::new(), services::kafka()) else { return };
    let program = store.program();
    append(&program, "");
    let topic = unique("changes");
    kafka.create_topic(&topic, 2, &[("cleanup.policy", "compact")]);
    let changes =
        format!("changes: {{ topic: {topic}, kafka: {{ brokers: [\"{}\"] }} }}", kafka.bootstrap());
    let text = store.pipeline("", "").replace("ttl: 1s", &format!("ttl: 1h, {changes}"));
    program.write("p.yaml", text);
    let running = program.start(&["p.yaml"]);
    let mut seq = 0;
    let mut place = || {
        seq += 1;
        append(&program, &(Event::new("k1".into(), seq, Fate::Out).line() + "\n"));
        let text =
            format!("SELECT place FROM {}.events WHERE key = 'k1' AND seq = {seq}", store.keyspace);
        eventually("the event is stored", || {
            let rows = store.runtime.block_on(store.session.query_unpaged(text.as_str(), ()));
            let rows = rows.unwrap().into_rows_result().unwrap();
            rows.maybe_first_row::<(String,)>().unwrap().map(|row| row.0)
        })
    };
    assert_eq!(place(), "place-1");
    store.cql("UPDATE KS.places SET place = 'elsewhere' WHERE key = 'k1'");
    assert_eq!(place(), "place-1", "nobody told");
    kafka.client().feeder().feed(&topic, 1, &[("k1".to_owned(), Vec::new())]);
    eventually("the change is seen", || (place() == "elsewhere").then_some(()));
    assert_eq!(running.end(), 0);
}
