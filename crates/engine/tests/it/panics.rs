//! Panics: a restart from the last commit, and the record to blame found when it panics again.

use crate::harness::{Bench, FakeSink, numbered, simple, written};
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use millstream_core::{Decoded, Decoder, Records, Result};
use millstream_engine::replay;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Panics on records that contain `bomb`, as often as `left` says.
struct Bombed {
    inner: Box<dyn Decoder>,
    left: Arc<AtomicU32>,
}

#[async_trait]
impl Decoder for Bombed {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn decode(&mut self, records: &Records) -> Result<Decoded> {
        let bomb = records.iter().any(|r| r.value.unwrap().windows(4).any(|w| w == b"bomb"));
        if bomb && self.left.load(Ordering::Relaxed) > 0 {
            self.left.fetch_sub(1, Ordering::Relaxed);
            panic!("a bomb went off");
        }
        self.inner.decode(records)
    }
}

/// The same, and never ready for a record alone that contains `wait`.
struct Unready(Bombed);

#[async_trait]
impl Decoder for Unready {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    async fn prepare(&mut self, records: &Records) -> Result<()> {
        let waits = records.iter().any(|r| r.value.unwrap().windows(4).any(|w| w == b"wait"));
        if waits && records.len() == 1 {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn decode(&mut self, records: &Records) -> Result<Decoded> {
        self.0.decode(records)
    }
}

async fn run(bombs: u32) -> (Bench, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 2);
    let mut values = numbered(0..100);
    for at in [37, 38, 90] {
        values[at] = format!(r#"{{"id":{at},"v":"bomb"}}"#);
    }
    bench.produce("in", 0, &values).await;
    bench.produce("in", 1, &numbered(100..150)).await;
    let left = Arc::new(AtomicU32::new(bombs));
    bench
        .start_with(&simple(dir.path(), "batch: { max_rows: 20 }"), |pipeline| {
            let inner = std::mem::replace(&mut pipeline.decoder, Box::new(|| unreachable!()));
            pipeline.decoder =
                Box::new(move || Ok(Box::new(Bombed { inner: inner()?, left: left.clone() })));
        })
        .await;
    bench.idle().await;
    (bench, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_that_passes_costs_a_restart_only() {
    let (bench, _dir) = run(1).await;
    assert_eq!(bench.counts("p"), (150, 150, 0, 0));
    assert_eq!(bench.metric("panics_total", "p"), 1);
    assert_eq!(bench.metric("restarts_total", "p"), 1);
    let mut ids = bench.ids("out");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, (0..150).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_panics_again_becomes_a_dead_letter_and_its_neighbours_go_on() {
    let (bench, _dir) = run(u32::MAX).await;
    assert_eq!(bench.counts("p"), (150, 147, 0, 3));
    let letters = bench.letters("p.dead");
    let seen: Vec<_> = letters.iter().map(|l| (l.source_offset, l.kind.as_str())).collect();
    assert_eq!(seen, [(37, "panic"), (38, "panic"), (90, "panic")]);
    assert!(letters[0].reason.contains("a bomb went off"), "{}", letters[0].reason);
    let mut ids = bench.ids("out");
    ids.sort_unstable();
    ids.dedup();
    let want: Vec<_> = (0..150).filter(|id| ![37, 38, 90].contains(id)).collect();
    assert_eq!(ids, want);

    // A replay of it panics too, and must not take the process along.
    let opened = bench.engine.pipeline("p").unwrap();
    let replayed = replay(&opened, Some(&[(0, 0)])).await.unwrap();
    assert_eq!(replayed.dead, 1);
    assert_eq!(bench.letters("p.dead")[3].attempt, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_panics_once_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 1);
    bench.produce("in", 0, &numbered(0..50)).await;
    let opened = Arc::new(AtomicU32::new(0));
    let count = opened.clone();
    bench
        .start_with(&simple(dir.path(), "batch: { max_rows: 10 }"), |pipeline| {
            pipeline.sinks[0].open = Box::new(move || {
                let first = count.fetch_add(1, Ordering::Relaxed) == 0;
                Ok(Box::new(FakeSink(move |ids: Vec<i64>| {
                    assert!(!(first && ids[0] == 20), "the sink fell over");
                    Ok(written(ids.len()))
                })))
            });
        })
        .await;
    bench.idle().await;
    assert_eq!(opened.load(Ordering::Relaxed), 2);
    assert_eq!(bench.counts("p"), (50, 50, 0, 0));
    assert_eq!(bench.metric("panics_total", "p"), 1);
}

/// As a user would meet it: by the environment, in a process of its own.
#[test]
fn the_environment_can_ask_for_a_panic() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "panics::child", "--ignored", "--nocapture"])
        .env("MILLSTREAM_PANIC_ON", "\"id\":13}")
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test above"]
async fn child() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 1);
    bench.produce("in", 0, &numbered(0..30)).await;
    bench.start(&[simple(dir.path(), "")]).await;
    bench.idle().await;
    assert_eq!(bench.counts("p"), (30, 29, 0, 1));
    assert_eq!(bench.letters("p.dead")[0].source_offset, 13);
    assert_eq!(bench.ids("out"), (0..30).filter(|id| *id != 13).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_after_a_record_that_is_not_done_before_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 1);
    let mut values = numbered(0..10);
    values[3] = r#"{"id":3,"v":"bomb"}"#.to_owned();
    values[5] = r#"{"id":5,"v":"wait"}"#.to_owned();
    bench.produce("in", 0, &values).await;
    let kept = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let keep = kept.clone();
    bench
        .start_with(&simple(dir.path(), ""), |pipeline| {
            let inner = std::mem::replace(&mut pipeline.decoder, Box::new(|| unreachable!()));
            // From the second on its records go one by one.
            let left = Arc::new(AtomicU32::new(2));
            pipeline.decoder = Box::new(move || {
                Ok(Box::new(Unready(Bombed { inner: inner()?, left: left.clone() })))
            });
            pipeline.sinks[0].open = Box::new(move || {
                let keep = keep.clone();
                Ok(Box::new(FakeSink(move |ids: Vec<i64>| {
                    keep.lock().extend(&ids);
                    Ok(written(ids.len()))
                })))
            });
        })
        .await;
    bench.until("written", |_| kept.lock().contains(&4)).await;
    assert!(bench.engine.drain(std::time::Duration::from_secs(10)).await);
    assert_eq!(*kept.lock(), [0, 1, 2, 3, 4], "they would be written again");
    assert_eq!(bench.committed("p", 0), Some(5));
}
