//! The examples, with the commands that the README gives.

use crate::program::Program;
use std::path::{Path, PathBuf};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").canonicalize().unwrap()
}

#[test]
fn the_readme_s_first_pipeline() {
    let program = Program::new();
    let first = examples().join("first/first.yaml");
    let first = first.to_str().unwrap();
    for command in ["check", "explain", "test"] {
        program.ok(&[command, first]);
    }
    let preview = program.ok(&["run", first, "--preview", "3"]);
    assert!(preview.contains("83.149.9.216"), "{preview}");
    program.ok(&["run", first, "--until-end", "--listen", "off"]);
    let rows = program.ok(&["tables", "get", "visits", "83.149.9.216"]);
    assert!(rows.contains("kibana"), "{rows}");
    let tapped =
        program.ok(&["tap", "visits", "--from", "earliest", "--no-follow", "--limit", "3"]);
    assert_eq!(tapped.lines().count(), 3, "{tapped}");
    assert!(program.ok(&["dead-letters", "list"]).contains("does not match"));
}

#[test]
fn the_readme_shows_the_first_pipeline_as_it_is() {
    let readme = std::fs::read_to_string(examples().join("../README.md")).unwrap();
    let first = std::fs::read_to_string(examples().join("first/first.yaml")).unwrap();
    let shown = &first[first.find("pipeline: first").unwrap()..];
    assert!(readme.contains(shown), "README.md and examples/first/first.yaml differ");
}

#[test]
fn the_demo_s_cases_pass() {
    // No topic is there: the cases bring their rows, and the file its schema.
    let program = Program::new();
    for name in ["access", "cran", "enrich"] {
        let file = examples().join(format!("demo/{name}.yaml"));
        program.ok(&["test", file.to_str().unwrap()]);
    }
}

#[test]
fn the_demo_s_folder_is_checked_whole() {
    let program = Program::new();
    let files: Vec<String> =
        ["access", "access.test", "cran", "cran.test", "enrich", "enrich.test"]
            .map(|name| examples().join(format!("demo/{name}.yaml")).display().to_string())
            .into();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let out = program.ok(&[&["check"], files.as_slice()].concat());
    assert_eq!(out.lines().count(), 6, "{out}");
    assert!(out.contains("enrich.test.yaml: ok, 3 cases of pipeline enrich"), "{out}");
    let out = program.ok(&[&["test"], files.as_slice()].concat());
    assert!(out.contains("8 cases, 0 failed"), "{out}");
}
