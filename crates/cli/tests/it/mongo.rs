//! A pipeline file that names a real server of MongoDB's protocol, as look-up and as sink.

use crate::program::{Program, eventually};
use millstream_testkit::events::{Checker, Event, Fate, Generator};
use millstream_testkit::proxy::{Direction, Fault, Proxy};
use millstream_testkit::services::{self, Mongo, unique};
use mongodb::Client;
use mongodb::bson::{Document, doc, oid::ObjectId};
use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;

const COLUMNS: &str = "{ key: string, seq: bigint, fate: string, crc: string, number: string }";
const KEYS: u64 = 40;

/// A database of one's own.
struct Store {
    mongo: Mongo,
    database: String,
    runtime: Runtime,
    client: Client,
}

impl Store {
    fn new() -> Option<Self> {
        let mongo = services::mongo()?;
        let runtime = Runtime::new().unwrap();
        let uri = format!("mongodb://{}/", mongo.address());
        let client = runtime.block_on(Client::with_uri_str(uri)).unwrap();
        let store = Self { mongo, database: unique("pipe").replace('-', "_"), runtime, client };
        store.fill(
            "places",
            (0..KEYS).map(|key| doc! { "_id": format!("k{key}"), "place": format!("place-{key}") }),
        );
        Some(store)
    }

    fn fill(&self, collection: &str, documents: impl IntoIterator<Item = Document>) {
        let collection = self.client.database(&self.database).collection(collection);
        self.runtime.block_on(async { collection.insert_many(documents).await }).unwrap();
    }

    fn stored(&self, collection: &str) -> Vec<Document> {
        let collection = self.client.database(&self.database).collection(collection);
        self.runtime.block_on(async {
            let mut cursor = collection.find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
            let mut all = Vec::new();
            while cursor.advance().await.unwrap() {
                all.push(cursor.deserialize_current().unwrap());
            }
            all
        })
    }

    /// What was stored, with what the look-up found.
    fn events(&self) -> Vec<Event> {
        let read = |document: &Document| {
            let text = |name: &str| document.get_str(name).unwrap().to_owned();
            assert_eq!(text("place"), text("key").replace('k', "place-"));
            serde_json::from_value(serde_json::json!({
                "key": text("key"), "seq": document.get_i64("seq").unwrap(), "fate": text("fate"),
                "crc": text("crc"), "number": text("number"),
            }))
            .unwrap()
        };
        let mut events: Vec<Event> = self.stored("events").iter().map(read).collect();
        events.sort_by_key(|event| event.seq);
        events
    }

    fn pipeline(&self, lookup: &str, sink: &str) -> String {
        self.pipeline_at(self.mongo.address(), lookup, sink)
    }

