//! Checkpoints: forward only, bound to a source, one fsync for all.

use crate::support::*;
use millstream_core::Disposition;
use millstream_tables::{Commit, Committed, Error, Offsets, Source};

fn source(id: &str) -> Source {
    Source { id: id.into(), name: format!("topic of {id}") }
}

fn commit(offsets: &Offsets, partition: u32, next_offset: i64) -> Result<(), Error> {
    offsets.commit(&[Commit { pipeline: "p", partition, next_offset }])
}

fn of(offsets: &Offsets, pipeline: &str) -> Vec<(u32, i64)> {
    offsets.get(pipeline).map(|c| c.offsets.into_iter().collect()).unwrap_or_default()
}

#[test]
fn offsets_come_back_and_only_go_forward() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let offsets = db.offsets();
    assert!(matches!(commit(&offsets, 0, 1), Err(Error::Unbound(_))));
    let bound = offsets.bind("p", &source("1")).unwrap();
    assert_eq!(bound, Committed { source: source("1"), offsets: [].into() });
    offsets
        .commit(&[
            Commit { pipeline: "p", partition: 0, next_offset: 10 },
            Commit { pipeline: "p", partition: 7, next_offset: 1 << 40 },
        ])
        .unwrap();
    commit(&offsets, 0, 10).unwrap();
    let error = commit(&offsets, 0, 9).unwrap_err();
    assert_eq!(error.disposition(), Disposition::Stop);
    assert!(error.to_string().contains("committed up to 10, so 9 would go back"), "{error}");
    // One that goes back takes the others of the same call with it.
    let both = [
        Commit { pipeline: "p", partition: 7, next_offset: 1 << 41 },
        Commit { pipeline: "p", partition: 0, next_offset: 9 },
    ];
    assert!(offsets.commit(&both).is_err());
    drop((offsets, db));

    let offsets = open(dir.path()).offsets();
    assert_eq!(of(&offsets, "p"), [(0, 10), (7, 1 << 40)]);
    assert_eq!(offsets.pipelines(), ["p"]);
}

#[test]
fn another_source_needs_a_reset() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let offsets = db.offsets();
    offsets.bind("p", &source("1")).unwrap();
    offsets.bind("p/q\0", &source("1")).unwrap();
    for partition in 0..3 {
        commit(&offsets, partition, 5).unwrap();
    }
    let renamed = Source { name: "renamed".into(), ..source("1") };
    assert_eq!(offsets.bind("p", &renamed).unwrap().offsets.len(), 3);
    let error = offsets.bind("p", &source("2")).unwrap_err();
    assert!(error.to_string().contains("from `topic of 1` and now reads `topic of 2`"), "{error}");

    offsets.reset("p", &source("2"), &[(1, 2)]).unwrap();
    assert_eq!(of(&offsets, "p"), [(1, 2)]);
    commit(&offsets, 1, 3).unwrap();
    assert!(offsets.forget("p/q\0").unwrap());
    assert!(!offsets.forget("p/q\0").unwrap());
    drop((offsets, db));

    let db = open(dir.path());
    assert_eq!(db.offsets().get("p").unwrap().source, source("2"));
    assert_eq!(of(&db.offsets(), "p"), [(1, 3)]);
    assert_eq!(db.offsets().pipelines(), ["p"]);
    assert!(db.offsets().forget("p").unwrap());
    drop(db);
    assert_eq!(open(dir.path()).offsets().pipelines(), [""; 0]);
}

#[test]
fn commits_that_wait_together_share_an_fsync() {
    const THREADS: u32 = 8;
    const ROUNDS: i64 = 50;
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let offsets = db.offsets();
    offsets.bind("p", &source("1")).unwrap();
    let before = db.stats().unwrap();
    std::thread::scope(|scope| {
        for partition in 0..THREADS {
            let offsets = offsets.clone();
            scope.spawn(move || {
                (1..=ROUNDS).for_each(|round| commit(&offsets, partition, round).unwrap());
            });
        }
    });
    let after = db.stats().unwrap();
    let commits = i64::from(THREADS) * ROUNDS;
    assert_eq!((after.commits - before.commits) as i64, commits);
    assert!((after.fsyncs - before.fsyncs) < commits as u64, "{after:?}");
    assert_eq!(after.generation - before.generation, commits as u64);
    assert!(of(&offsets, "p").iter().all(|(_, offset)| *offset == ROUNDS));
}
