//! `tap`: which rows, in which order, and what it says of those that it cannot show.

use crate::program::Program;
use serde_json::Value;

fn tap(program: &Program, args: &[&str]) -> Vec<i64> {
    let all = [&["tap", "t", "--no-follow", "--json"], args].concat();
    let out = program.ok(&all);
    let rows = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.map(|row| row["value"]["n"].as_i64().unwrap()).collect()
}

/// Rows in two partitions whose times interleave; `n` is a row's place in time.
fn two_partitions() -> Program {
    let program = Program::new();
    program.ok(&["topics", "create", "t", "--partitions", "2"]);
    for (partition, numbers) in [("0", [1, 3, 5, 6]), ("1", [2, 4, 7, 8])] {
        let lines: String = numbers
            .iter()
            .map(|n| format!("{{\"value\":{{\"n\":{n}}},\"timestamp\":{}}}\n", 1_000 * n))
            .collect();
        let args = ["produce", "t", "--format", "jsonl", "--partition", partition];
        assert_eq!(program.feed(&args, lines).code, 0);
    }
    program
}

/// A pipeline that leaves the topic alone, so that a process runs on the directory.
fn elsewhere(program: &Program) -> crate::program::Running {
    program.write("in.txt", "");
    program.write(
        "a.yaml",
        "pipeline: a\nsource: { file: in.txt, follow: true, format: text }\nsinks: [{ discard: true }]\n",
    );
    program.start(&["a.yaml"])
}

#[test]
fn the_last_rows_are_those_of_all_partitions() {
    let program = two_partitions();
    for up in [false, true] {
        let _running = up.then(|| elsewhere(&program));
        assert_eq!(tap(&program, &["--from", "-3"]), [6, 7, 8], "up: {up}");
        assert_eq!(tap(&program, &["--from", "-6"]), [3, 4, 5, 6, 7, 8]);
        assert_eq!(tap(&program, &["--from", "-99"]), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(tap(&program, &["--from", "-5", "--limit", "2"]), [4, 5]);
        assert_eq!(tap(&program, &["--from", "-3", "--partition", "0"]), [3, 5, 6]);
        assert_eq!(tap(&program, &["--from", "-4", "--where", "n > 6"]), [7, 8]);
    }
}

#[test]
fn rows_on_which_the_condition_fails_are_counted() {
    let program = two_partitions();
    for up in [false, true] {
        let _running = up.then(|| elsewhere(&program));
        let args = ["tap", "t", "--from", "earliest", "--no-follow", "--where", "10 / (n - 3) > 4"];
        let said = program.run(&args);
        assert_eq!(said.code, 0, "{}", said.err);
        assert_eq!(said.out.lines().count(), 2, "4 and 5: {}", said.out);
        assert!(said.err.contains("failed on 1 row"), "{}", said.err);
        assert!(said.err.contains("zero"), "{}", said.err);
    }
}

#[test]
fn a_wrong_condition_is_refused_before_there_is_a_row() {
    let program = Program::new();
    program.ok(&["topics", "create", "t"]);
    program.write("t.avsc", r#"{"type":"record","name":"T","fields":[{"name":"n","type":"int"}]}"#);
    let tap = |condition: &str| program.run(&["tap", "t", "--no-follow", "--where", condition]);
    let said = tap("n >");
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("the condition:"), "{}", said.err);
    assert_eq!(tap("m > 1").code, 0, "nobody knows the columns yet");
    program.ok(&["schemas", "register", "t-value", "t.avsc"]);
    assert_eq!(tap("n > 1").code, 0);
    let said = tap("m > 1");
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("m"), "{}", said.err);
}