    fn pipeline_at(&self, host: SocketAddr, lookup: &str, sink: &str) -> String {
        let database = &self.database;
        let cluster = format!("hosts: [\"{host}\"], database: {database}");
        format!(
            "pipeline: p
source: {{ file: events.jsonl, follow: true, format: {{ json: {{ columns: {COLUMNS} }} }} }}
lookups:
  places:
    mongodb: {{ {cluster}, collection: places{lookup} }}
    cache: {{ max_entries: 20, ttl: 1s }}
steps:
  - sql: |
      SELECT i.key || '/' || CAST(i.seq AS STRING) AS _id, i.key, i.seq, i.fate, i.crc, i.number, p.place
      FROM input i JOIN places p ON p._id = i.key
      WHERE i.fate <> 'drop' AND CAST(i.number AS BIGINT) >= 0
sinks: [{{ mongodb: {{ {cluster}, collection: events{sink} }} }}]
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
    let program = Program::new();
    program.write("p.yaml", store.pipeline("", ""));
    append(&program, "");
    program.ok(&["check", "p.yaml"]);
    let mut generator = Generator::new(73, KEYS);
    let mut checker = Checker::default();
    let mut out = 0;
    for _ in 0..4 {
        let running = program.start(&["p.yaml"]);
        let events: Vec<Event> = (0..200).map(|_| generator.event()).collect();
        for part in events.chunks(50) {
            part.iter().for_each(|event| checker.sent(event));
            out += part.iter().filter(|event| event.fate == Fate::Out).count();
            append(&program, &part.iter().map(|event| event.line() + "\n").collect::<String>());
            std::thread::sleep(Duration::from_millis(40));
        }
        drop(running);
    }
    let running = program.start(&["p.yaml"]);
    eventually("all are stored", || (store.events().len() == out).then_some(()));
    assert_eq!(running.end(), 0);
    checker.arrived("out", Fate::Out, &store.events(), false, 0);
    assert_eq!(checker.faults(), []);
    // Rows that came again were the same: none of them is a dead letter for being there already.
    let letters = program.ok(&["dead-letters", "list"]);
    assert!(!letters.contains("another document of this key"), "{letters}");
}

#[test]
fn a_store_that_goes_away_and_comes_back_has_every_row_once() {
    let Some(store) = Store::new() else { return };
    let proxy = Proxy::start(store.mongo.address(), 5).unwrap();
    let program = Program::new();
    let short = ", connect_timeout: 500ms";
    let sink = format!("{short}, timeout: 700ms, retries: 1");
    program.write("p.yaml", store.pipeline_at(proxy.address(), short, &sink));
    append(&program, "");
    let running = program.start(&["p.yaml"]);
    let mut generator = Generator::new(79, KEYS);
    let mut checker = Checker::default();
    let mut out = 0;
    let mut send = |count: usize| {
        for event in (0..count).map(|_| generator.event()) {
            checker.sent(&event);
            out += usize::from(event.fate == Fate::Out);
            append(&program, &(event.line() + "\n"));
        }
        out
    };
    let first = send(60);
    eventually("the first are stored", || (store.events().len() >= first).then_some(()));
    // It stands still, its answers are lost, it is gone, it resets what comes.
    let troubles: [&dyn Fn(); 4] = [
        &|| proxy.set_both(Fault::Hold),
        &|| proxy.set(Direction::ToClient, Fault::BlackHole),
        &|| {
            proxy.refuse(true);
            proxy.cut();
        },
        &|| proxy.set(Direction::ToServer, Fault::ResetAfter(5_000)),
    ];
    for trouble in troubles {
        trouble();
        send(60);
        std::thread::sleep(Duration::from_millis(1200));
        proxy.heal();
        proxy.reset();
        let all = send(10);
        eventually("all are stored", || (store.events().len() >= all).then_some(()));
    }
    assert_eq!(running.end(), 0);
    checker.arrived("out", Fate::Out, &store.events(), false, 0);
    assert_eq!(checker.faults(), []);
    let letters = program.ok(&["dead-letters", "list"]);
    assert!(!letters.contains("another document of this key"), "{letters}");
}

#[test]
fn check_tells_what_the_store_has_not() {
    let Some(store) = Store::new() else { return };
    let program = Program::new();
    append(&program, "");
    let told = |text: String| {
        program.write("p.yaml", text);
        let said = program.run(&["check", "p.yaml"]);
        assert_eq!(said.code, 2, "{}{}", said.out, said.err);
        said.err
    };
    let wrong = |from: &str, to: &str| told(store.pipeline("", "").replace(from, to));
    let text = wrong("collection: places", "collection: palces");
    assert!(text.contains("has no documents to learn its columns from"), "{text}");
    let text = wrong("p._id = i.key", "p._id = i.seq");
    assert!(text.contains("is bigint, but `p._id` is string"), "{text}");
    let text = told(store.pipeline(", columns: { _id: string, place: bigint }", ""));
    assert!(text.contains("`place` is declared as bigint, which it is in none of"), "{text}");
    let text = told(store.pipeline(", columns: { _id: oid }", ""));
    assert!(text.contains("object_id"), "{text}");
    let text = told(store.pipeline("", ", operation: update"));
    assert!(text.contains("an update needs to know what it changes"), "{text}");
    let text = told(store.pipeline("", ", operation: update, update: { $set: { v: $nothing } }"));
    assert!(text.contains("the rows have no column `nothing`"), "{text}");
    store.fill("places", [doc! { "_id": "odd", "place": 7 }]);
    let text = told(store.pipeline("", ""));
    assert!(text.contains("`place`: a string in 40, an int in 1"), "{text}");
}

#[test]
fn cases_run_without_the_store_where_columns_are_declared() {
    let program = Program::new();
    let pipeline = |columns: &str| {
        format!(
            "pipeline: p
source: {{ file: events.jsonl, format: {{ json: {{ columns: {{ key: string }} }} }} }}
lookups:
  places:
    mongodb: {{ hosts: [\"127.0.0.1:9\"], connect_timeout: 300ms, database: d, collection: c{columns} }}
steps: [{{ sql: \"SELECT i.key AS _id, p.place FROM input i JOIN places p ON p.key = i.key\" }}]
sinks: [{{ mongodb: {{ hosts: [\"127.0.0.1:9\"], database: d, collection: out }} }}]
"
        )
    };
    program.write(
        "p.test.yaml",
        "cases:
  - name: found
    input: [{ key: a }, { key: b }]
    lookups: { places: [{ key: a, place: here }] }
    expect: { rows: [{ _id: a, place: here }], filtered: 1 }
",
    );
    program.write("events.jsonl", "");
    program.write("p.yaml", pipeline(", columns: { key: object_id, place: string }"));
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
    let id = |n: u8| ObjectId::parse_str(format!("65f0000000000000000000{n:02}")).unwrap();
    let ada =
        doc! { "_id": id(1), "name": "Ada", "address": { "city": "London" }, "tags": ["new"] };
    store.fill("customers", [ada, doc! { "_id": id(2), "name": "Grace" }]);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/mongodb");
    let program = Program::new();
    for file in ["visits.yaml", "visits.test.yaml", "visits.jsonl"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        program
            .write(file, text.replace("database: shop", &format!("database: {}", store.database)));
    }
    let run = |args: &[&str]| {
        let mut command = program.command(args);
        command.env("MONGODB", store.mongo.address().to_string());
        let done = command.output().unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    run(&["check", "visits.yaml"]);
    assert!(run(&["test", "visits.yaml"]).contains("0 failed"));
    run(&["run", "visits.yaml", "--until-end", "--listen", "off"]);
    let stored = store.stored("visits");
    let shown: Vec<_> = stored
        .iter()
        .map(|document| {
            let page = document.get_document("last").unwrap().get_str("page").unwrap();
            let (name, city) = (document.get_str("name").ok(), document.get_str("city").ok());
            let seen = document.get_datetime("last_seen").unwrap().timestamp_millis()
                - document.get_datetime("first_seen").unwrap().timestamp_millis();
            (name, city, page, seen, document.get_i32("visits").unwrap())
        })
        .collect();
    assert_eq!(
        shown,
        [
            (Some("Ada"), Some("London"), "/cart", 5000, 2),
            (Some("Grace"), None, "/cart", 0, 1),
            (None, None, "/", 0, 1),
        ]
    );
    assert!(program.ok(&["dead-letters", "list"]).contains("the text is no ObjectId"));
}
