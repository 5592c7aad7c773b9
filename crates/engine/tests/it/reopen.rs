//! A journal that fails: all partitions go back to their last commit, and nothing is lost.

use crate::harness::{Bench, file, numbered};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use millstream_config::Pipeline;
use millstream_connectors::{Home, HomeOptions};
use millstream_tables::Faults;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const PARTITIONS: u32 = 3;
const ROWS: i64 = 50;

fn pipeline(dir: &Path) -> Pipeline {
    let text = "
pipeline: p
source: { topic: in, format: { json: { columns: { id: bigint } } } }
batch: { max_rows: 7 }
lookups:
  known: { table: known }
steps:
  - sql: SELECT i.id, k.name FROM input i JOIN known k ON k.key = i.id % 10
sinks: [{ table: t, key: [id] }]
";
    file(dir, "p.yaml", text)
}

fn ids(home: &Home) -> BTreeSet<i64> {
    let table = home.tables.table("t").unwrap();
    let mut ids = BTreeSet::new();
    for batch in table.scan(Default::default()).unwrap() {
        let batch = batch.unwrap();
        let column = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>();
        ids.extend(column.values());
    }
    ids
}

fn first(round: i64, partition: u32) -> i64 {
    (round * i64::from(PARTITIONS) + i64::from(partition)) * ROWS
}

/// Runs rounds on a directory, in all but the last of which a sync fails.
async fn rounds(dir: &Path, rounds: i64) -> Bench {
    let faults = Faults::default();
    let mut options = HomeOptions::default();
    options.tables.faults = faults.clone();
    let mut bench = Bench::with(dir, options);
    bench.topic("in", PARTITIONS);
    bench.topic("load", 1);
    let known: Vec<_> = (0..10).map(|n| format!(r#"{{"key":{n},"name":"n{n}"}}"#)).collect();
    bench.produce("load", 0, &known).await;
    let load = "
pipeline: load
source: { topic: load, format: { json: { columns: { key: bigint, name: string } } } }
sinks: [{ table: known, key: [key] }]
";
    bench.start(&[file(dir, "load.yaml", load)]).await;
    bench.idle().await;
    bench.restart().await;
    bench.start(&[pipeline(dir)]).await;
    for round in 0..rounds {
        let before: Vec<_> = (0..PARTITIONS).map(|p| bench.committed("p", p)).collect();
        if round + 1 < rounds {
            faults.fail_syncs(1);
        }
        for partition in 0..PARTITIONS {
            let from = first(round, partition);
            bench.produce("in", partition, &numbered(from..from + ROWS)).await;
        }
        let reopened = (round + 1).min(rounds - 1) as u64;
        bench.until("reopened", |b| b.metric("tables_reopened_total", "p") == reopened).await;
        for (partition, before) in (0..PARTITIONS).zip(before) {
            let now = bench.committed("p", partition);
            assert!(now >= before, "partition {partition} went back from {before:?} to {now:?}");
        }
        let all = (round + 1) * ROWS;
        bench
            .until("committed", |b| {
                (0..PARTITIONS).all(|p| b.metric("committed_offset", &label(p)) == all as u64)
            })
            .await;
    }
    bench
}

fn label(partition: u32) -> String {
    format!("pipeline=\"p\",partition=\"{partition}\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_syncs_cost_a_way_back_and_no_row() {
    let dir = tempfile::tempdir().unwrap();
    let bench = rounds(dir.path(), 4).await;
    bench.idle().await;
    let all = 4 * ROWS * i64::from(PARTITIONS);
    assert_eq!(ids(&bench.home), (0..all).collect());
    assert!(bench.report("p").waits_for.is_empty());
    // It ends as it should, and so it was not given up.
    assert!(bench.engine.drain(std::time::Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_cannot_be_opened_again_are_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let bench = rounds(dir.path(), 1).await;
    // Nothing can be opened where a file is missing.
    std::fs::write(dir.path().join("tables/format"), "something else").unwrap();
    bench.committer().fail();
    bench.committer().broken().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_never_synced_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let mut options = HomeOptions::default();
    options.tables.faults = faults.clone();
    let bench = Bench::with(dir.path(), options);
    bench.topic("in", 1);
    let text = "
pipeline: p
source: { topic: in, format: { json: { columns: { id: bigint } } } }
sinks: [{ table: t, key: [id] }]
";
    bench.start(&[file(dir.path(), "p.yaml", text)]).await;
    faults.fail_syncs(u32::MAX);
    bench.produce("in", 0, &numbered(0..10)).await;
    bench.committer().broken().await;
    assert_eq!(bench.metric("tables_reopened_total", "p"), 0);
    assert_eq!(bench.metric("committed_offset", "p"), 0);
}

/// What a process of its own says it has committed, before it dies without closing anything.
fn child(dir: &Path, bug: Option<&str>) -> i64 {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "reopen::dies", "--ignored", "--nocapture"]);
    child.env("ENGINE_DIR", dir);
    if let Some(bug) = bug {
        child.env("MILLSTREAM_BUG", bug);
    }
    let output = child.output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said.lines().find_map(|line| line.strip_prefix("committed "));
    line.unwrap_or_else(|| panic!("{said}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "dies: the tests below run it in a process of its own"]
async fn dies() {
    let dir = std::env::var("ENGINE_DIR").unwrap();
    rounds(Path::new(&dir), 3).await;
    println!("\ncommitted {}", 3 * ROWS);
    std::process::abort();
}

/// Whether all that was said to be committed is there, and every row below the offsets.
fn is_all_there(dir: &Path, said: i64) -> bool {
    let home = Home::open(dir, HomeOptions::default()).unwrap();
    let offsets = home.tables.offsets().get("p").unwrap().offsets;
    let ids = ids(&home);
    (0..PARTITIONS).all(|partition| {
        let committed = offsets.get(&partition).copied().unwrap_or(0);
        let there = (0..committed)
            .all(|offset| ids.contains(&(first(offset / ROWS, partition) + offset % ROWS)));
        committed >= said && there
    })
}

#[test]
fn what_was_committed_after_a_way_back_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let said = child(dir.path(), None);
    assert!(is_all_there(dir.path(), said));
}

#[test]
fn a_commit_without_a_sync_after_a_way_back_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let said = child(dir.path(), Some("commit_without_persist"));
    assert!(!is_all_there(dir.path(), said));
}
