//! Kafka's own tools, which are the Java client, unchanged.

use crate::server::Server;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `dev/services kafka TOOL` against this server.
fn tool(server: &Server, tool: &str, args: &[&str], input: &str) -> String {
    let address = server.address.to_string();
    bare(&[&[tool, "--bootstrap-server", &address], args].concat(), input)
}

/// Runs one that is told the server in a way of its own.
fn bare(args: &[&str], input: &str) -> String {
    let mut child = command()
        .arg("kafka")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let run = child.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{args:?}: {out}\n{err}");
    format!("{out}\n{err}")
}

fn command() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dev/services"))
}

#[test]
fn kafkas_own_tools_work_unchanged() {
    let setup = command().args(["setup", "kafka"]).output();
    let missing = match setup {
        Ok(run) if run.status.success() => None,
        Ok(run) => Some(String::from_utf8_lossy(&run.stderr).into_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(why) = missing {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "Kafka's tools are due in CI: {why}"
        );
        eprintln!("skipped, there are no tools of Kafka: {why}");
        return;
    }
    let server = Server::start();
    let run = |name: &str, args: &[&str], input: &str| tool(&server, name, args, input);
    run("topics", &["--create", "--topic", "t", "--partitions", "3"], "");
    run("topics", &["--alter", "--topic", "t", "--partitions", "4"], "");
    let said = run("topics", &["--describe", "--topic", "t"], "");
    assert!(said.contains("PartitionCount: 4") && said.contains("Leader: 1"), "{said}");
    let config = ["--entity-type", "topics", "--entity-name", "t"];
    run(
        "configs",
        &[&["--alter", "--add-config", "retention.ms=3600000"], &config[..]].concat(),
        "",
    );
    let said = run("configs", &[&["--describe"], &config[..]].concat(), "");
    assert!(said.contains("retention.ms=3600000"), "{said}");

    let lines: String = (0..500).map(|at| format!("key{at}\tvalue {at}\n")).collect();
    run("produce", &["--topic", "t", "--property", "parse.key=true"], &lines);
    for protocol in ["classic", "consumer"] {
        let group = format!("of-{protocol}");
        let kind = format!("group.protocol={protocol}");
        let args = [
            "--topic",
            "t",
            "--from-beginning",
            "--max-messages",
            "500",
            "--group",
            &group,
            "--consumer-property",
            &kind,
        ];
        let read = run("consume", &args, "");
        for at in 0..500 {
            assert!(read.contains(&format!("value {at}\n")), "{protocol}: {at}");
        }
        let said = run("groups", &["--describe", "--group", &group], "");
        let committed: i64 = said
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                (words.next() == Some(&group)).then(|| words.nth(2)?.parse::<i64>().ok())?
            })
            .sum();
        assert_eq!(committed, 500, "{said}");
    }
    let of = ["--group", "of-classic"];
    let back = ["--topic", "t", "--reset-offsets", "--to-earliest", "--execute"];
    run("groups", &[&of[..], &back].concat(), "");
    run("groups", &[&["--delete"], &of[..]].concat(), "");
    let said = run("offsets", &["--topic", "t"], "");
    let ends = said.lines().filter_map(|line| line.strip_prefix("t:")?.rsplit(':').next());
    assert_eq!(ends.filter_map(|end| end.parse::<i64>().ok()).sum::<i64>(), 500, "{said}");
    // A consumer of many partitions names them once.
    run("topics", &["--create", "--topic", "many", "--partitions", "200"], "");
    run("produce", &["--topic", "many", "--property", "parse.key=true"], &lines);
    let args = ["--topic", "many", "--from-beginning", "--max-messages", "500"];
    let before = server.meter.read().fetch_sessions;
    let read = run("consume", &args, "");
    for at in 0..500 {
        assert_eq!(read.matches(&format!("value {at}\n")).count(), 1, "{at}");
    }
    assert!(server.meter.read().fetch_sessions_begun > 0);
    assert_eq!(server.meter.read().fetch_sessions, before, "it was ended in the end");

    let args = ["--topic", "t", "--max-messages", "20000"];
    let said = run("verifiable-produce", &args, "");
    assert!(said.contains("\"acked\":20000"), "{said}");
    let to = format!("bootstrap.servers={}", server.address);
    let size = ["--num-records", "20000", "--record-size", "100", "--throughput", "-1"];
    let args = [&["--topic", "many", "--producer-props", &to], &size[..]].concat();
    let said = bare(&[&["perf-produce"], &args[..]].concat(), "");
    assert!(said.contains("20000 records sent"), "{said}");
    let said = run("perf-consume", &["--topic", "many", "--messages", "20000"], "");
    assert!(said.contains(", 20"), "{said}");
    run("topics", &["--delete", "--topic", "t"], "");
    assert!(server.log.topic("t").is_none());
}
