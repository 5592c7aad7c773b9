//! Rows in files: the process is killed wherever it may be, and each event is in one file.

use crate::program::{Program, eventually};
use millstream_testkit::events::{Checker, Event, Fate, Generator};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

const PIPELINE: &str = "\
pipeline: numbers
source:
  file: numbers.jsonl
  follow: FOLLOW
  format:
    json:
      columns: { key: string, seq: bigint, fate: string, crc: string, number: string }
steps:
  - sql: |
      SELECT key, seq, fate, crc, number, CAST(number AS BIGINT) AS n
      FROM input
      WHERE fate <> 'drop'
sinks:
  - files: { folder: out, format: json_lines, max_rows: 40, max_time: 200ms }
max_dead_ratio: 50%
batch: { max_rows: 15 }
";

fn program(follow: bool) -> Program {
    let program = Program::new();
    program.write("numbers.yaml", PIPELINE.replace("FOLLOW", &follow.to_string()));
    program.write("numbers.jsonl", "");
    program
}

fn append(program: &Program, events: &[Event]) {
    let mut file = fs::File::options().append(true).open(program.path("numbers.jsonl")).unwrap();
    let lines: String = events.iter().map(|event| event.line() + "\n").collect();
    file.write_all(lines.as_bytes()).unwrap();
}

/// The events of all files that are in place, in the order of their names.
fn in_files(folder: &Path) -> Vec<Event> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.'))
        .collect();
    names.sort();
    let lines = names.iter().map(|path| fs::read_to_string(path).unwrap()).collect::<String>();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn letters(program: &Program) -> Vec<Event> {
    let letters = program.json(&["dead-letters", "list", "--limit", "10000"]);
    letters
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| {
            let place = format!("{}:{}", letter["partition"], letter["offset"]);
            let whole = program.json(&["dead-letters", "show", "numbers", &place]);
            serde_json::from_str(whole["value"].as_str().unwrap()).unwrap()
        })
        .collect()
}

/// Each event once in the files, in order, and each bad one in the letters.
fn check(program: &Program, events: &[Event]) {
    let mut checker = Checker::default();
    events.iter().for_each(|event| checker.sent(event));
    checker.arrived("the files", Fate::Out, &in_files(&program.path("out")), true, 0);
    checker.arrived("the letters", Fate::Dead, &letters(program), false, u64::MAX);
    let faults = checker.faults();
    assert!(faults.is_empty(), "{faults:#?}");
    let hidden = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut left = fs::read_dir(program.path("out")).unwrap().map(|entry| hidden(entry.unwrap()));
    assert!(!left.any(|name| name.ends_with(".part")), "nothing half done is left");
}

#[test]
fn each_event_is_in_one_file_wherever_the_process_dies() {
    let program = program(false);
    let mut generator = Generator::new(21, 11);
    let events: Vec<Event> = (0..600).map(|_| generator.event()).collect();
    append(&program, &events);
    let run = ["run", "numbers.yaml", "--until-end", "--listen", "off"];
    let points = [
        "files.written@1",
        "files.placed@2",
        "files.listed@2",
        "engine.settled@4",
        "dead_letters.due@2",
        "files.placed@1",
        "engine.sink_written@7",
        "files.listed@1",
        "dead_letters.due@1",
        "files.written@3",
    ];
    for point in points {
        let output = program.command(&run).env("MILLSTREAM_FAILPOINT", point).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "it did not pass {point}: {log}");
    }
    program.ok(&run);
    check(&program, &events);
    // What is done is done.
    program.ok(&run);
    check(&program, &events);
}

#[test]
fn each_event_is_in_one_file_whenever_the_process_is_killed() {
    let program = program(true);
    let mut generator = Generator::new(22, 11);
    let mut events = Vec::new();
    for round in 0..8u64 {
        let more: Vec<Event> = (0..150).map(|_| generator.event()).collect();
        append(&program, &more);
        events.extend(more);
        let running = program.start(&["numbers.yaml"]);
        std::thread::sleep(Duration::from_millis(40 * round));
        running.signal("-KILL");
        running.wait();
    }
    let running = program.start(&["numbers.yaml"]);
    eventually("all is done", || (program.json(&["pipelines"])[0]["lag"] == 0).then_some(()));
    // A drain does not wait for the time of a file.
    assert_eq!(running.end(), 0);
    check(&program, &events);
}

