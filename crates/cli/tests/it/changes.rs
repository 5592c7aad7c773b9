//! Commands that change something: what they say they did, and what they refuse.

use crate::both_ways::filled;
use crate::program::{Program, eventually};
use serde_json::{Value, json};

#[test]
fn every_change_is_told_as_one_json_object() {
    for up in [false, true] {
        let program = filled();
        let running = up.then(|| program.start(&["visits.yaml"]));
        let topic = program.json(&["topics", "create", "more", "--partitions", "3"]);
        assert_eq!((&topic["created"], &topic["topic"]["partitions"]), (&json!(true), &json!(3)));
        assert_eq!(
            program.json(&["topics", "delete", "more", "--yes"]),
            json!({"deleted": true, "topic": "more", "records": 0, "pipelines": []}),
        );
        let create = ["tables", "create", "new", "--column", "id:bigint", "--key", "id"];
        let table = program.json(&create);
        assert_eq!((&table["created"], &table["name"]), (&json!(true), &json!("new")));
        assert_eq!(program.json(&create)["created"], false, "it is there");
        assert_eq!(
            program.json(&["tables", "drop", "new", "--yes"]),
            json!({"deleted": true, "table": "new"}),
        );
        assert_eq!(
            program.json(&["schemas", "level", "full", "--subject", "visit-value"]),
            json!({"subject": "visit-value", "level": "FULL"}),
        );
        drop(running);
        assert_eq!(
            program.json(&["offsets", "forget", "visits", "--yes"]),
            json!({"pipeline": "visits", "forgotten": true}),
        );
    }
}

