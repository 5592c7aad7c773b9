//! The process is killed at each failpoint; what it had acknowledged is there for the next one.

use millstream_log::{BatchBuilder, Codec, Log, Options, Reader, TopicOptions};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const DIR: &str = "MILLSTREAM_LOG_KILL_DIR";
const ROUND: &str = "MILLSTREAM_LOG_KILL_ROUND";

/// The process that is killed: appends for as long as it lives, and prints what is acknowledged.
#[test]
#[ignore = "run by the tests below"]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let options = || Options { recovery_every: Duration::MAX, ..Options::default() };
    let mut log = Log::open(Path::new(&dir), options()).unwrap();
    for step in 0..60u64 {
        let topic = log.topic("t").unwrap_or_else(|| {
            let options = TopicOptions {
                segment_bytes: 2_000,
                retention_bytes: Some(6_000),
                ..TopicOptions::default()
            };
            log.create_topic("t", options).unwrap()
        });
        let partition = topic.partition(0).unwrap();
        let mut builder = BatchBuilder::new(Codec::None);
        let id = round * 1000 + step;
        builder.push(0, None, Some(&id.to_be_bytes()), &[]);
        builder.push(0, None, Some(&[7; 100]), &[]);
        let appended = partition.append(&builder.finish()).unwrap();
        println!("sent {} {id}", appended.base_offset);
        runtime.block_on(appended.durable).unwrap();
        println!("acknowledged {} {id}", appended.base_offset);
        match step % 10 {
            3 => log.save_points().unwrap(),
            6 => drop(log.enforce_retention(0).unwrap()),
            9 => {
                log.close();
                log = Log::open(Path::new(&dir), options()).unwrap();
            }
            _ => {}
        }
    }
}

/// Lives one after the other in one directory, each killed when it passes the point for the `nth`
/// time. True when it was.
fn live(dir: &Path, round: u64, point: &str, nth: u64, bug: &str) -> (bool, String) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(ROUND, round.to_string())
        .env("MILLSTREAM_FAILPOINT", format!("{point}@{nth}"))
        .env("MILLSTREAM_BUG", bug)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    (!output.status.success(), String::from_utf8(output.stdout).unwrap())
}

/// What the log holds against what was acknowledged.
fn check(dir: &Path, acknowledged: &BTreeMap<i64, u64>) -> Result<(), String> {
    let log = Log::open(dir, Options::default()).map_err(|error| error.to_string())?;
    let Some(topic) = log.topic("t") else {
        return if acknowledged.is_empty() { Ok(()) } else { Err("the topic is gone".into()) };
    };
    let partition = topic.partition(0).unwrap();
    let start = partition.start_offset();
    let mut reader = Reader::new(&partition, start, 4096).map_err(|error| error.to_string())?;
    let mut found = BTreeMap::new();
    while let Some(records) = reader.try_next().map_err(|error| error.to_string())? {
        for record in records.iter() {
            let id = record.value.and_then(|value| value.try_into().ok()).map(u64::from_be_bytes);
            found.extend(id.map(|id| (record.offset, id)));
        }
    }
    let lost = acknowledged.range(start..).find(|(offset, id)| found.get(offset) != Some(id));
    match lost {
        Some((offset, id)) => Err(format!("record {id} at {offset} is not there")),
        None => Ok(()),
    }
}

fn kill(point: &str, nths: &[u64]) -> Result<u64, String> {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    let mut killed = 0;
    for (round, nth) in nths.iter().enumerate() {
        let (died, output) = live(dir.path(), round as u64, point, *nth, "");
        killed += u64::from(died);
        acknowledgements(&output, &mut acknowledged);
        check(dir.path(), &acknowledged)
            .map_err(|error| format!("{point}@{nth}, round {round}: {error}"))?;
    }
    assert!(!acknowledged.is_empty(), "{point}: the child did nothing");
    Ok(killed)
}

#[test]
fn a_kill_at_any_failpoint_loses_nothing_acknowledged() {
    for (point, nths) in [
        ("log.append.written", [1, 7, 23, 40]),
        ("log.append.synced", [1, 9, 30, 44]),
        ("log.index", [1, 2, 5, 9]),
        ("log.roll", [1, 2, 7, 12]),
        // Passed only by a life that finds something to recover: the one after such a kill.
        ("log.recovery", [1, 2, 1, 2]),
        ("log.retention", [1, 2, 3, 6]),
    ] {
        let killed = kill(point, &nths).unwrap();
        assert!(killed > 0 || point == "log.recovery", "{point} was never passed");
        println!("{point}: killed {killed} times");
    }
}

#[test]
fn a_kill_inside_recovery_is_recovered_from() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for (round, (point, nth)) in
        [("log.append.synced", 25), ("log.recovery", 1), ("log.recovery", 2), ("none", 1)]
            .into_iter()
            .enumerate()
    {
        let (died, output) = live(dir.path(), round as u64, point, nth, "");
        assert_eq!(died, point != "none", "{point}@{nth}");
        acknowledgements(&output, &mut acknowledged);
    }
    assert!(acknowledged.len() > 60);
    check(dir.path(), &acknowledged).unwrap();
}

#[test]
fn a_recovery_that_cuts_too_much_is_found() {
    for bug in ["", "truncate_wrong"] {
        let dir = tempfile::tempdir().unwrap();
        let mut acknowledged = BTreeMap::new();
        for (round, nth) in [19, 3].into_iter().enumerate() {
            let (died, output) = live(dir.path(), round as u64, "log.append.synced", nth, bug);
            assert!(died);
            acknowledgements(&output, &mut acknowledged);
        }
        let checked = check(dir.path(), &acknowledged);
        assert_eq!(checked.is_err(), !bug.is_empty(), "{checked:?}");
    }
}

fn acknowledgements(output: &str, acknowledged: &mut BTreeMap<i64, u64>) {
    // The test harness may have begun the line.
    for (_, rest) in output.lines().filter_map(|line| line.split_once("acknowledged ")) {
        let (offset, id) = rest.split_once(' ').unwrap();
        let (offset, id) = (offset.parse().unwrap(), id.parse().unwrap());
        // An offset is acknowledged once: what was there then is there for good.
        if let Some(other) = acknowledged.insert(offset, id) {
            acknowledged.insert(offset, other);
        }
    }
}
