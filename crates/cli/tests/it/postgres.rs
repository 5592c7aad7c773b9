//! A pipeline file that names real PostgreSQL, as look-up and as sink.

use crate::program::{Program, eventually};
use millstream_testkit::events::{Checker, Event, Fate, Generator};
use millstream_testkit::services::{self, Postgres, unique};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const COLUMNS: &str = "{ key: string, seq: bigint, fate: string, crc: string, number: string }";
const KEYS: u64 = 40;

/// A schema of one's own.
struct Store {
    postgres: Postgres,
    schema: String,
    runtime: Runtime,
    client: Client,
}

impl Store {
    fn new() -> Option<Self> {
        let postgres = services::postgres()?;
        let runtime = Runtime::new().unwrap();
        let (address, files) = (postgres.address(), postgres.files());
        let mut config = tokio_postgres::Config::new();
        config.host(address.ip().to_string()).port(address.port()).dbname("postgres");
        config.user(files.user).password(files.password);
        let (client, connection) = runtime.block_on(config.connect(NoTls)).unwrap();
        runtime.spawn(connection);
        let store = Self { postgres, schema: unique("pipe").replace('-', "_"), runtime, client };
        store.sql(
            "CREATE SCHEMA KS; CREATE TABLE KS.places (key text PRIMARY KEY, place text, since date); \
             CREATE TABLE KS.events (n bigserial, key text, seq bigint, fate text, crc text, \
             number text CHECK (number <> '13'), place text)",
        );
        store.sql(&format!(
            "INSERT INTO KS.places SELECT 'k' || n, 'place-' || n FROM generate_series(0, {KEYS}) n"
        ));
        Some(store)
    }