#[test]
fn a_full_disk_is_waited_for_by_files_too() {
    let program = program(true);
    let mut generator = Generator::new(23, 11);
    let events: Vec<Event> = (0..600).map(|_| generator.event()).collect();
    let full = program.path("disk-is-full");
    append(&program, &events[..300]);
    let running = program.start_with(&["numbers.yaml"], &[("MILLSTREAM_DISK_FULL", &full)]);
    let rows_in = || program.json(&["pipelines"])[0]["rows_in"].as_u64().unwrap();
    eventually("the first events are in", || (rows_in() == 300).then_some(()));
    fs::write(&full, "").unwrap();
    append(&program, &events[300..]);
    eventually("it waits", || {
        let pipelines = program.json(&["pipelines"]);
        pipelines[0]["waits_for"][0].as_str().map(str::to_owned)
    });
    fs::remove_file(&full).unwrap();
    eventually("all events are in", || (rows_in() >= 600).then_some(()));
    assert_eq!(running.end(), 0);
    check(&program, &events);
}

#[test]
fn a_letter_that_is_sent_again_is_in_a_file_of_its_own() {
    let program = program(false);
    let mut generator = Generator::new(24, 11);
    let events: Vec<Event> = (0..60).map(|_| generator.event()).collect();
    append(&program, &events);
    let dead = Event::new("k99".into(), 1, Fate::Dead);
    append(&program, std::slice::from_ref(&dead));
    let run = ["run", "numbers.yaml", "--until-end", "--listen", "off"];
    program.ok(&run);
    let before = in_files(&program.path("out")).len();
    // The mistake was the pipeline's.
    let mended = PIPELINE.replace("FOLLOW", "false").replace("CAST(number AS BIGINT)", "1");
    program.write("numbers.yaml", mended);
    program.ok(&["dead-letters", "replay", "numbers", "--all", "--file", "numbers.yaml"]);
    let after = in_files(&program.path("out"));
    let dead: Vec<_> = events.iter().chain([&dead]).filter(|e| e.fate == Fate::Dead).collect();
    assert_eq!(after.len(), before + dead.len());
    assert!(dead.into_iter().all(|event| after.contains(event)));
}

#[test]
fn each_partition_of_a_topic_has_files_of_its_own_also_after_the_topic_is_made_again() {
    let program = Program::new();
    let source = "source:\n  topic: numbers\n";
    let text = PIPELINE
        .replace("source:\n  file: numbers.jsonl\n  follow: FOLLOW\n", source)
        .replace("folder: out,", "folder: \"out/{partition}\",");
    program.write("numbers.yaml", &text);
    let mut generator = Generator::new(25, 31);
    let events: Vec<Event> = (0..400).map(|_| generator.event()).collect();
    let lines: String = events.iter().map(|e| format!("{}\t{}\n", e.key, e.line())).collect();
    let produce = ["produce", "numbers", "--partitions", "3", "--key-separator", "\t"];
    let run = ["run", "numbers.yaml", "--exit-when-idle", "--listen", "off"];
    let rows = || -> Vec<Event> {
        (0..3).flat_map(|partition| in_files(&program.path(&format!("out/{partition}")))).collect()
    };
    for round in 1..=2 {
        assert_eq!(program.feed(&produce, &lines).code, 0);
        if round == 2 {
            let reset =
                ["offsets", "reset", "numbers", "--to", "earliest", "--file", "numbers.yaml"];
            program.ok(&reset);
        }
        for point in ["files.placed@2", "files.written@2", "engine.settled@3"] {
            let output = program.command(&run).env("MILLSTREAM_FAILPOINT", point).output().unwrap();
            assert!(!output.status.success(), "it did not pass {point}");
        }
        program.ok(&run);
        let out = events.iter().filter(|event| event.fate == Fate::Out).count();
        let found = rows();
        assert_eq!(found.len(), out * round);
        for event in events.iter().filter(|event| event.fate == Fate::Out) {
            let there = found.iter().filter(|other| *other == event).count();
            assert_eq!(there, round, "{event:?}");
        }
        // Its offsets begin at 0 again, and mean something else.
        program.ok(&["topics", "delete", "numbers", "--yes"]);
    }
}

#[test]
fn files_gather_batches_and_a_run_that_ends_when_idle_does_not_wait_for_them() {
    let program = Program::new();
    program.write(
        "numbers.yaml",
        "\
pipeline: numbers
source:
  topic: numbers
  format:
    json:
      columns: { n: bigint }
sinks:
  - files: { folder: out, format: json_lines, max_time: 1h }
batch: { max_rows: 20 }
",
    );
    let lines: String = (0..400).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    assert_eq!(program.feed(&["produce", "numbers", "--partitions", "1"], &lines).code, 0);
    program.ok(&["run", "numbers.yaml", "--exit-when-idle", "--listen", "off"]);
    let files: Vec<_> = fs::read_dir(program.path("out"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    assert_eq!(files.iter().map(|file| file.lines().count()).sum::<usize>(), 400);
    assert!(files.len() <= 5, "{} files of 20 batches, of which 8 may be under way", files.len());
}
