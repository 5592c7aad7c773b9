//! The demo, small: from an empty directory to the result, and what a second one does.

use crate::program::Program;

#[test]
fn the_demo_comes_to_its_end_and_the_next_starts_clean() {
    let program = Program::new();
    for _ in 0..2 {
        let out = program.ok(&["--data", "d", "demo", "--events", "3000"]);
        assert!(out.contains("every one accounted for"), "{out}");
        assert!(out.contains("United States"), "{out}");
        assert!(
            out.contains("google.com/bot"),
            "the dead letter is the line that is cut short: {out}"
        );
        assert!(out.contains("millstream --data d tap enriched"), "{out}");
    }
    let counted = program.ok(&["--data", "d", "topics", "describe", "navigation", "--json"]);
    let counted: serde_json::Value = serde_json::from_str(&counted).unwrap();
    let records = counted["topic"]["records"].as_i64().unwrap();
    // One line is cut short, and a few downloads have no package and are filtered out.
    assert!((2_990..=2_999).contains(&records), "{records}");
}

#[test]
fn a_directory_of_somebody_else_is_not_touched() {
    let program = Program::new();
    program.ok(&["topics", "create", "mine"]);
    let said = program.run(&["demo", "--events", "1000"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("--data"), "{}", said.err);
    assert_eq!(program.json(&["topics", "list"])[0]["name"], "mine");
}

#[test]
fn an_interrupted_demo_is_continued() {
    let program = Program::new();
    let demo = ["--data", "d", "demo", "--events", "300000"];
    // While it is opened, or just begun; and when it has done some of it.
    for millis in [0, 300] {
        let mut child = program.command(&demo).spawn().unwrap();
        let socket = program.path("d/millstream.sock");
        crate::program::eventually("it is opened", || socket.exists().then_some(()));
        std::thread::sleep(std::time::Duration::from_millis(millis));
        let pid = child.id().to_string();
        assert!(
            std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success()
        );
        let code = child.wait().unwrap().code();
        assert_eq!(code, Some(130), "the demo was too fast to be interrupted");
    }
    let out = program.ok(&demo);
    assert!(out.contains("Continuing the demo"), "{out}");
    let counted = program.ok(&["--data", "d", "topics", "describe", "navigation", "--json"]);
    let counted: serde_json::Value = serde_json::from_str(&counted).unwrap();
    let records = counted["topic"]["records"].as_i64().unwrap();
    assert!((299_900..=300_000).contains(&records), "{counted}");
}