    /// Executes statements; `KS` in them is the schema.
    fn sql(&self, statements: &str) {
        let statements = statements.replace("KS", &self.schema);
        let done = self.runtime.block_on(self.client.batch_execute(&statements));
        done.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    fn rows(&self, query: &str) -> Vec<Vec<String>> {
        let query = query.replace("KS", &self.schema);
        let answer = self.runtime.block_on(self.client.simple_query(&query)).unwrap();
        answer
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    let cells = (0..row.len()).map(|at| row.get(at).unwrap_or("null").to_owned());
                    Some(cells.collect())
                }
                _ => None,
            })
            .collect()
    }

    /// What was stored, with what the look-up found, in the order in which it was.
    fn events(&self) -> Vec<Event> {
        let query = "SELECT key, seq, fate, crc, number, place FROM KS.events ORDER BY n";
        let event = |row: Vec<String>| {
            let [key, seq, fate, crc, number, place] = &row[..] else { panic!("{row:?}") };
            assert_eq!(*place, key.replace('k', "place-"));
            let seq: u64 = seq.parse().unwrap();
            let row = serde_json::json!({
                "key": key, "seq": seq, "fate": fate, "crc": crc, "number": number
            });
            serde_json::from_value(row).unwrap()
        };
        self.rows(query).into_iter().map(event).collect()
    }

    /// The options of the server, as a pipeline file has them.
    fn server(&self) -> String {
        format!(
            "hosts: [\"{}\"], database: postgres, username: {}, password_file: password, schema: {}",
            self.postgres.address(),
            self.postgres.files().user,
            self.schema
        )
    }

    fn program(&self) -> Program {
        let program = Program::new();
        program.write("password", self.postgres.files().password + "\n");
        program.write("p.yaml", self.pipeline("", ""));
        program
    }

    fn pipeline(&self, lookup: &str, sink: &str) -> String {
        let server = self.server();
        format!(
            "pipeline: p
source: {{ file: events.jsonl, follow: true, format: {{ json: {{ columns: {COLUMNS} }} }} }}
lookups:
  places:
    postgres: {{ {server}, table: places{lookup} }}
    cache: {{ max_entries: 20, ttl: 1s }}
steps:
  - sql: |
      SELECT i.key, i.seq, i.fate, i.crc, i.number, p.place
      FROM input i JOIN places p ON p.key = i.key
      WHERE i.fate <> 'drop' AND CAST(i.number AS BIGINT) >= 0
sinks: [{{ postgres: {{ {server}, table: events{sink} }} }}]
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

/// A table without a key: what is stored twice is there twice.
#[test]
fn each_row_is_stored_once_across_kills() {
    let Some(store) = Store::new() else { return };
    let program = store.program();
    append(&program, "");
    program.ok(&["check", "p.yaml"]);
    let mut generator = Generator::new(73, KEYS);
    let mut checker = Checker::default();
    let mut out = 0;
    for point in [
        "postgres.begun@2",
        "postgres.stored@3",
        "postgres.committed@3",
        "none",
        "postgres.committed@1",
    ] {
        let running =
            program.start_with(&["p.yaml"], &[("MILLSTREAM_FAILPOINT", Path::new(point))]);
        let events: Vec<Event> = (0..300).map(|_| generator.event()).collect();
        for part in events.chunks(60) {
            for event in part {
                // The server refuses a number; the letter is the event's end.
                let mut event = event.clone();
                if event.fate == Fate::Out && (event.seq.is_multiple_of(5) || event.seq == 13) {
                    event = Event::new(event.key, event.seq, Fate::Dead);
                    event.number = "13".into();
                }
                out += usize::from(event.fate == Fate::Out);
                checker.sent(&event);
                append(&program, &(event.line() + "\n"));
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        drop(running);
    }
    let running = program.start(&["p.yaml"]);
    eventually("all are stored", || (store.events().len() >= out).then_some(()));
    assert_eq!(running.end(), 0);
    checker.arrived("out", Fate::Out, &store.events(), true, 0);
    let letters = program.json(&["dead-letters", "list", "--limit", "10000"]);
    let dead: Vec<Event> = letters
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| {
            let place = format!("{}:{}", letter["partition"], letter["offset"]);
            let whole = program.json(&["dead-letters", "show", "p", &place]);
            serde_json::from_str(whole["value"].as_str().unwrap()).unwrap()
        })
        .collect();
    checker.arrived("dead", Fate::Dead, &dead, false, 10_000);
    assert_eq!(checker.faults(), []);
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
    assert!(text.contains("there is no table") && text.contains("palces"), "{text}");
    let text = wrong("ON p.key = i.key", "ON p.since = i.key");
    assert!(text.contains("write CAST(i.key AS date)"), "{text}");
    let text = wrong("i.crc, i.number", "i.crc, i.seq AS number");
    assert!(text.contains("column `number`: bigint cannot be written as text"), "{text}");
    let text = wrong("p.place\n", "p.place AS spot\n");
    assert!(text.contains("has no column `spot`"), "{text}");
    let text = told(store.pipeline(", columns: { key: string, place: bigint }", ""));
    assert!(text.contains("`place` of places is string, not bigint"), "{text}");
    assert!(text.contains("write `place: string`"), "{text}");
    let text = told(store.pipeline("", ", operation: upsert"));
    assert!(text.contains("has no primary key: name the columns in `key`"), "{text}");
    let text = told(store.pipeline("", ", operation: upsert, key: [seq]"));
    assert!(text.contains("no unique index over exactly seq"), "{text}");
    let text = told(store.pipeline("", ", operation: delete, key: [seq], on_conflict: nothing"));
    assert!(text.contains("only what is inserted has an `on_conflict`"), "{text}");
    let text = told(store.pipeline("", ", key: [seq]"));
    assert!(text.contains("`key` has no use"), "{text}");
    let text = told(store.pipeline("", ", password: x"));
    assert!(text.contains("exclude each other"), "{text}");
    program.write("password", "canary");
    program.write("p.yaml", store.pipeline("", ""));
    let said = program.run(&["check", "p.yaml"]);
    assert!(said.err.contains("password authentication failed"), "{}", said.err);
    assert!(!said.err.contains("canary"));
    // Nothing was made by looking.
    let made = store.rows("SELECT to_regclass('KS.millstream_positions')");
    assert_eq!(made, [["null"]]);
}

#[test]
fn cases_run_without_the_server_where_columns_are_declared() {
    let program = Program::new();
    let server = "hosts: [\"127.0.0.1:9\"], database: d, username: u";
    let pipeline = |columns: &str| {
        format!(
            "pipeline: p
source: {{ file: events.jsonl, format: {{ json: {{ columns: {{ key: string }} }} }} }}
lookups:
  places:
    postgres: {{ {server}, table: places{columns} }}
steps: [{{ sql: \"SELECT i.key, p.place FROM input i JOIN places p ON p.key = i.key\" }}]
sinks: [{{ postgres: {{ {server}, table: events }} }}]
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
    assert!(said.err.contains("127.0.0.1:9"), "{}", said.err);
}

#[test]
fn the_example_runs() {
    let Some(store) = Store::new() else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/postgres");
    let tables = std::fs::read_to_string(folder.join("orders.sql")).unwrap();
    store.sql(&tables.replace("CREATE SCHEMA shop;", "").replace("shop", &store.schema));
    let program = Program::new();
    for file in ["orders.yaml", "orders.test.yaml", "orders.jsonl"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        program.write(file, text.replace("schema: shop", &format!("schema: {}", store.schema)));
    }
    let files = store.postgres.files();
    let run = |args: &[&str]| {
        let mut command = program.command(args);
        command.env("POSTGRES", store.postgres.address().to_string());
        command.env("POSTGRES_USER", &files.user).env("POSTGRES_PASSWORD", &files.password);
        let done = command.output().unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    run(&["check", "orders.yaml"]);
    assert!(run(&["test", "orders.yaml"]).contains("0 failed"));
    run(&["run", "orders.yaml", "--until-end", "--listen", "off"]);
    let orders = store.rows("SELECT customer, name, total FROM KS.orders ORDER BY id");
    assert_eq!(orders, [["1", "Ada", "11.50"], ["2", "Grace", "3.00"], ["3", "null", "7.25"]]);
    let letters = program.json(&["dead-letters", "list"]);
    assert!(letters.to_string().contains("orders_total_check"), "{letters}");
}
