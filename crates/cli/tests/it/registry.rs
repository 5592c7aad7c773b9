//! Pipelines whose schemas are in a registry elsewhere: another process of ours, and a real one.

use crate::program::{Program, Said, eventually};
use millstream_testkit::{python, services};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};

/// `millstream serve` with its registry at an address that outlives it.
pub struct Elsewhere {
    program: Program,
    address: SocketAddr,
    /// Where Kafka clients are answered.
    kafka: String,
    child: Option<Child>,
}

impl Elsewhere {
    pub fn start() -> Elsewhere {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let program = Program::new();
        let mut elsewhere = Elsewhere { program, address, kafka: String::new(), child: None };
        elsewhere.start_again();
        elsewhere
    }

    fn start_again(&mut self) {
        let listen = self.address.to_string();
        let args = ["serve", "--kafka-listen", "127.0.0.1:0", "--listen", &listen];
        let mut child = self.program.command(&args).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        self.kafka = loop {
            let line = lines.next().expect("it says where it listens").unwrap();
            if let Some((_, address)) = line.split_once("kafka=") {
                break address.trim().to_owned();
            }
        };
        // Whoever is not read from is written to in vain.
        std::thread::spawn(move || lines.for_each(drop));
        self.child = Some(child);
        eventually("the registry answers", || TcpStream::connect(self.address).ok());
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn url(&self) -> String {
        format!("http://{}/registry", self.address)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// Registers a schema, and gives its id.
#[track_caller]
pub fn register(url: &str, subject: &str, kind: &str, schema: &str) -> u64 {
    let body = json!({"schemaType": kind, "schema": schema});
    let answer = request("POST", &format!("{url}/subjects/{subject}/versions"), &body);
    let id = answer["id"].as_u64();
    id.unwrap_or_else(|| panic!("{answer}"))
}

/// The answer of a registry, by hand.
#[track_caller]
pub fn request(method: &str, url: &str, body: &Value) -> Value {
    let (authority, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let body = body.to_string();
    let mut stream = TcpStream::connect(authority).unwrap();
    write!(
        stream,
        "{method} /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let begin = answer.find("\r\n\r\n").unwrap();
    let begin = begin + answer[begin..].find(['{', '[']).unwrap();
    let end = answer.rfind(['}', ']']).unwrap() + 1;
    serde_json::from_str(&answer[begin..end]).unwrap()
}

const AVRO: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
    {"name":"id","type":"long"},{"name":"amount","type":"int"}]}"#;
const AVRO_NEXT: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
    {"name":"id","type":"long"},{"name":"amount","type":"int"},
    {"name":"note","type":"string","default":""}]}"#;
const PROTO: &str = "syntax = \"proto3\";\npackage shop;\nmessage Order {\n  int64 id = 1;\n  int32 amount = 2;\n}\n";
const PROTO_NEXT: &str = "syntax = \"proto3\";\npackage shop;\nmessage Order {\n  int64 id = 1;\n  \
                          int32 amount = 2;\n  string note = 3;\n}\n";

/// One pipeline writes orders with the schemas of a registry, another reads them.
fn orders(program: &Program, url: &str, topic: &str, format: &str) {
    let (file, text) = match format {
        "avro" => ("order.avsc", AVRO),
        _ => ("order.proto", PROTO),
    };
    program.write(file, text);
    let write = format!(
        "pipeline: write
source:
  file: in.jsonl
  follow: true
  format: {{ json: {{ columns: {{ id: bigint, amount: int }} }} }}
sinks:
  - topic: {topic}
    format: {{ {format}: {{ schema_file: {file} }} }}
    registry: {{ url: [\"{url}\"], auto_register: true }}
"
    );
    program.write("write.yaml", write);
    let read = format!(
        "pipeline: read
registry: {{ url: [\"{url}\"] }}
source: {{ topic: {topic}, format: {format} }}
steps:
  - sql: SELECT amount * 2 AS twice FROM input WHERE amount < 100
sinks:
  - {{ topic: out, format: json }}
"
    );
    program.write("read.yaml", read);
}

fn append(program: &Program, lines: &str) {
    let file = std::fs::OpenOptions::new().append(true).create(true).open(program.path("in.jsonl"));
    file.unwrap().write_all(lines.as_bytes()).unwrap();
}

/// What the reading pipeline has written, from its beginning.
fn out(program: &Program) -> Vec<Value> {
    let said = program.run(&["tap", "out", "--from", "earliest", "--no-follow", "--json"]);
    let rows = said.out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    rows.map(|row| twice(&row).unwrap_or_else(|| panic!("{row}"))).collect()
}

/// The value wherever the output of `tap` has it.
fn twice(row: &Value) -> Option<Value> {
    match row {
        Value::Object(fields) => {
            fields.get("twice").cloned().or_else(|| fields.values().find_map(twice))
        }
        _ => None,
    }
}

fn comes(program: &Program, wanted: &[i64]) {
    eventually(&format!("{wanted:?} come out"), || (out(program) == wanted).then_some(()));
}

/// Known ids go on while the registry is dead, an unknown one waits for it, and says so.
fn through_the_death_of_the_registry(format: &str, kind: &str, next: &str, body: &[u8]) {
    let mut registry = Elsewhere::start();
    let url = registry.url();
    // No id is the same in both registries.
    register(&url, "other", "AVRO", "\"int\"");
    let program = Program::new();
    orders(&program, &url, "orders", format);
    append(&program, "{\"id\":1,\"amount\":10}\n");
    let running = program.start(&["write.yaml", "read.yaml"]);
    comes(&program, &[20]);
    assert_eq!(program.json(&["schemas", "list"]), json!([]), "nothing is in the embedded one");
    let id = register(&url, "orders-value", kind, next);
    assert_eq!(id, 3);

    registry.kill();
    append(&program, "{\"id\":2,\"amount\":11}\n");
    comes(&program, &[20, 22]);

    let frame = [&[0, 0, 0, 0, id as u8], body].concat();
    let value = String::from_utf8(frame).unwrap();
    let line = json!({"value": value}).to_string() + "\n";
    let said = program.feed(&["produce", "orders", "--format", "jsonl"], line);
    assert_eq!(said.code, 0, "{}", said.err);
    append(&program, "{\"id\":3,\"amount\":13}\n");
    let read = |program: &Program| {
        let all = program.json(&["pipelines"]);
        all.as_array().unwrap().iter().find(|one| one["name"] == "read").unwrap().clone()
    };
    let waits = format!("partition 0: the schema registry at {} cannot be asked", registry.address);
    eventually("it says what it waits for", || {
        read(&program)["waits_for"].to_string().contains(&waits).then_some(())
    });
    assert_eq!(out(&program), [20, 22], "order is kept: the row behind it waits too");

    // What waits for the registry can be stopped, and does not start without it.
    assert_eq!(running.end(), 0);
    let said =
        program.run(&["run", "write.yaml", "read.yaml", "--exit-when-idle", "--listen", "off"]);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains("cannot be asked"), "{}", said.err);

    registry.start_again();
    let running = program.start(&["write.yaml", "read.yaml"]);
    comes(&program, &[20, 22, 24, 26]);
    registry.kill();
    let waits_for = eventually("nothing waits", || {
        let waits = read(&program)["waits_for"].clone();
        (waits == json!([])).then_some(waits)
    });
    assert_eq!(waits_for, json!([]));
    assert_eq!(running.end(), 0);
}

#[test]
fn avro_through_the_death_of_the_registry() {
    through_the_death_of_the_registry("avro", "AVRO", AVRO_NEXT, &[8, 24, 0]);
}

#[test]
fn protobuf_through_the_death_of_the_registry() {
    through_the_death_of_the_registry("protobuf", "PROTOBUF", PROTO_NEXT, &[0, 8, 4, 16, 12]);
}

/// A task that waits goes on by itself when the registry is back.
#[test]
fn who_waits_goes_on_when_the_registry_is_back() {
    let mut registry = Elsewhere::start();
    let program = Program::new();
    orders(&program, &registry.url(), "orders", "avro");
    append(&program, "{\"id\":1,\"amount\":10}\n");
    let running = program.start(&["write.yaml", "read.yaml"]);
    comes(&program, &[20]);
    let id = register(&registry.url(), "orders-value", "AVRO", AVRO_NEXT);
    registry.kill();
    let value = String::from_utf8(vec![0, 0, 0, 0, id as u8, 8, 24, 0]).unwrap();
    let line = json!({"value": value}).to_string() + "\n";
    program.feed(&["produce", "orders", "--format", "jsonl"], line);
    let waits = || {
        let all = program.json(&["pipelines"]).to_string();
        all.contains("cannot be asked")
    };
    eventually("it waits", || waits().then_some(()));
    registry.start_again();
    comes(&program, &[20, 24]);
    eventually("it waits no more", || (!waits()).then_some(()));
    assert_eq!(running.end(), 0);
}

#[test]
fn a_real_registry() {
    let Some(registry) = services::registry() else { return };
    for format in ["avro", "protobuf"] {
        let program = Program::new();
        let topic = services::unique("orders");
        orders(&program, &registry.url(), &topic, format);
        append(&program, "{\"id\":1,\"amount\":10}\n{\"id\":2,\"amount\":100}\n");
        let write = std::fs::read_to_string(program.path("write.yaml")).unwrap();
        program.write("write.yaml", write.replace("  follow: true\n", ""));
        for file in ["write.yaml", "read.yaml"] {
            program.ok(&["run", file, "--exit-when-idle", "--listen", "off"]);
        }
        assert_eq!(out(&program), [20]);
        assert_eq!(program.json(&["schemas", "list"]), json!([]));
        // What is there already needs no leave to be registered.
        program.write("write.yaml", write.replace(", auto_register: true", ""));
        program.ok(&["check", "write.yaml", "read.yaml"]);
        // What is not compatible is refused with the registry's reasons.
        let level = format!("{}/config/{topic}-value", registry.url());
        request("PUT", &level, &json!({"compatibility": "BACKWARD"}));
        let (file, text) = match format {
            "avro" => ("order.avsc", AVRO.replace("\"int\"", "\"string\"")),
            _ => ("order.proto", PROTO.replace("int32", "string")),
        };
        program.write(file, text);
        let write = write.replace("amount: int }", "amount: string }");
        program.write("write.yaml", write);
        let said = program.run(&["check", "write.yaml"]);
        assert_eq!(said.code, 2, "{}", said.err);
        let (_, reasons) =
            said.err.split_once("-value`: ").unwrap_or_else(|| panic!("{}", said.err));
        assert!(reasons.lines().next().unwrap().len() > 10, "the registry's own words: {reasons}");
    }
}

#[test]
fn what_confluents_serializer_writes_as_protobuf_is_read() {
    let mut serve = Elsewhere::start();
    serve.program.ok(&["topics", "create", "sales", "--partitions", "1"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/protobuf.py");
    python::run_script(env!("CARGO_TARGET_TMPDIR"), &script, &[&serve.kafka, &serve.url()]);
    let described = serve.program.json(&["topics", "describe", "sales"]);
    if described["topic"]["records"] == 0 {
        return;
    }
    let file = "pipeline: sales
source: { topic: sales, format: { protobuf: { message: Sale } } }
steps:
  - sql: >
      SELECT id, lines[1].sku AS sku, lines[2].count AS gifts, state, at, person, company FROM input
sinks:
  - { topic: out, format: json }
max_dead_ratio: 0.5
";
    serve.kill();
    let program = &serve.program;
    program.write("sales.yaml", file);
    program.ok(&["run", "sales.yaml", "--exit-when-idle", "--listen", "off"]);
    let tapped = program.ok(&["tap", "out", "--from", "earliest", "--no-follow", "--json"]);
    let rows: Vec<Value> = tapped.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 3, "{tapped}");
    for (row, id) in rows.iter().zip(1..) {
        let row = row.to_string();
        let odd = id % 2 == 1;
        for wanted in [
            format!("\"id\":{id}"),
            format!("\"sku\":\"sku-{id}\""),
            "\"gifts\":1".to_owned(),
            format!("\"state\":\"{}\"", if odd { "PAID" } else { "OPEN" }),
            format!("2023-11-14T22:13:2{id}"),
            if odd { "\"person\":\"ann\"" } else { "\"company\":\"acme\"" }.to_owned(),
        ] {
            assert!(row.contains(&wanted), "{wanted} in {row}");
        }
    }
    let letters = program.ok(&["dead-letters", "list"]);
    assert!(letters.contains("shop.Note") && letters.contains("shop.Sale"), "{letters}");
}

#[track_caller]
fn refused(said: &Said, code: i32, parts: &[&str]) {
    assert_eq!(said.code, code, "{}", said.err);
    for part in parts {
        assert!(said.err.contains(part), "{part}: {}", said.err);
    }
}

/// The example, with the commands that it is for.
#[test]
fn the_example_of_a_registry() {
    let registry = Elsewhere::start();
    let program = Program::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/registry/orders.yaml");
    let example = example.canonicalize().unwrap();
    program.ok(&["topics", "create", "orders", "--partitions", "2"]);
    let url = registry.url();
    let run = |args: &[&str]| {
        let args = [args, &[example.to_str().unwrap()]].concat();
        let output = program.command(&args).env("SCHEMA_REGISTRY_URL", &url).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {err}");
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["check"]);
    assert!(run(&["test"]).contains("1 case, 0 failed"));
    let explained = run(&["explain"]);
    assert!(explained.contains("decodes 5 of 6 columns"), "{explained}");
    let sink = format!("Protobuf of subject shop.BigOrder of {url}");
    assert!(explained.contains(&sink), "{explained}");

    // Orders as a serializer writes them: the second message of its file.
    let proto = |name: &str| std::fs::read_to_string(example.with_file_name(name)).unwrap();
    let money = proto("money.proto");
    let money = &money[money.find("message").unwrap()..];
    let whole = proto("order.proto").replace("import \"money.proto\";", "") + money;
    let id = register(&url, "orders-value", "PROTOBUF", &whole) as u8;
    for (order, units) in [(7, 127), (8, 9)] {
        let customer = [18, 5, 18, 3, b'a', b'n', b'n'];
        let total = [26, 2, 16, units];
        let value =
            [&[0, 0, 0, 0, id, 2, 2, 8, order], customer.as_slice(), &total, &[40, 1]].concat();
        let line = json!({"value": String::from_utf8(value).unwrap()}).to_string() + "\n";
        let said = program.feed(&["produce", "orders", "--format", "jsonl"], line);
        assert_eq!(said.code, 0, "{}", said.err);
    }
    run(&["run", "--exit-when-idle", "--listen", "off"]);
    let read = format!(
        "pipeline: read
source:
  topic: big_orders
  format: {{ protobuf: {{ subject: shop.BigOrder }} }}
  registry: {{ url: [\"{url}\"] }}
sinks:
  - {{ topic: out, format: json }}
"
    );
    program.write("read.yaml", read);
    program.ok(&["run", "read.yaml", "--exit-when-idle", "--listen", "off"]);
    let tapped = program.ok(&["tap", "out", "--from", "earliest", "--no-follow"]);
    assert_eq!(tapped.lines().count(), 1, "{tapped}");
    let wanted = r#"{"id":7,"customer":"ann","units":127,"placed_at":null,"state":"PAID"}"#;
    assert!(tapped.contains(wanted), "{tapped}");
}

#[test]
fn check_asks_the_registry() {
    let mut registry = Elsewhere::start();
    let url = registry.url();
    let program = Program::new();
    program.write("in.jsonl", "{\"id\":1,\"amount\":10}\n");
    program.write("order.avsc", AVRO);
    program.write("order.proto", PROTO);
    let sink = |format: &str, more: &str| {
        let file = format!(
            "pipeline: write
source: {{ file: in.jsonl, format: {{ json: {{ columns: {{ id: bigint, amount: int }} }} }} }}
sinks:
  - topic: orders
    format: {format}
    registry: {{ url: [\"{url}\"]{more} }}
"
        );
        program.write("write.yaml", file);
        program.run(&["check", "write.yaml"])
    };
    let avro = "{ avro: { schema_file: order.avsc } }";
    let own = ", auto_register: true";

    // Nothing is registered, and nothing may be.
    refused(
        &sink(avro, ""),
        2,
        &["subject `orders-value`", "does not have this schema", own.trim_start_matches(", ")],
    );
    refused(&sink("avro", ""), 2, &["has no subject `orders-value`"]);
    refused(&sink("protobuf", own), 2, &["has no subject `orders-value`", "schema_file"]);
    assert_eq!(sink(avro, own).code, 0);
    assert_eq!(sink("avro", own).code, 0);
    let proto = "{ protobuf: { schema_file: order.proto } }";
    assert_eq!(sink(proto, own).code, 0);

    // Each strategy looks at its own subject, and what is there needs no leave.
    for (strategy, subject) in
        [("topic", "orders-value"), ("record", "shop.Order"), ("topic_record", "orders-shop.Order")]
    {
        for (kind, word, file, text) in
            [("AVRO", "avro", "order.avsc", AVRO), ("PROTOBUF", "protobuf", "order.proto", PROTO)]
        {
            let format =
                format!("{{ {word}: {{ schema_file: {file}, subject_strategy: {strategy} }} }}");
            refused(&sink(&format, ""), 2, &[&format!("subject `{subject}`")]);
            if kind == "AVRO" {
                let renamed = text.replace("shop", "shop2");
                program.write("order.avsc", &renamed);
                let subject = subject.replace("shop", "shop2") + "";
                register(&url, &subject, kind, &renamed);
                assert_eq!(sink(&format, "").code, 0, "{subject}");
                program.write("order.avsc", text);
                if strategy == "topic" {
                    request("DELETE", &format!("{url}/subjects/{subject}"), &json!(null));
                }
            }
        }
    }

    // A type that changes is refused with the registry's reasons.
    register(&url, "orders-value", "AVRO", &AVRO.replace("\"int\"", "\"string\""));
    refused(&sink(avro, own), 2, &["not compatible with subject `orders-value`", "amount"]);
    // Rows that do not fit the newest schema are refused with what does not.
    refused(&sink("avro", ""), 2, &["amount", "newest schema of subject `orders-value`"]);

    // A registry that does not answer is nobody's mistake.
    registry.kill();
    refused(&sink(avro, own), 1, &["cannot be asked", &registry.address.to_string()]);
    let read = "pipeline: read\nsource: { topic: orders, format: avro }\nsinks: [discard: true]\n";
    let file = read.replace("source:", &format!("registry: {{ url: [\"{url}\"] }}\nsource:"));
    program.write("read.yaml", file);
    program.ok(&["topics", "create", "orders", "--partitions", "1"]);
    refused(&program.run(&["check", "read.yaml"]), 1, &["cannot be asked", "start it"]);
}

/// A schema file with an import, a message that is not its first, and columns that nobody uses.
#[test]
fn protobuf_of_a_file_is_explained_and_cut_to_what_is_used() {
    let program = Program::new();
    std::fs::create_dir_all(program.path("proto/shop")).unwrap();
    program.write("proto/shop/money.proto", "syntax = \"proto3\";\npackage shop;\nmessage Money {\n  string currency = 1;\n  int64 cents = 2;\n}\n");
    let sale = "syntax = \"proto3\";\npackage shop;\nimport \"shop/money.proto\";\n\
                message Note { string text = 1; }\nmessage Sale {\n  uint64 id = 1;\n  \
                Money price = 2;\n  repeated string tags = 3;\n}\n";
    program.write("proto/sale.proto", sale);
    program.ok(&["topics", "create", "sales", "--partitions", "1"]);
    let file = |message: &str| {
        format!(
            "pipeline: sales
source:
  topic: sales
  format: {{ protobuf: {{ framing: bare, schema_file: proto/sale.proto{message} }} }}
steps:
  - sql: SELECT s.price.cents AS cents FROM input s
sinks:
  - {{ topic: out, format: json }}
"
        )
    };
    program.write("sales.yaml", file(", message: Sale"));
    let explained = program.ok(&["explain", "sales.yaml"]);
    assert!(explained.contains("decodes 1 of 3 columns"), "{explained}");
    assert!(explained.contains("cents") && !explained.contains("currency"), "{explained}");
    // Bare: the field `price`, with 5 bytes of `currency` and `cents`.
    let value = json!({"value": "\u{12}\u{7}\u{a}\u{3}EUR\u{10}\u{8}"}).to_string() + "\n";
    let said = program.feed(&["produce", "sales", "--format", "jsonl"], value);
    assert_eq!(said.code, 0, "{}", said.err);
    program.ok(&["run", "sales.yaml", "--exit-when-idle", "--listen", "off"]);
    let tapped = program.ok(&["tap", "out", "--from", "earliest", "--no-follow"]);
    assert!(tapped.contains("\"cents\":8"), "{tapped}");

    program.write("sales.yaml", file(", message: Sail"));
    let said = program.run(&["check", "sales.yaml"]);
    refused(&said, 2, &["no message `Sail`", "shop.Note, shop.Sale"]);
    std::fs::remove_file(program.path("proto/shop/money.proto")).unwrap();
    program.write("sales.yaml", file(""));
    refused(&program.run(&["check", "sales.yaml"]), 2, &["money.proto"]);
}
