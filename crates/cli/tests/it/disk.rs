//! The disk fails a running job: it runs full and has room again, or the journal cannot be written.

use crate::program::{Program, eventually};
use millstream_testkit::events::{Event, Fate, Generator};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

const PIPELINE: &str = "\
pipeline: numbers
source:
  file: numbers.jsonl
  follow: true
  format:
    json:
      columns: { key: string, seq: bigint, fate: string, crc: string, number: string }
steps:
  - sql: |
      SELECT key, seq, fate, crc, number, CAST(number AS BIGINT) AS n
      FROM input
      WHERE fate <> 'drop'
sinks:
  - topic: out
    key: key
    format: json
  - table: seen
    key: [key]
    clustering: [seq]
max_dead_ratio: 50%
batch: { max_rows: 50 }
";

fn append(program: &Program, events: &[Event]) {
    let mut file =
        std::fs::File::options().append(true).open(program.path("numbers.jsonl")).unwrap();
    let lines: String = events.iter().map(|event| event.line() + "\n").collect();
    file.write_all(lines.as_bytes()).unwrap();
}

/// Key and number of each row of an answer in JSON Lines, in order.
fn places(out: &str, row: impl Fn(&Value) -> Value) -> Vec<(String, u64)> {
    out.lines()
        .map(|line| {
            let row = row(&serde_json::from_str(line).unwrap());
            (row["key"].as_str().unwrap().to_owned(), row["seq"].as_u64().unwrap())
        })
        .collect()
}

#[test]
fn a_full_disk_is_waited_for_and_nothing_is_lost() {
    let program = Program::new();
    program.write("numbers.yaml", PIPELINE);
    program.write("numbers.jsonl", "");
    let mut generator = Generator::new(7, 11);
    let events: Vec<Event> = (0..900).map(|_| generator.event()).collect();
    let full = program.path("disk-is-full");
    append(&program, &events[..400]);
    let running = program.start_with(&["numbers.yaml"], &[("MILLSTREAM_DISK_FULL", &full)]);
    let rows_in = || program.json(&["pipelines"])[0]["rows_in"].as_u64().unwrap();
    eventually("the first events are in", || (rows_in() == 400).then_some(()));
    assert_eq!(running.get("/health/ready").0, 200);

    std::fs::write(&full, "").unwrap();
    append(&program, &events[400..]);
    let reason = eventually("it waits", || {
        let pipelines = program.json(&["pipelines"]);
        pipelines[0]["waits_for"][0].as_str().map(str::to_owned)
    });
    assert!(reason.contains("full") || reason.contains("bytes left"), "{reason}");
    let (status, body) = running.get("/health/ready");
    assert_eq!(status, 503, "{body}");
    assert!(body.contains(&reason), "{body}");
    assert_eq!(running.get("/health/live").0, 200, "a restart would not help");
    assert!(rows_in() < 900);
    let said = program.feed(&["produce", "other", "--partitions", "1"], "x\n");
    assert_eq!(said.code, 1, "a full disk is nobody's mistake: {}", said.err);
    assert!(said.err.contains("full"), "{}", said.err);
    program.ok(&["tap", "out", "--from", "earliest", "--no-follow"]);

    std::fs::remove_file(&full).unwrap();
    eventually("all events are in", || (rows_in() == 900).then_some(()));
    eventually("it is ready", || (running.get("/health/ready").0 == 200).then_some(()));
    let pipelines = program.json(&["pipelines"]);
    assert_eq!(pipelines[0]["waits_for"], serde_json::json!([]));
    assert_eq!(running.end(), 0);
    nothing_is_lost(&program, &events);
}

#[test]
fn a_journal_that_stays_broken_ends_the_run_and_the_next_goes_on() {
    let program = Program::new();
    program.write("numbers.yaml", PIPELINE);
    program.write("numbers.jsonl", "");
    let mut generator = Generator::new(8, 11);
    let events: Vec<Event> = (0..600).map(|_| generator.event()).collect();
    let broken = program.path("journal-fails");
    append(&program, &events[..300]);
    let running = program.start_with(&["numbers.yaml"], &[("MILLSTREAM_JOURNAL_FAILS", &broken)]);
    let rows_in = || program.json(&["pipelines"])[0]["rows_in"].as_u64().unwrap();
    eventually("the first events are in", || (rows_in() == 300).then_some(()));
    std::fs::write(&broken, "").unwrap();
    append(&program, &events[300..]);
    assert_eq!(running.wait().code(), Some(1));
    let log = std::fs::read_to_string(program.path("run.log")).unwrap();
    assert!(log.contains("the tables' journal failed"), "{log}");
    assert!(log.contains("start again"), "{log}");

    std::fs::remove_file(&broken).unwrap();
    let running = program.start(&["numbers.yaml"]);
    eventually("the rest is in", || {
        let pipelines = program.json(&["pipelines"]);
        (rows_in() > 0 && pipelines[0]["lag"] == 0).then_some(())
    });
    assert_eq!(running.end(), 0);
    nothing_is_lost(&program, &events);
}

/// Every event is where it should be; those that come again are no loss.
fn nothing_is_lost(program: &Program, events: &[Event]) {
    let of = |fate: Fate| -> BTreeSet<(String, u64)> {
        let those = events.iter().filter(|event| event.fate == fate);
        those.map(|event| (event.key.clone(), event.seq)).collect()
    };
    let out = program.ok(&["tap", "out", "--from", "earliest", "--no-follow", "--json"]);
    let out = places(&out, |row| row["value"].clone());
    assert_eq!(out.iter().cloned().collect::<BTreeSet<_>>(), of(Fate::Out));
    let wanted = of(Fate::Out);
    let mut last = BTreeMap::new();
    for (key, seq) in &out {
        // An event that comes again may come late, a new one never early.
        let newest = last.entry(key).or_insert(0);
        let between = |(of, n): &&(String, u64)| of == key && *n > *newest && n < seq;
        let missed = wanted.iter().filter(between).count();
        assert_eq!(missed, 0, "{key}/{seq} came before an older one");
        *newest = *seq.max(newest);
    }
    let rows = program.ok(&["tables", "scan", "seen", "--json"]);
    let rows = places(&rows, Value::clone);
    assert_eq!(rows.iter().cloned().collect::<BTreeSet<_>>(), of(Fate::Out));
    assert_eq!(rows.len(), of(Fate::Out).len());
    let letters = program.json(&["dead-letters", "list", "--limit", "1000"]);
    let letters: BTreeSet<(String, u64)> = letters
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| {
            let place = format!("{}:{}", letter["partition"], letter["offset"]);
            let whole = program.json(&["dead-letters", "show", "numbers", &place]);
            let event: Event = serde_json::from_str(whole["value"].as_str().unwrap()).unwrap();
            (event.key, event.seq)
        })
        .collect();
    assert_eq!(letters, of(Fate::Dead));
}
