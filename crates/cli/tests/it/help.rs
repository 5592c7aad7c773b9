//! `--help` of every command, as a golden file; every one has an example.

use crate::program::Program;

const COMMANDS: &[&str] = &[
    "",
    "run",
    "serve",
    "check",
    "explain",
    "test",
    "pipelines",
    "offsets",
    "offsets show",
    "offsets reset",
    "offsets forget",
    "topics",
    "topics list",
    "topics create",
    "topics describe",
    "topics delete",
    "topics verify",
    "produce",
    "tap",
    "tables",
    "tables list",
    "tables create",
    "tables load",
    "tables get",
    "tables scan",
    "tables drop",
    "schemas",
    "schemas list",
    "schemas show",
    "schemas register",
    "schemas compatible",
    "schemas level",
    "dead-letters",
    "dead-letters list",
    "dead-letters show",
    "dead-letters replay",
    "migrate",
    "schema",
    "completions",
    "demo",
];

#[test]
fn help_of_every_command() {
    let program = Program::new();
    let mut all = String::new();
    for command in COMMANDS {
        let mut args: Vec<&str> = command.split_whitespace().collect();
        args.push("--help");
        let help = program.ok(&args);
        // A command of commands has its examples below.
        let group = help.contains("\nCommands:\n") && !command.is_empty();
        assert!(group || help.contains("Example"), "{command} has no example");
        all.push_str(&format!("$ millstream {}\n{help}\n", args.join(" ")));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn every_command_is_in_the_golden_file() {
    let program = Program::new();
    for group in ["", "offsets", "topics", "tables", "schemas", "dead-letters"] {
        let mut args: Vec<&str> = group.split_whitespace().collect();
        args.push("--help");
        let help = program.ok(&args);
        let (_, rest) = help.split_once("Commands:\n").unwrap();
        for line in rest.lines().take_while(|line| !line.is_empty()) {
            // Further lines of a description stand further in.
            let Some(name) = line.strip_prefix("  ").filter(|line| !line.starts_with(' ')) else {
                continue;
            };
            let name = name.split_whitespace().next().unwrap();
            let full = format!("{group} {name}");
            assert!(COMMANDS.contains(&full.trim()), "{full} is missing");
        }
    }
}

#[test]
fn completions_and_the_schema_are_whole() {
    let program = Program::new();
    assert!(program.ok(&["completions", "bash"]).contains("dead-letters"));
    let schema: serde_json::Value = serde_json::from_str(&program.ok(&["schema"])).unwrap();
    assert!(schema["properties"]["sinks"].is_object());
}

#[test]
fn the_reference_is_what_the_program_prints() {
    let printed = Program::new().ok(&["schema", "--format", "markdown"]);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference.md");
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    let differs = printed.lines().zip(kept.lines()).find(|(printed, kept)| printed != kept);
    assert!(
        printed == kept,
        "docs/reference.md is not what is printed (first at {differs:?}): renew it with \
         `cargo run -p millstream -- schema --format markdown > docs/reference.md`"
    );
}
