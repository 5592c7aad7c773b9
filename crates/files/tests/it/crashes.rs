//! Tasks that end in the middle and begin again: each row is in place once.

use crate::support::*;
use millstream_core::{Receipt, Sink};
use millstream_files::{Files, FilesOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_place_are_passed_over_and_those_that_are_not_are_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<Row> = (0..30).map(row).collect();
    let files = open(options(folder.path()));
    let mut sink = begun(&files, 0);
    let first = write(&mut *sink, batch(0, 10, &all[..10]), &[]).await.unwrap();
    sink.flush();
    first.durable.await.unwrap();
    let second = write(&mut *sink, batch(10, 20, &all[10..20]), &[]).await.unwrap();
    // The task ends; the next one begins before anything was committed.
    drop(sink);
    let mut sink = begun(&files, 0);
    let again = write(&mut *sink, batch(0, 30, &all), &[]).await.unwrap();
    assert_eq!(again.rows, 20, "ten are in place");
    assert!(second.durable.await.is_err(), "it was given up");
    sink.flush();
    again.durable.await.unwrap();
    assert_eq!(rows(folder.path()), all);
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_of_another_source_say_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let files = open(options(folder.path()));
    for identity in ["topic:1", "topic:2"] {
        let mut sink = files.sink().unwrap();
        sink.begin(&millstream_core::Beginning { identity: identity.into(), ..beginning(0) });
        let receipt = write(&mut *sink, batch(0, 1, &[row(0)]), &[]).await.unwrap();
        sink.flush();
        receipt.durable.await.unwrap();
    }
    assert_eq!(rows(folder.path()), [row(0), row(0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_comes_after_rows_that_were_lost() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("{partition}");
    let files = open(options(&inside));
    let mut sink = begun(&files, 0);
    let lost = write(&mut *sink, batch(0, 10, &[row(0)]), &[]).await.unwrap();
    // What was written is gone before it was put in place.
    fs::remove_dir_all(folder.path().join("3")).unwrap();
    sink.flush();
    assert!(lost.durable.await.is_err());
    assert!(write(&mut *sink, batch(10, 20, &[row(10)]), &[]).await.is_err(), "0 is missing");
    drop(sink);
    let mut sink = begun(&files, 0);
    let again = write(&mut *sink, batch(0, 20, &[row(0), row(10)]), &[]).await.unwrap();
    sink.flush();
    again.durable.await.unwrap();
    assert_eq!(rows(folder.path()), [row(0), row(10)]);
}

/// A record that was dead at first, and whose letter may not be durable, is not in place.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_dead_and_turns_to_rows_is_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let files = open(options(folder.path()));
    let mut sink = begun(&files, 0);
    let receipt = write(&mut *sink, batch(0, 3, &[row(0), row(2)]), &[1]).await.unwrap();
    sink.flush();
    receipt.durable.await.unwrap();
    // Its letter was not, and now it can be worked on; and once more.
    for _ in 0..2 {
        drop(sink);
        sink = begun(&files, 0);
        let all = [row(0), row(1), row(2)];
        let receipt = write(&mut *sink, batch(0, 3, &all), &[]).await.unwrap();
        receipt.durable.await.unwrap();
        assert_eq!(rows(folder.path()), all);
    }
    // Once all of them are settled nothing is left of the list.
    sink.settled(3);
    drop(sink);
    let mut sink = begun(&files, 3);
    write(&mut *sink, batch(3, 4, &[]), &[]).await.unwrap();
    assert!(names(folder.path()).iter().all(|name| !name.ends_with(".dead")));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_is_in_place_once_however_tasks_end() {
    for seed in 0..16 {
        let folder = tempfile::tempdir().unwrap();
        let mut given = options(folder.path());
        let by_date = seed % 2 == 1;
        if by_date {
            given.folder = millstream_files::Folder::parse(&folder.path().join("{date}")).unwrap();
            given.date = Some("day".into());
        }
        given.roll.rows = 7 + seed % 11;
        Simulation::new(seed, given).run(folder.path()).await;
    }
}

/// A partition task, as far as a sink sees it.
struct Simulation {
    rng: StdRng,
    seed: u64,
    given: FilesOptions,
    /// What each record turns to; those that are dead at first come right later.
    rows: BTreeMap<i64, Vec<Row>>,
    dead: BTreeSet<i64>,
    letters: BTreeSet<i64>,
    committed: i64,
}

const OFFSETS: i64 = 200;

impl Simulation {
    fn new(seed: u64, given: FilesOptions) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut rows = BTreeMap::new();
        let mut dead = BTreeSet::new();
        for offset in 0..OFFSETS {
            let many = [0, 1, 1, 1, 1, 3][rng.random_range(0..6)];
            let day = |rng: &mut StdRng| Some(rng.random_range(0..3));
            let of = (0..many).map(|nth| Row { offset, nth, day: day(&mut rng) }).collect();
            rows.insert(offset, of);
            if rng.random_range(0..8) == 0 {
                dead.insert(offset);
            }
        }
        Self { rng, seed, given, rows, dead, letters: BTreeSet::new(), committed: 0 }
    }

    async fn run(mut self, folder: &Path) {
        let files = open(self.given.clone());
        for _ in 0..12 {
            self.task(&files, true).await;
            // What is in place is whole and there once, also now.
            self.check(folder, false);
        }
        self.task(&files, false).await;
        self.check(folder, true);
    }

    /// From the last commit until it dies, or to the end.
    async fn task(&mut self, files: &Arc<Files>, dies: bool) {
        let mut sink = begun(files, self.committed);
        let mut at = self.committed;
        let mut outstanding: Vec<(i64, Vec<i64>, Receipt)> = Vec::new();
        while at < OFFSETS {
            if dies && self.rng.random_range(0..6) == 0 {
                // Its receipts are dropped, and what it wrote last may still be under way.
                return;
            }
            let to = (at + self.rng.random_range(1..20)).min(OFFSETS);
            let mut dead: Vec<i64> = self.dead.range(at..to).copied().collect();
            // Some come right, and may be wrong again; not so where a column says the folder, which
            // cannot tell what of such a record is in place.
            let by_date = self.given.date.is_some();
            dead.retain(|offset| {
                let comes_right = self.rng.random_range(0..3) == 0;
                if comes_right && by_date {
                    self.dead.remove(offset);
                }
                !comes_right
            });
            let rows: Vec<Row> = (at..to)
                .filter(|offset| !dead.contains(offset))
                .flat_map(|offset| self.rows[&offset].clone())
                .collect();
            let receipt = write(&mut *sink, batch(at, to, &rows), &dead).await.unwrap();
            outstanding.push((to, dead, receipt));
            at = to;
            if self.rng.random_range(0..3) == 0 || at == OFFSETS {
                sink.flush();
                if !self.settle(&mut *sink, &mut outstanding, dies).await {
                    return;
                }
            }
        }
    }

    /// False when it dies.
    async fn settle(
        &mut self,
        sink: &mut dyn Sink,
        outstanding: &mut Vec<(i64, Vec<i64>, Receipt)>,
        dies: bool,
    ) -> bool {
        for (to, dead, receipt) in outstanding.drain(..) {
            receipt.durable.await.unwrap();
            if dies && self.rng.random_range(0..8) == 0 {
                // Before the letters are durable.
                return false;
            }
            self.letters.extend(dead);
            sink.settled(to);
            if self.rng.random_range(0..3) > 0 {
                self.committed = to;
            }
        }
        true
    }

    fn check(&self, folder: &Path, at_end: bool) {
        let found = rows(folder);
        let distinct: BTreeSet<Row> = found.iter().copied().collect();
        assert_eq!(distinct.len(), found.len(), "seed {}: twice in {found:?}", self.seed);
        if at_end {
            for (offset, rows) in &self.rows {
                let there = rows.iter().all(|row| distinct.contains(row));
                assert!(
                    there || self.letters.contains(offset),
                    "seed {}: {offset} is nowhere",
                    self.seed
                );
            }
        }
    }
}
