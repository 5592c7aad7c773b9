//! Crashes: a commit that came back implies that it, and every row before it, is there.

use crate::support::*;
use millstream_tables::{Commit, Database, Options, Source};
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

fn source() -> Source {
    Source { id: "1".into(), name: "t".into() }
}

/// Writes rows `from..to` of a partition, then commits that it did.
fn work(db: &Database, from: i64, to: i64) {
    let table = people(db);
    let offsets = db.offsets();
    offsets.bind("p", &source()).unwrap();
    for n in from..to {
        table.write(&row("k", n, "some value that takes a little room"), None, None).unwrap();
    }
    offsets.commit(&[Commit { pipeline: "p", partition: 0, next_offset: to }]).unwrap();
}

/// The committed offset, after checking that every row below it is there.
fn check(dir: &Path) -> i64 {
    let db = open(dir);
    let committed = db.offsets().get("p").and_then(|c| c.offsets.get(&0).copied()).unwrap_or(0);
    let rows = db.table("people").map_or(0, |table| all(&table).len() as i64);
    assert!(rows >= committed, "{rows} rows for the offset {committed}");
    committed
}

fn journal(dir: &Path) -> PathBuf {
    let journals = fs::read_dir(dir.join("store")).unwrap().map(|entry| entry.unwrap().path());
    journals.filter(|path| path.extension().is_some_and(|e| e == "jnl")).max().unwrap()
}

#[test]
fn what_is_on_the_disk_after_a_commit_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let (live, copied) = (dir.path().join("live"), dir.path().join("copy"));
    let db = open(&live);
    for round in 0..10 {
        work(&db, round * 10, (round + 1) * 10);
        // Not committed, and partly in a buffer still.
        let extra = rows(&[("uncommitted", round, None)]);
        db.table("people").unwrap().write(&extra, None, None).unwrap();
        copy(&live, &copied);
        assert_eq!(check(&copied), (round + 1) * 10);
        fs::remove_dir_all(&copied).unwrap();
    }
}

#[test]
fn a_journal_cut_short_takes_rows_and_offsets_back_together_and_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (live, copied) = (dir.path().join("live"), dir.path().join("copy"));
    let db = open(&live);
    let mut ends = Vec::new();
    for round in 0..8 {
        work(&db, round * 5, (round + 1) * 5);
        // The journal's file is larger than what was written to it.
        let bytes = fs::read(journal(&live)).unwrap();
        ends.push(bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1);
    }
    let (first, last) = (ends[0], ends[7]);
    let mut seen = std::collections::BTreeSet::new();
    for step in 0..25 {
        let cut = first + (last - first) * step / 24;
        for damage in ["cut", "flip"] {
            copy(&live, &copied);
            let file = OpenOptions::new().read(true).write(true).open(journal(&copied)).unwrap();
            if damage == "cut" {
                file.set_len(cut).unwrap();
            } else {
                use std::os::unix::fs::FileExt;
                let mut byte = [0];
                file.read_exact_at(&mut byte, cut).unwrap();
                file.write_all_at(&[byte[0] ^ 0x55], cut).unwrap();
            }
            drop(file);
            // A bit flip may be found by its checksum, which stops the opening; it is never served.
            if let Ok(db) = Database::open(&copied, Hands::new().options()) {
                let report = db.report();
                drop(db);
                let committed = check(&copied);
                let lost = (40 - committed) / 5;
                let reported = report.journal_cut.map_or(0, |journal| {
                    (journal.expected_generation - journal.found_generation) as i64
                });
                assert_eq!(reported, lost, "{damage} at {cut} of {last}: {report:?}");
                seen.insert(committed);
                // It works on from there, and does not report the same loss for ever.
                let db = open(&copied);
                work(&db, committed, 40);
                drop(db);
                let db = open(&copied);
                assert_eq!(db.report().journal_cut, None);
                drop(db);
                assert_eq!(check(&copied), 40);
            } else {
                assert_eq!(damage, "flip", "a journal that is cut short opens");
            }
            fs::remove_dir_all(&copied).unwrap();
        }
    }
    assert!(seen.len() > 4, "the cuts were all alike: {seen:?}");
}

/// Runs [`die`] in a process of its own, which a failpoint ends.
fn crash(dir: &Path, failpoint: &str, bug: Option<&str>) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "crash::die", "--ignored"]);
    child.env("TABLES_CRASH_DIR", dir).env("MILLSTREAM_FAILPOINT", failpoint);
    if let Some(bug) = bug {
        child.env("MILLSTREAM_BUG", bug);
    }
    let output = child.output().unwrap();
    assert!(!output.status.success(), "the failpoint {failpoint} was not reached");
}

#[test]
#[ignore = "dies: the tests below run it in a process of its own"]
fn die() {
    let dir = std::env::var("TABLES_CRASH_DIR").unwrap();
    // Small, so that tables are written out and compacted meanwhile.
    let options = Options { memtable_bytes: 16 * 1024, free_bytes_min: 0, ..Options::default() };
    let db = Database::open(dir, options).unwrap();
    let start = db.offsets().get("p").and_then(|c| c.offsets.get(&0).copied()).unwrap_or(0);
    for round in 0..200 {
        work(&db, start + round * 10, start + (round + 1) * 10);
    }
}

#[test]
fn killed_at_any_point_nothing_committed_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut committed = 0;
    for (failpoint, at_least) in [
        ("tables.write@205", 200),
        ("tables.commit.written@30", 290),
        ("tables.commit.persisted@7", 70),
        ("tables.write@1", 0),
        ("tables.commit.written@1", 0),
        ("tables.commit.persisted@1", 10),
        ("tables.write@1777", 1770),
    ] {
        crash(dir.path(), failpoint, None);
        let now = check(dir.path());
        assert!(now >= committed + at_least, "{failpoint}: {committed} became {now}");
        committed = now;
    }
}

#[test]
fn a_commit_without_an_fsync_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    crash(dir.path(), "tables.commit.persisted@3", Some("commit_without_persist"));
    let db = open(dir.path());
    let committed = db.offsets().get("p").and_then(|c| c.offsets.get(&0).copied()).unwrap_or(0);
    assert!(committed < 30, "the bug is on, and yet {committed} is there");
    assert!(db.report().journal_cut.is_some());
}