#[test]
fn a_table_that_is_there_keeps_its_shape() {
    for up in [false, true] {
        let program = filled();
        let running = up.then(|| program.start(&["visits.yaml"]));
        let refused = |args: &[&str], words: &[&str]| {
            let said = program.run(args);
            assert_eq!(said.code, 2, "{args:?}: {}", said.err);
            for word in words {
                assert!(said.err.contains(word), "{args:?} does not say {word:?}: {}", said.err);
            }
        };
        let load = ["tables", "load", "countries", "countries.csv"];
        let with = |more: &[&'static str]| [&load[..], more].concat();
        refused(&with(&["--key", "name"]), &["key is code, not name"]);
        refused(&with(&["--clustering", "name"]), &["clustering is none, not name"]);
        refused(&with(&["--column", "code:int"]), &["`code` is string, not int"]);
        refused(&with(&["--column", "area:int"]), &["no column `area`"]);
        program.ok(&with(&["--key", "code", "--column", "code:string"]));

        let create = ["tables", "create", "countries", "--key", "code", "--column", "code:string"];
        let with = |more: &[&'static str]| [&create[..], more].concat();
        refused(&with(&[]), &["has a column `name`"]);
        let more = ["--column", "name:string", "--ttl", "7d"];
        refused(&with(&more), &["time-to-live is none, not 604800 s"]);
        let said = program.ok(&with(&["--column", "name:string"]));
        assert_eq!(said, "countries is already there, with this shape\n");
        drop(running);
    }
}

#[test]
fn what_a_running_pipeline_uses_is_not_deleted() {
    let program = filled();
    let running = program.start(&["visits.yaml"]);
    for args in [
        ["topics", "delete", "visits"],
        ["topics", "delete", "named"],
        ["topics", "delete", "graveyard"],
        ["tables", "drop", "by_user"],
        ["tables", "drop", "countries"],
    ] {
        let said = program.run(&[&args[..], &["--yes"]].concat());
        assert_eq!(said.code, 2, "{args:?}: {}", said.err);
        assert!(said.err.contains("the pipeline `visits`"), "{args:?}: {}", said.err);
    }
    assert_eq!(running.end(), 0);
    program.ok(&["tables", "drop", "by_user", "--yes"]);
    let said = program.ok(&["topics", "delete", "visits", "--yes"]);
    assert!(said.contains("deleted visits with 5 records"), "{said}");
    assert!(said.contains("offsets forget visits --yes"), "{said}");
}

#[test]
fn offsets_are_reset_only_to_where_the_source_can_be_read() {
    let program = Program::new();
    program.write("in.txt", "one\ntwo\n");
    program.write(
        "a.yaml",
        "pipeline: a\nsource: { file: in.txt, follow: true, format: text }\nsinks: [{ topic: out, format: json }]\n",
    );
    program.write(
        "b.yaml",
        "pipeline: b\nsource: { topic: out, format: json }\nsinks: [{ discard: true }]\n",
    );
    let running = program.start(&["a.yaml", "b.yaml"]);
    let done = |name: &str| {
        let pipelines = program.json(&["pipelines"]);
        let named = pipelines.as_array().unwrap().iter().find(|p| p["name"] == name).cloned();
        named.is_some_and(|p| p["rows_out"] == 2 && p["lag"] == 0)
    };
    eventually("both have read", || (done("a") && done("b")).then_some(()));
    let wrong = || {
        for args in [["a", "--to", "1h"], ["b", "--to", "99"]] {
            let said = program.run(&[&["offsets", "reset"], &args[..]].concat());
            assert_eq!(said.code, 2, "{args:?}: {}", said.err);
        }
        for name in ["a", "b"] {
            let said = program.run(&["offsets", "reset", name, "--to", "0", "--partition", "7"]);
            assert_eq!(said.code, 2, "{name}: {}", said.err);
        }
    };
    wrong();
    assert_eq!(running.end(), 0);
    wrong();
}

#[test]
fn a_source_that_cannot_be_reset_at_rest_is_named_with_what_to_do() {
    let program = filled();
    program.ok(&["topics", "delete", "visits", "--yes"]);
    let said = program.run(&["offsets", "reset", "visits", "--to", "earliest"]);
    assert_eq!(said.code, 2, "{}", said.err);
    for part in ["the topic `visits`, which was deleted", "--file FILE", "offsets forget visits"] {
        assert!(said.err.contains(part), "{part}: {}", said.err);
    }
    program.write(
        "k.yaml",
        "pipeline: k\nsource: { kafka: { brokers: [127.0.0.1:1], topic: far, group: g }, format: \
         json }\nsinks: [{ discard: true }]\n",
    );
    let said = program.run(&["offsets", "reset", "k", "--to", "earliest", "--file", "k.yaml"]);
    assert_eq!(said.code, 1, "a dead broker is nobody's mistake: {}", said.err);
    for part in ["no broker of 127.0.0.1:1 answers", "cannot connect"] {
        assert!(said.err.contains(part), "{part}: {}", said.err);
    }
}

#[test]
fn of_a_stopped_pipeline_only_what_is_known_is_shown() {
    let program = filled();
    let said = program.feed(
        &["produce", "visits", "--key-separator", "|"],
        "u6|{\"uid\":\"u6\",\"country\":\"DE\",\"ms\":10}\n",
    );
    assert_eq!(said.code, 0, "{}", said.err);
    let pipelines = program.json(&["pipelines"]);
    let stopped = &pipelines[0];
    assert_eq!(stopped["state"], "stopped");
    assert_eq!(stopped["lag"], 1, "{stopped}");
    for unknown in ["rows_in", "rows_out", "rows_filtered", "rows_dead", "p50_ms", "p99_ms"] {
        assert_eq!(stopped.get(unknown), Some(&Value::Null), "{unknown}: {stopped}");
    }
    let committed = stopped["partitions"].as_array().unwrap().iter();
    let committed: i64 = committed.filter_map(|p| p["committed"].as_i64()).sum();
    assert_eq!(committed, 5, "{stopped}");
    let table = program.ok(&["pipelines"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["visits", "stopped", "visits", "-", "-", "-", "-", "1", "-", "-"]);
}
