//! The commands over topics of a real Kafka and subjects of a real registry, named by a pipeline
//! file or by their addresses.

use crate::program::{Program, eventually};
use millstream_testkit::services::{self, unique};
use serde_json::Value;

fn lines(said: &str) -> Vec<Value> {
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(said: &str) -> Vec<i64> {
    lines(said).iter().map(|row| row["value"]["n"].as_i64().unwrap()).collect()
}

/// Numbers in; those that are none become dead letters on Kafka.
fn numbers_file(name: &str, brokers: &str, sql: &str) -> String {
    format!(
        "pipeline: {name}
source:
  kafka: {{ brokers: [\"{brokers}\"], topic: {name} }}
  format: {{ json: {{ columns: {{ n: string }} }} }}
steps:
  - sql: {sql}
sinks: [{{ topic: out, partitions: 1, format: json }}]
dead_letters: {{ topic: {name}-dead, kafka: {{ brokers: [\"{brokers}\"] }} }}
max_dead_ratio: 1
"
    )
}

#[test]
fn dead_letters_on_kafka_are_listed_shown_and_replayed_once() {
    let Some(kafka) = services::kafka() else { return };
    let (brokers, name) = (kafka.bootstrap(), unique("numbers"));
    let dead = format!("{name}-dead");
    kafka.create_topic(&name, 1, &[]);
    kafka.create_topic(&dead, 2, &[]);
    let program = Program::new();
    let strict = numbers_file(&name, &brokers, "SELECT CAST(n AS BIGINT) AS n FROM input");
    program.write("p.yaml", &strict);
    let input: String =
        ["1", "one", "2", "two", "three"].map(|n| format!("{{\"n\": \"{n}\"}}\n")).concat();
    let produced = program.feed(&["produce", &name, "--file", "p.yaml"], input);
    assert_eq!(produced.code, 0, "{}", produced.err);

    let running = program.start(&["p.yaml"]);
    let list = |args: &[&str]| program.json(&[&["dead-letters", "list"], args].concat());
    let listed = eventually("three letters are listed", || {
        let listed = list(&[]);
        (listed.as_array().unwrap().len() == 3).then_some(listed)
    });
    assert_eq!(listed[0]["topic"], *dead);
    assert_eq!(running.end(), 0);

    assert_eq!(list(&["--file", "p.yaml"]), listed);
    assert_eq!(
        list(&["--file", "p.yaml", "--limit", "2"]).as_array().unwrap()[..],
        listed.as_array().unwrap()[1..]
    );
    assert_eq!(list(&[]), Value::Array(Vec::new()), "none is here");
    let place = |letter: &Value| format!("{}:{}", letter["partition"], letter["offset"]);
    let first = place(&listed[0]);
    let shown = program.json(&["dead-letters", "show", &name, &first, "--file", "p.yaml"]);
    assert_eq!(shown["value"], r#"{"n": "one"}"#, "{shown}");

    // The same again is dead again, and not tried twice in one go.
    let replay = |args: &[&str]| {
        let all = [&["dead-letters", "replay", &name, "--file", "p.yaml", "--json"], args].concat();
        let said = program.run(&all);
        let counts: Value = serde_json::from_str(&said.out).unwrap_or_default();
        let count = |what: &str| counts[what].as_u64().unwrap_or(99);
        (said.code, count("replayed"), count("out"), count("dead"), count("skipped"))
    };
    assert_eq!(replay(&[&first]), (1, 1, 0, 1, 0));
    assert_eq!(replay(&["0:99"]).0, 2);
    let mild = numbers_file(&name, &brokers, "SELECT n FROM input");
    program.write("p.yaml", mild);
    assert_eq!(replay(&["--kind", "nonsense"]).0, 2);
    assert_eq!(replay(&["--all"]), (0, 3, 3, 0, 1));
    assert_eq!(replay(&["--all"]), (0, 0, 0, 0, 4));
    let after = list(&["--file", "p.yaml"]);
    assert!(after.as_array().unwrap().iter().all(|letter| letter["replayed"] == true), "{after}");
    let rows = program.ok(&["tap", "out", "--from", "earliest", "--no-follow", "--json"]);
    let mut rows: Vec<String> =
        lines(&rows).iter().map(|row| row["value"]["n"].to_string()).collect();
    rows.sort();
    assert_eq!(rows, ["\"one\"", "\"three\"", "\"two\"", "1", "2"]);
}

#[test]
fn topics_of_kafka_and_subjects_elsewhere_are_named_by_a_file_or_by_addresses() {
    let Some(kafka) = services::kafka() else { return };
    let Some(registry) = services::registry() else { return };
    let (brokers, url, topic) = (kafka.bootstrap(), registry.url(), unique("orders"));
    let subject = format!("{topic}-value");
    let program = Program::new();
    let schema = |fields: &str| {
        format!(
            r#"{{"type": "record", "name": "Order", "fields": [{{"name": "n", "type": "long"}}{fields}]}}"#
        )
    };
    program.write("order.avsc", schema(""));
    program.write("other.avsc", schema(r#", {"name": "must", "type": "string"}"#));
    program.write(
        "p.yaml",
        format!(
            "pipeline: {topic}
registry: {{ url: [\"{url}\"] }}
source: {{ kafka: {{ brokers: [\"{brokers}\"], topic: {topic} }}, format: avro }}
sinks: [{{ discard: true }}]
"
        ),
    );
    for place in [vec!["--registry", url.as_str()], vec!["--file", "p.yaml"]] {
        let schemas = |args: &[&str]| program.run(&[&["schemas"], args, &place].concat());
        let said = schemas(&["register", &subject, "order.avsc", "--json"]);
        let made: Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!(
            (made["version"].as_u64(), &made["subject"]),
            (Some(1), &subject.as_str().into())
        );
        let id = made["id"].to_string();
        assert!(schemas(&["list"]).out.contains(&subject));
        assert!(schemas(&["show", &subject]).out.contains("\"Order\""));
        assert!(schemas(&["show", "--id", &id]).out.contains(&subject));
        // What holds without a level of its own is the registry's to say.
        assert_eq!(schemas(&["level", "BACKWARD", "--subject", &subject]).code, 0);
        let refused = schemas(&["compatible", &subject, "other.avsc"]);
        assert_eq!(
            (refused.code, refused.out.starts_with("not compatible:")),
            (1, true),
            "{refused:?}"
        );
        assert_eq!(schemas(&["register", &subject, "other.avsc"]).code, 2);
        assert_eq!(schemas(&["level", "NONE", "--subject", &subject]).code, 0);
        assert_eq!(schemas(&["compatible", &subject, "other.avsc"]).code, 0);
        let unknown = schemas(&["show", "nobody"]);
        assert_eq!(unknown.code, 2, "{unknown:?}");
        assert!(unknown.err.contains("has no subject `nobody`"), "{unknown:?}");
    }

    let addresses = ["--brokers", &brokers, "--registry", &url];
    // Old ones would be removed by the topic's retention.
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    let rows = |from: std::ops::Range<i64>| -> String {
        from.map(|n| {
            format!("{{\"key\":\"k{n}\",\"value\":{{\"n\":{n}}},\"timestamp\":{}}}\n", now + n)
        })
        .collect()
    };
    let write = ["produce", &topic, "--format", "jsonl", "--subject", &subject];
    let missing = program.feed(&[&write[..], &addresses].concat(), rows(0..1));
    assert_eq!(missing.code, 2, "{missing:?}");
    assert!(missing.err.contains("--partitions N makes it"), "{missing:?}");
    let made = program.feed(&[&write[..], &addresses, &["--partitions", "2"]].concat(), rows(0..4));
    assert_eq!((made.code, made.out.contains("which was created")), (0, true), "{made:?}");
    let more = program.feed(&[&write[..], &["--file", "p.yaml"]].concat(), rows(4..6));
    assert_eq!(more.code, 0, "{more:?}");
    let bad = program.feed(&[&write[..], &addresses].concat(), "{\"value\":{\"n\":\"x\"}}\n");
    assert_eq!((bad.code, bad.err.contains("line 1")), (2, true), "{bad:?}");

    for place in [addresses.to_vec(), vec!["--file", "p.yaml"]] {
        let tap = |args: &[&str]| {
            program.run(&[&["tap", &topic, "--no-follow", "--json"], args, &place].concat())
        };
        let mut all = numbers(&tap(&["--from", "earliest"]).out);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4, 5]);
        assert_eq!(numbers(&tap(&["--from", "-3"]).out), [3, 4, 5]);
        assert_eq!(numbers(&tap(&["--from", "-6", "--where", "n > 3"]).out), [4, 5]);
        assert_eq!(numbers(&tap(&[]).out), [0; 0]);
        assert_eq!(tap(&["--partition", "7"]).code, 2);
    }
    // It ends with its limit, and by itself when its reader has seen enough.
    let followed = program.run(
        &[&["tap", &topic, "--from", "earliest", "--limit", "2", "--json"], &addresses[..]]
            .concat(),
    );
    assert_eq!((followed.code, numbers(&followed.out).len()), (0, 2));
    let tombstone =
        ["produce", &topic, "--format", "jsonl", "--partition", "0", "--subject", &subject];
    let gone =
        program.feed(&[&tombstone[..], &addresses].concat(), "{\"key\":\"k1\",\"value\":null}\n");
    assert_eq!(gone.code, 0, "{gone:?}");
    let last = [&["tap", &topic, "--no-follow", "--json", "--from", "-1", "--raw"], &addresses[..]]
        .concat();
    assert_eq!(lines(&program.ok(&last))[0]["value"], Value::Null);

    for (args, code, said) in [
        (vec!["tap", "nothing-of-this", "--brokers", &brokers], 2, "there is no topic"),
        (vec!["tap", "nothing-of-this"], 2, "nothing has been kept"),
        (vec!["tap", &topic, "--brokers", "127.0.0.1:1"], 1, "127.0.0.1:1"),
        (vec!["tap", &topic, "--brokers", "nowhere"], 2, "is not host:port"),
        (vec!["schemas", "list", "--registry", "http://127.0.0.1:1"], 1, "schema registry"),
        (vec!["schemas", "list", "--registry", "127.0.0.1"], 2, "http://HOST:PORT"),
        (vec!["tap", &topic, "--file", "no.yaml"], 2, "no.yaml"),
    ] {
        let refused = program.run(&args);
        assert_eq!(refused.code, code, "{args:?}: {refused:?}");
        assert!(refused.err.contains(said), "{args:?}: {refused:?}");
    }
}

#[test]
fn a_preview_begins_where_the_group_does_and_leaves_nothing_behind() {
    let Some(kafka) = services::kafka() else { return };
    let (brokers, name) = (kafka.bootstrap(), unique("previewed"));
    kafka.create_topic(&name, 3, &[]);
    kafka.create_topic(&format!("{name}-dead"), 1, &[]);
    let program = Program::new();
    let file = numbers_file(&name, &brokers, "SELECT CAST(n AS BIGINT) AS n FROM input");
    let with_start = |start: &str| {
        program.write("p.yaml", file.replace(", topic: ", &format!(", start: {start}, topic: ")));
    };
    let write = |numbers: std::ops::Range<i64>| {
        let rows: String = numbers.map(|n| format!("k{n}={{\"n\": \"{n}\"}}\n")).collect();
        let args = ["produce", &name, "--brokers", &brokers, "--key-separator", "="];
        assert_eq!(program.feed(&args, rows).code, 0);
    };
    let preview = || {
        let said = program.run(&["run", "p.yaml", "--preview", "50", "--json"]);
        assert_eq!(said.code, 0, "{said:?}");
        let mut rows: Vec<i64> =
            lines(&said.out).iter().map(|row| row["row"]["n"].as_i64().unwrap()).collect();
        rows.sort_unstable();
        rows
    };
    write(0..9);
    with_start("latest");
    assert_eq!(preview(), [0; 0]);
    with_start("committed");
    let refused = program.run(&["run", "p.yaml", "--preview", "5"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("offsets reset"), "{refused:?}");
    with_start("earliest");
    assert_eq!(preview(), (0..9).collect::<Vec<_>>());

    // Had one of them left an offset, not all would come.
    let running = program.start(&["p.yaml"]);
    eventually("all rows come", || {
        let said = program.run(&[
            "tap",
            "out",
            "--from",
            "earliest",
            "--limit",
            "9",
            "--no-follow",
            "--json",
        ]);
        (said.code == 0 && numbers(&said.out).len() == 9).then_some(())
    });
    assert_eq!(running.end(), 0);
    let offsets = program.json(&["offsets", "show", "--file", "p.yaml"]);
    let sum = |what: &str| -> i64 {
        offsets.as_array().unwrap().iter().map(|row| row[what].as_i64().unwrap_or(0)).sum()
    };
    assert_eq!((sum("committed"), sum("end"), sum("lag")), (9, 9, 0), "{offsets}");
    assert_eq!(preview(), [0; 0]);
    write(9..11);
    assert_eq!(preview(), [9, 10]);
    assert_eq!(preview(), [9, 10]);
}

#[test]
fn a_check_names_everything_that_a_cluster_and_a_registry_have_not() {
    let Some(kafka) = services::kafka() else { return };
    let Some(registry) = services::registry() else { return };
    let (brokers, url, name) = (kafka.bootstrap(), registry.url(), unique("checked"));
    let program = Program::new();
    program.write(
        "out.avsc",
        r#"{"type": "record", "name": "Out", "fields": [{"name": "n", "type": "string"}]}"#,
    );
    program.write(
        "p.yaml",
        format!(
            "pipeline: {name}
registry: {{ url: [\"{url}\"] }}
source:
  kafka: {{ brokers: [\"{brokers}\"], topic: {name}-in }}
  format: {{ json: {{ columns: {{ n: string }} }} }}
sinks:
  - kafka: {{ brokers: [\"{brokers}\"], topic: {name}-out }}
    format: {{ avro: {{ schema_file: out.avsc }} }}
  - name: second
    kafka: {{ brokers: [\"{brokers}\"], topic: {name}-second }}
    key: nobody
    format: json
dead_letters: {{ topic: {name}-dead, kafka: {{ brokers: [\"{brokers}\"] }} }}
"
        ),
    );
    let said = program.run(&["check", "p.yaml", "--json"]);
    assert_eq!(said.code, 2, "{said:?}");
    let checked: Value = serde_json::from_str(&said.out).unwrap();
    let mistakes = checked["mistakes"].as_array().unwrap();
    let found: Vec<(u64, &str)> = mistakes
        .iter()
        .map(|m| (m["line"].as_u64().unwrap(), m["message"].as_str().unwrap()))
        .collect();
    let expected = [
        (4, format!("no topic `{name}-in`")),
        (7, format!("no topic `{name}-out`")),
        (8, format!("subject `{name}-out-value`")),
        (9, "no column `nobody`".to_owned()),
        (10, format!("no topic `{name}-second`")),
        (13, format!("no topic `{name}-dead`")),
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((line, message), (due, part)) in found.iter().zip(&expected) {
        assert_eq!(line, due, "{found:?}");
        assert!(message.contains(part), "{message} has no {part}");
    }
    // Cases bring their own rows: they need no cluster.
    program.write(
        "q.yaml",
        "pipeline: q
source:
  kafka: { brokers: [\"127.0.0.1:1\"], topic: in }
  format: { json: { columns: { n: string } } }
sinks: [{ kafka: { brokers: [\"127.0.0.1:1\"], topic: out }, format: json }]
",
    );
    program.write(
        "q.test.yaml",
        "cases: [{ name: one, input: [{ n: a }], expect: { rows: [{ n: a }] } }]\n",
    );
    program.ok(&["test", "q.yaml"]);
    let away = program.run(&["check", "q.yaml"]);
    assert_eq!(away.code, 1, "{away:?}");
    assert_eq!(away.err.matches("no broker of 127.0.0.1:1 answers").count(), 1, "{away:?}");
}

#[test]
fn partitions_of_several_topics_are_called_by_their_topic() {
    let Some(kafka) = services::kafka() else { return };
    let (brokers, name) = (kafka.bootstrap(), unique("several"));
    for letter in ["a", "b"] {
        kafka.create_topic(&format!("{name}-{letter}"), 2, &[]);
    }
    let program = Program::new();
    program.write(
        "p.yaml",
        format!(
            "pipeline: {name}
source:
  kafka: {{ brokers: [\"{brokers}\"], pattern: \"{name}-.*\" }}
  format: {{ json: {{ columns: {{ n: string }} }} }}
sinks: [{{ discard: true }}]
"
        ),
    );
    let topic = format!("{name}-b");
    let write = ["produce", &topic, "--file", "p.yaml", "--partition", "1"];
    assert_eq!(program.feed(&write, "{\"n\": \"1\"}\n").code, 0);
    let running = program.start(&["p.yaml"]);
    let series = format!("partition=\"1\",pipeline=\"{name}\",source=\"{topic}\"}} 1");
    eventually("the commit is told", || {
        let (_, text) = running.get("/metrics");
        let found = text
            .lines()
            .any(|l| l.starts_with("millstream_committed_offset{") && l.ends_with(&series));
        found.then_some(())
    });
    let pipelines = program.json(&["pipelines"]);
    let mut places: Vec<String> = pipelines[0]["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| format!("{}/{}", p["source"].as_str().unwrap(), p["partition"]))
        .collect();
    places.sort();
    let due = ["a/0", "a/1", "b/0", "b/1"].map(|place| format!("{name}-{place}"));
    assert_eq!(places, due);
    assert_eq!(running.end(), 0);
}

#[test]
fn records_that_a_broker_refuses_are_dead_and_tombstones_have_no_value() {
    let Some(kafka) = services::kafka() else { return };
    let (brokers, name) = (kafka.bootstrap(), unique("refused"));
    let out = format!("{name}-out");
    kafka.create_topic(&name, 1, &[]);
    kafka.create_topic(&out, 2, &[("message.timestamp.after.max.ms", "60000")]);
    let program = Program::new();
    program.write(
        "p.yaml",
        format!(
            "pipeline: {name}
source:
  kafka: {{ brokers: [\"{brokers}\"], topic: {name} }}
  format: {{ json: {{ columns: {{ k: string, at: bigint, gone: boolean }} }} }}
sinks:
  - kafka: {{ brokers: [\"{brokers}\"], topic: {out} }}
    key: k
    timestamp: at
    tombstone: gone
    format: json
batch: {{ max_rows: 20 }}
max_dead_ratio: 1
"
        ),
    );
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    let rows: String = (0..200)
        .map(|n| {
            let at = if n % 50 == 7 { now + 36_000_000 } else { now };
            format!("{{\"k\":\"k{n}\",\"at\":{at},\"gone\":{}}}\n", n == 100)
        })
        .collect();
    let written = program.feed(&["produce", &name, "--file", "p.yaml"], rows);
    assert_eq!(written.code, 0, "{written:?}");
    let running = program.start(&["p.yaml"]);
    eventually("all is done", || {
        let offsets = program.json(&["offsets", "show", "--file", "p.yaml"]);
        (offsets[0]["committed"] == 200).then_some(())
    });
    assert_eq!(running.end(), 0);
    let letters = program.json(&["dead-letters", "list"]);
    let letters = letters.as_array().unwrap();
    let dead: Vec<i64> = letters.iter().map(|l| l["source_offset"].as_i64().unwrap()).collect();
    assert_eq!(dead, [7, 57, 107, 157], "{letters:?}");
    let reason = letters[0]["reason"].as_str().unwrap();
    assert!(reason.contains("the broker refuses the record"), "{reason}");
    let rows = program.ok(&[
        "tap",
        &out,
        "--file",
        "p.yaml",
        "--from",
        "earliest",
        "--no-follow",
        "--json",
    ]);
    let rows = lines(&rows);
    let mut keys: Vec<i64> = rows
        .iter()
        .map(|row| row["key"].as_str().unwrap().trim_start_matches('k').parse().unwrap())
        .collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys, (0..200).filter(|n| n % 50 != 7).collect::<Vec<_>>());
    for row in &rows {
        let is_gone = row["key"] == "k100";
        assert_eq!(row["value"].is_null(), is_gone, "{row}");
        assert!(is_gone || row["value"].get("gone").is_none(), "{row}");
    }
}
