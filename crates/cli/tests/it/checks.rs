//! `check`: all that is wrong with many files, at once and with its place.

use crate::program::Program;
use serde_json::Value;

/// The places and sentences of what `check` finds in files, on a stopped directory and through the
/// socket of a process, which must say the same.
fn mistakes(program: &Program, files: &[&str]) -> Vec<String> {
    program.write("other.txt", "");
    program.write(
        "other.yaml",
        "pipeline: other\nsource: { file: other.txt, follow: true, format: text }\nsinks: [{ discard: true }]\n",
    );
    let check = || {
        let args = [&["check", "--json"], files].concat();
        let said = program.run(&args);
        assert_eq!(said.code, 2, "{}{}", said.out, said.err);
        let answer: Value = serde_json::from_str(&said.out).unwrap();
        let mistakes = answer["mistakes"].as_array().unwrap().iter().map(|mistake| {
            let text = |name: &str| mistake[name].as_str().unwrap_or_default().to_owned();
            // What people see is the same.
            let place = format!("{}:{}:{}", text("file"), mistake["line"], mistake["column"]);
            if mistake["line"] != 0 {
                assert!(said.err.contains(&format!("--> {place}\n")), "{place}: {}", said.err);
            }
            format!("{}:{}: {}", text("file"), mistake["line"], text("message"))
        });
        mistakes.collect::<Vec<_>>()
    };
    let stopped = check();
    let running = program.start(&["other.yaml"]);
    assert_eq!(check(), stopped);
    assert_eq!(running.end(), 0);
    stopped
}

#[test]
fn one_mistake_hides_no_other() {
    let program = Program::new();
    program.write("in.txt", "one\n");
    program.write("rates.csv", "code,rate\nDE,1\n");
    program.write(
        "p.yaml",
        "\
pipeline: p
source: { file: in.txt, format: text }
lookups:
  gone: { table: nowhere }
  rates: { file: rates.csv }
steps:
  - { name: a, sql: SELECT nothing FROM input }
  - { name: b, from: source, sql: SELECT line FROM input WHERE }
  - { name: c, from: source, sql: SELECT i.line FROM input i LEFT JOIN gone g ON g.id = i.line }
  - { name: d, from: source, sql: SELECT r.rte FROM input i LEFT JOIN rates r ON r.code = i.line }
  - { name: e, from: source, sql: SELECT line FROM input }
  - { name: f, from: a, sql: SELECT something FROM input }
sinks:
  - { from: b, discard: true, name: b }
  - { from: c, discard: true, name: c }
  - { from: d, discard: true, name: d }
  - { from: f, discard: true, name: f }
  - { from: e, topic: out, key: uid, format: json }
",
    );
    let found = mistakes(&program, &["p.yaml"]);
    let lines: Vec<&str> = found.iter().map(|m| m.split(':').nth(1).unwrap()).collect();
    // Step c and f stand on what is not known, and are no mistakes by that.
    assert_eq!(lines, ["4", "7", "8", "10", "18"], "{found:#?}");
}

#[test]
fn the_sql_is_read_where_the_shape_is_wrong() {
    let program = Program::new();
    program.write("in.txt", "one\n");
    program.write(
        "p.yaml",
        "\
pipeline: p
source: { file: in.txt, format: text, folow: true }
steps:
  - sql: |
      SELECT line
      FROM input WHERE (line = 'x'
sinks:
  - { topic: out, format: jsn }
",
    );
    let found = mistakes(&program, &["p.yaml"]);
    let lines: Vec<&str> = found.iter().map(|m| m.split(':').nth(1).unwrap()).collect();
    assert_eq!(lines, ["2", "6", "8"], "{found:#?}");
    let said = program.run(&["run", "p.yaml", "--listen", "off"]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("p.yaml:6:"), "{}", said.err);
}

#[test]
fn the_mistakes_of_all_files_are_told() {
    let program = Program::new();
    program.write("in.txt", "one\n");
    program.write(
        "first.yaml",
        "\
pipeline: first
source: { file: in.txt, format: text }
sinks:
  - { topic: middle, format: json, partitons: 2 }
  - { table: names, key: [line] }
",
    );
    program.write(
        "second.yaml",
        "\
pipeline: second
source: { topic: middle, format: { json: { columns: { n: int } } } }
lookups:
  names: { table: names }
steps:
  - sql: SELECT m FROM input
  - sql: SELECT i.m FROM input i JOIN names n ON n.line = i.m
sinks: [{ discard: true }]
",
    );
    program.write("third.yaml", "pipeline: third\nsource: {\n");
    program.write("third.test.yaml", "cases: []\n");
    program.write("fourth.test.yaml", "cases: [{ name: x, input: [{ n: 1 }], expect: {} }]\n");
    let files = ["first.yaml", "second.yaml", "third.yaml", "third.test.yaml", "fourth.test.yaml"];
    let found = mistakes(&program, &files);
    let places: Vec<String> =
        found.iter().map(|m| m.split(':').take(2).collect::<Vec<_>>().join(":")).collect();
    // That the first makes the second's topic and table is seen in spite of its mistake.
    assert_eq!(
        places,
        [
            "first.yaml:4",
            "second.yaml:6",
            "third.yaml:2",
            "third.test.yaml:1",
            "fourth.test.yaml:0"
        ],
        "{found:#?}"
    );
    assert!(found[4].contains("belong to no pipeline"), "{found:#?}");
}

#[test]
fn tests_are_checked_as_tests() {
    let program = Program::new();
    program.write("in.txt", "one\n");
    program.write(
        "a.yaml",
        "pipeline: a\nsource: { file: in.txt, format: text }\nsinks: [{ discard: true }]\n",
    );
    program.write("a.test.yaml", "cases: [{ name: x, input: [{ line: x }], expect: {} }]\n");
    let said = program.ok(&["check", "a.test.yaml", "a.yaml"]);
    assert_eq!(said, "a.test.yaml: ok, 1 case of pipeline a\na.yaml: ok, pipeline a\n");
    let answer = program.json(&["check", "a.test.yaml"]);
    assert_eq!(answer["files"][0]["cases"], 1, "{answer}");
    for command in ["run", "explain"] {
        let said = program.run(&[command, "a.test.yaml"]);
        assert_eq!(said.code, 2, "{}", said.err);
        assert!(said.err.contains("tests of a pipeline"), "{}", said.err);
    }
}

#[test]
fn a_test_needs_no_topic_but_the_schema_of_its_rows() {
    let program = Program::new();
    let file = |format: &str| {
        format!(
            "pipeline: a\nsource: {{ topic: t, format: {format} }}\nsteps:\n  - sql: SELECT n + 1 AS m FROM input\nsinks: [{{ topic: out, format: json }}]\n"
        )
    };
    let cases = "cases: [{ name: x, input: [{ n: 1 }], expect: { rows: [{ m: 2 }], dead: [] } }]\n";
    program.write("a.test.yaml", cases);
    program.write("a.yaml", file("{ json: { columns: { n: int } } }"));
    assert!(program.ok(&["test", "a.yaml"]).contains("1 case, 0 failed"));
    program.write("a.yaml", file("avro"));
    let said = program.run(&["test", "a.yaml"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("no subject `t-value`"), "{}", said.err);
    assert!(said.err.contains("schema_file"), "{}", said.err);
    // To run it the topic must be there.
    let said = program.run(&["check", "a.yaml"]);
    assert!(said.err.contains("there is no topic `t`"), "{}", said.err);
}
