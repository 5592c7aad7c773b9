//! Every command says the same through the socket of a running process as on a stopped directory.

use crate::program::{Program, eventually};
use serde_json::{Value, json};

const PIPELINE: &str = "\
pipeline: visits
source:
  topic: visits
  format:
    json:
      columns: { uid: string, country: string, ms: int }
lookups:
  countries: { table: countries }
steps:
  - sql: |
      SELECT v.uid, c.name AS country, 1000 / v.ms AS per_second
      FROM input v JOIN countries c ON c.code = v.country
sinks:
  - table: by_user
    key: [uid]
  - topic: named
    key: uid
    format: json
dead_letters: { topic: graveyard }
";

const TESTS: &str = "\
cases:
  - name: a country gets its name
    input: [{ uid: u1, country: DE, ms: 10 }]
    lookups: { countries: [{ code: DE, name: Germany }] }
    expect: { rows: [{ uid: u1, country: Germany, per_second: 100 }] }
";

/// A directory with something of everything in it; the pipeline has run over it once.
pub fn filled() -> Program {
    let program = Program::new();
    program.write("visits.yaml", PIPELINE);
    program.write("visits.test.yaml", TESTS);
    program.write("countries.csv", "code,name\nDE,Germany\nFR,France\n");
    program.write(
        "visit.avsc",
        r#"{"type":"record","name":"Visit","fields":[{"name":"uid","type":"string"},{"name":"ms","type":"int"}]}"#,
    );
    program.ok(&["topics", "create", "visits", "--partitions", "2"]);
    program.ok(&["tables", "load", "countries", "countries.csv", "--key", "code"]);
    program.ok(&["schemas", "register", "visit-value", "visit.avsc"]);
    let lines = "\
u1|{\"uid\":\"u1\",\"country\":\"DE\",\"ms\":10}
u2|{\"uid\":\"u2\",\"country\":\"FR\",\"ms\":4}
u3|{\"uid\":\"u3\",\"country\":\"XX\",\"ms\":1}
u4|{\"uid\":\"u4\",\"country\":\"DE\",\"ms\":0}
u5|no json
";
    let said = program.feed(&["produce", "visits", "--key-separator", "|"], lines);
    assert_eq!(said.code, 0, "{}", said.err);
    let avro = "{\"uid\":\"a\",\"ms\":1}\n{\"uid\":\"b\",\"ms\":2}\n";
    let said =
        program.feed(&["produce", "framed", "--partitions", "1", "--subject", "visit-value"], avro);
    assert_eq!(said.code, 0, "{}", said.err);
    program.ok(&["run", "visits.yaml", "--exit-when-idle", "--listen", "off"]);
    program
}

/// The commands that only read, with the parts that change with every run taken out.
fn answers(program: &Program) -> Vec<(String, Value)> {
    let commands: &[&[&str]] = &[
        &["topics", "list"],
        &["topics", "describe", "visits"],
        &["topics", "verify"],
        &["tables", "list"],
        &["schemas", "list"],
        &["schemas", "show", "visit-value"],
        &["schemas", "show", "--id", "1"],
        &["schemas", "compatible", "visit-value", "visit.avsc"],
        &["offsets", "show"],
        &["offsets", "show", "visits"],
        &["dead-letters", "list"],
        &["check", "visits.yaml"],
        &["explain", "visits.yaml"],
        &["test", "visits.yaml"],
    ];
    let mut answers: Vec<_> =
        commands.iter().map(|args| (args.join(" "), program.json(args))).collect();
    let streams: &[&[&str]] = &[
        &["tables", "get", "countries", "DE"],
        &["tables", "scan", "by_user"],
        &["tap", "named", "--from", "earliest", "--no-follow"],
        &["tap", "framed", "--from", "earliest", "--no-follow"],
        &["tap", "framed", "--from", "earliest", "--no-follow", "--where", "ms > 1"],
        &["tap", "named", "--from", "earliest", "--no-follow", "--where", "country = 'France'"],
        &["tap", "framed", "--from", "-1", "--no-follow", "--raw"],
    ];
    for args in streams {
        let out = program.ok(&[*args, &["--json"]].concat());
        let rows = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        answers.push((args.join(" "), Value::Array(rows)));
    }
    answers
}

#[test]
fn commands_that_read_say_the_same_both_ways() {
    let program = filled();
    let stopped = answers(&program);
    let running = program.start(&["visits.yaml"]);
    let remote = answers(&program);
    for ((command, stopped), (_, remote)) in stopped.iter().zip(&remote) {
        assert_eq!(stopped, remote, "{command}");
    }
    assert_eq!(running.end(), 0);

    let of = |command: &str| &stopped.iter().find(|(name, _)| name == command).unwrap().1;
    assert_eq!(*of("tables get countries DE"), json!([{"code": "DE", "name": "Germany"}]));
    let letters = of("dead-letters list").as_array().unwrap();
    assert_eq!(letters.len(), 2, "u4 divides by zero, u5 is no JSON: {letters:?}");
    let rows = of("tables scan by_user").as_array().unwrap();
    assert_eq!(rows.len(), 2, "u1 and u2; u3 has no country: {rows:?}");
    let framed = of("tap framed --from earliest --no-follow --where ms > 1").as_array().unwrap();
    assert_eq!(framed.len(), 1);
    assert_eq!(framed[0]["value"], json!({"uid": "b", "ms": 2}));
    assert_eq!(framed[0]["schema_id"], 1);
    let raw = of("tap framed --from -1 --no-follow --raw").as_array().unwrap();
    assert_eq!(raw[0]["value"], "AAAAAAECYgQ=");
}

#[test]
fn commands_that_write_work_both_ways() {
    for up in [false, true] {
        let program = filled();
        let running = up.then(|| program.start(&["visits.yaml"]));
        program.ok(&["topics", "create", "more", "--partitions", "3", "--retention", "7d"]);
        let topic = &program.json(&["topics", "describe", "more"])["topic"];
        assert_eq!(topic["retention_ms"], 604_800_000, "up: {up}");
        let said = program.feed(&["produce", "more", "--partition", "2"], "x\ny\n");
        assert_eq!(said.code, 0, "{}", said.err);
        assert_eq!(program.json(&["topics", "describe", "more"])["topic"]["records"], 2);
        program.ok(&["topics", "delete", "more", "--yes"]);

        program.write("more.jsonl", "{\"code\":\"IT\",\"name\":\"Italy\"}\n");
        program.ok(&["tables", "load", "countries", "more.jsonl"]);
        let row = program.ok(&["tables", "get", "countries", "IT", "--json"]);
        assert_eq!(row, "{\"code\":\"IT\",\"name\":\"Italy\"}\n");
        program.ok(&["tables", "create", "new", "--column", "id:bigint", "--key", "id"]);
        program.ok(&["tables", "drop", "new", "--yes"]);

        program.ok(&["schemas", "level", "FULL", "--subject", "visit-value"]);
        assert_eq!(program.json(&["schemas", "list"])[0]["level"], "FULL");
        program.write(
            "other.avsc",
            r#"{"type":"record","name":"Visit","fields":[{"name":"uid","type":"int"}]}"#,
        );
        let said = program.run(&["schemas", "compatible", "visit-value", "other.avsc"]);
        assert_eq!((said.code, said.out.starts_with("not compatible:")), (1, true));

        let offsets = program.json(&["offsets", "reset", "visits", "--to", "earliest"]);
        assert_eq!(offsets.as_array().unwrap().len(), 2, "{offsets}");
        drop(running);
    }
}

#[test]
fn letters_are_shown_whole_and_replayed_once() {
    for up in [false, true] {
        let program = filled();
        let running = up.then(|| program.start(&["visits.yaml"]));
        let letters = program.json(&["dead-letters", "list", "--pipeline", "visits"]);
        let place = |letter: &Value| format!("{}:{}", letter["partition"], letter["offset"]);
        let whole: Vec<Value> = letters
            .as_array()
            .unwrap()
            .iter()
            .map(|letter| program.json(&["dead-letters", "show", "graveyard", &place(letter)]))
            .collect();
        for letter in &whole {
            // By the pipeline too, though a topic has its name.
            assert_eq!(program.json(&["dead-letters", "show", "visits", &place(letter)]), *letter);
        }
        for (name, words) in [("visits", "no letter 9:9"), ("none", "called `none`")] {
            let said = program.run(&["dead-letters", "show", name, "9:9"]);
            assert_eq!(said.code, 2, "{}", said.err);
            assert!(said.err.contains(words), "{}", said.err);
        }
        let nowhere = ["dead-letters", "replay", "visits", "9:9", "--file", "visits.yaml"];
        let said = program.run(&nowhere);
        assert_eq!(said.code, 2, "{}", said.err);
        assert!(said.err.contains("no letter 9:9"), "{}", said.err);
        let broken = whole.iter().find(|letter| letter["key"] == "u5").unwrap();
        assert_eq!(broken["value"], "no json");
        assert_eq!(broken["pipeline"], "visits");

        let replay = |choice: &[&str], file: &str| {
            let first = ["dead-letters", "replay", "visits", "--json", "--file", file];
            program.run(&[&first[..], choice].concat())
        };
        let said = replay(&["--kind", "foo"], "visits.yaml");
        assert_eq!(said.code, 2, "{}", said.err);
        let kind = broken["kind"].as_str().unwrap();
        assert!(said.err.contains("`foo`") && said.err.contains(kind), "{}", said.err);
        if !up {
            // The records of another source are not what its letters were.
            let text = std::fs::read_to_string(program.path("visits.yaml")).unwrap();
            program.ok(&["topics", "create", "others"]);
            program.write("others.yaml", text.replace("topic: visits", "topic: others"));
            let said = replay(&["--all"], "others.yaml");
            assert_eq!(said.code, 2, "{}", said.err);
            assert_eq!(said.err.matches("has offsets of").count(), 1, "{}", said.err);
        }
        let said = replay(&["--all"], "visits.yaml");
        assert_eq!(said.code, 1, "all are dead again: {}", said.err);
        let replayed: Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!((&replayed["replayed"], &replayed["dead"]), (&json!(2), &json!(2)), "up: {up}");
        // Both became letters again, with one attempt more; the old ones are done.
        let again = program.json(&["dead-letters", "list", "--pipeline", "visits"]);
        let again = again.as_array().unwrap();
        assert_eq!(again.len(), 4);
        assert_eq!(again.iter().filter(|letter| letter["replayed"] == true).count(), 2);
        assert_eq!(again.iter().filter(|letter| letter["attempt"] == 2).count(), 2);
        drop(running);
    }
}

#[test]
fn a_table_is_asked_by_the_ranges_that_begin_at_its_key() {
    let program = Program::new();
    program.write("ranges.csv", "start,end,who\n0,9,low\n10,19,high\n40,49,far\n");
    program.ok(&[
        "tables",
        "load",
        "ranges",
        "ranges.csv",
        "--key",
        "start",
        "--column",
        "start:bigint",
        "--column",
        "end:bigint",
    ]);
    program.write("in.jsonl", "{\"n\":3}\n{\"n\":10}\n{\"n\":30}\n{\"n\":49}\n");
    let file = |range: &str, on: &str| {
        format!(
            "pipeline: p\nsource: {{ file: in.jsonl, format: {{ json: {{ columns: {{ n: bigint }} }} }} }}\nlookups:\n  r: {{ table: ranges{range} }}\nsteps:\n  - sql: SELECT i.n, r.who FROM input i LEFT JOIN r ON {on}\nsinks: [{{ topic: out, format: json }}]\n"
        )
    };
    let range = ", range: [start, end]";
    program.write("p.yaml", file(range, "i.n BETWEEN r.start AND r.\"end\""));
    program.ok(&["check", "p.yaml"]);
    program.ok(&["run", "p.yaml", "--until-end", "--listen", "off"]);
    let tapped = program.ok(&["tap", "out", "--from", "earliest", "--no-follow", "--json"]);
    let found: Vec<Value> = tapped
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["value"]["who"].clone())
        .collect();
    assert_eq!(found, [json!("low"), json!("high"), Value::Null, json!("far")]);

    program.ok(&[
        "tables",
        "load",
        "pairs",
        "ranges.csv",
        "--key",
        "who",
        "--column",
        "start:bigint",
        "--column",
        "end:bigint",
    ]);
    let text = file(range, "i.n BETWEEN r.start AND r.\"end\"").replace("ranges", "pairs");
    program.write("q.yaml", text);
    let said = program.run(&["check", "q.yaml"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("its whole key must be `start`"), "{}", said.err);
}

#[test]
fn tap_follows_while_the_process_runs() {
    use std::io::{BufRead, BufReader};
    let program = filled();
    let _running = program.start(&["visits.yaml"]);
    let mut tap = program
        .command(&["tap", "visits", "--limit", "1", "--json", "--where", "uid = 'late'"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tap.stdout.take().unwrap()).lines();
    // The tap begins at the end; what comes before it is there is not seen, so go on until it is.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(lines.next()));
    let line = eventually("a row came", || {
        let input = "{\"uid\":\"late\",\"country\":\"DE\",\"ms\":5}\n";
        assert_eq!(program.feed(&["produce", "visits"], input).code, 0);
        receiver.recv_timeout(std::time::Duration::from_millis(200)).ok()
    });
    let row: Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
    assert_eq!(row["value"]["uid"], "late");
    assert_eq!(tap.wait().unwrap().code(), Some(0));
}
