//! kcat, unchanged.

use crate::server::Server;
use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

/// The program, or why a test is left out. In CI it is due.
fn kcat(server: &Server, args: &[&str], input: &str) -> Option<String> {
    let command = Command::new("kcat")
        // Cargo puts the librdkafka of another test before its own.
        .env_remove("LD_LIBRARY_PATH")
        .arg("-b")
        .arg(server.address.to_string())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match command {
        Ok(child) => child,
        Err(why) if std::env::var("CI").as_deref() == Ok("true") => {
            panic!("kcat is due in CI: {why}")
        }
        Err(why) => {
            eprintln!("skipped, there is no kcat: {why}");
            return None;
        }
    };
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("kcat reads");
    let run = child.wait_with_output().expect("kcat ends");
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{args:?}: {out}\n{err}");
    Some(out.into_owned())
}

#[test]
fn kcat_produces_consumes_and_lists() {
    let server = Server::start();
    server.topic("events", 3);
    let lines: String = (0..1_000).map(|at| format!("key{at}:value {at}\n")).collect();
    for codec in ["none", "lz4", "zstd", "snappy", "gzip"] {
        let args = ["-P", "-t", "events", "-K:", "-z", codec];
        if kcat(&server, &args, &lines).is_none() {
            return;
        }
    }
    let args = ["-C", "-t", "events", "-e", "-q", "-f", "%p %o %k:%s\n"];
    let read = kcat(&server, &args, "").unwrap();
    assert_eq!(read.lines().count(), 5_000);
    for at in 0..1_000 {
        let line = format!(" key{at}:value {at}\n");
        assert_eq!(read.matches(&line).count(), 5, "{line}");
    }
    let listed = kcat(&server, &["-L"], "").unwrap();
    assert!(listed.contains("topic \"events\" with 3 partitions"), "{listed}");
    let ends = kcat(&server, &["-Q", "-t", "events:0:-1"], "").unwrap();
    let end = server.log.topic("events").unwrap().partition(0).unwrap().end_offset();
    assert!(ends.contains(&format!("offset {end}")), "{ends}");

    server.topic("many", 200);
    kcat(&server, &["-P", "-t", "many", "-K:"], &lines).unwrap();
    let read = kcat(&server, &["-C", "-t", "many", "-e", "-q", "-f", "%k:%s\n"], "").unwrap();
    assert_eq!(read.lines().collect::<BTreeSet<_>>(), lines.lines().collect());
    assert_eq!(read.lines().count(), 1_000);

    // A topic that is not there is made.
    kcat(&server, &["-P", "-t", "new-one"], "hello\n").unwrap();
    let read = kcat(&server, &["-C", "-t", "new-one", "-e", "-q"], "").unwrap();
    assert_eq!(read, "hello\n");

    // A group goes on where it was.
    let args = ["-G", "readers", "-e", "-q", "-X", "auto.offset.reset=earliest", "events"];
    let first = kcat(&server, &args, "").unwrap();
    assert_eq!(first.lines().count(), 5_000);
    kcat(&server, &["-P", "-t", "events", "-p", "1"], "one more\n").unwrap();
    let second = kcat(&server, &args, "").unwrap();
    assert_eq!(second, "one more\n");
}
