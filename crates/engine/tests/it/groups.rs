//! A group that takes partitions away, played by the test.

use crate::harness::{Bench, FakeSink, numbered, simple, written};
use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{
    Change, Error, Group, Partition, PartitionReader, Place, Receipt, Release, Result, Source,
    Start, Transactions,
};
use millstream_engine::{ExactlyOnce, PartitionState};
use parking_lot::Mutex;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Tells what the test tells it, and takes every commit.
struct Played {
    changes: tokio::sync::Mutex<mpsc::Receiver<Change>>,
    commits: Mutex<Vec<i64>>,
    has_more: AtomicBool,
}

#[async_trait]
impl Group for Played {
    async fn next(&self) -> Result<Change> {
        match self.changes.lock().await.recv().await {
            Some(change) => Ok(change),
            None => std::future::pending().await,
        }
    }

    fn has_told_all(&self) -> bool {
        !self.has_more.load(Ordering::Acquire)
    }

    fn start_of(&self, _partition: u32) -> Option<i64> {
        Some(self.commits.lock().last().copied().unwrap_or(0))
    }

    async fn commit(&self, offsets: &[(u32, i64)]) -> Result<Vec<(u32, i64)>> {
        self.commits.lock().extend(offsets.iter().map(|(_, offset)| *offset));
        Ok(offsets.to_vec())
    }

    async fn leave(&self) {}
}

impl Played {
    fn new(changes: mpsc::Receiver<Change>) -> Arc<Self> {
        Arc::new(Self {
            changes: tokio::sync::Mutex::new(changes),
            commits: Mutex::default(),
            has_more: AtomicBool::new(false),
        })
    }
}

/// A source whose partitions such a group shares out.
struct Shared {
    source: Box<dyn Source>,
    group: Arc<Played>,
}

#[async_trait]
impl Source for Shared {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn identity(&self) -> String {
        self.source.identity()
    }

    fn partitions(&self) -> u32 {
        self.source.partitions()
    }

    async fn reader(&self, partition: u32, start: Start) -> Result<Box<dyn PartitionReader>> {
        self.source.reader(partition, start).await
    }

    async fn offset_of(&self, partition: u32, place: Place) -> Result<i64> {
        self.source.offset_of(partition, place).await
    }

    fn place_of(&self, partition: u32) -> Partition {
        self.source.place_of(partition)
    }

    fn group(&self) -> Option<Arc<dyn Group>> {
        Some(self.group.clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_not_released_while_a_reset_waits_for_its_last_rows() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 1);
    bench.produce("in", 0, &numbered(0..10)).await;
    let (tells, changes) = mpsc::channel(4);
    let group = Played::new(changes);
    let played = group.clone();
    let (let_go, was_written) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let (wait, note) = (let_go.clone(), was_written.clone());
    let given = Arc::new(AtomicBool::new(false));
    let gives = given.clone();
    bench
        .start_with(&simple(dir.path(), ""), |pipeline| {
            let source: Box<dyn Source> = Box::new(Gone);
            let source = std::mem::replace(&mut pipeline.source, source);
            pipeline.source = Box::new(Shared { source, group: played });
            pipeline.source_topic = None;
            pipeline.grouped = true;
            pipeline.sinks[0].open = Box::new(move || {
                let (wait, note, gives) = (wait.clone(), note.clone(), gives.clone());
                Ok(Box::new(FakeSink(move |ids: Vec<i64>| {
                    gives.store(true, Ordering::Release);
                    let (wait, note) = (wait.clone(), note.clone());
                    let durable = async move {
                        wait.notified().await;
                        note.store(true, Ordering::Release);
                        Ok(())
                    };
                    Ok(Receipt { durable: durable.boxed(), ..written(ids.len()) })
                })))
            });
        })
        .await;
    tells.send(Change::Assigned(vec![0])).await.unwrap();
    bench.until("written", |_| given.load(Ordering::Acquire)).await;
    let engine = bench.engine.clone();
    let reset = tokio::spawn(async move { engine.reset("p", Place::Earliest, None).await });
    bench.until("draining", |b| b.report("p").state == PartitionState::Draining).await;
    let (release, released) = Release::new(Duration::from_secs(60));
    tells.send(Change::Revoked(vec![0], release)).await.unwrap();
    bench.until("taken out", |b| b.report("p").partitions.is_empty()).await;
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let_go.notify_one();
    });
    released.await.unwrap();
    assert!(was_written.load(Ordering::Acquire), "its rows were still being written");
    assert_eq!(group.commits.lock().first(), Some(&10));
    let _ = reset.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_idle_who_will_be_given_more() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 2);
    bench.produce("in", 0, &numbered(0..10)).await;
    let (tells, changes) = mpsc::channel(4);
    let group = Played::new(changes);
    group.has_more.store(true, Ordering::Release);
    let played = group.clone();
    bench
        .start_with(&simple(dir.path(), ""), |pipeline| {
            let source = std::mem::replace(&mut pipeline.source, Box::new(Gone));
            pipeline.source = Box::new(Shared { source, group: played });
            pipeline.source_topic = None;
            pipeline.grouped = true;
        })
        .await;
    group.has_more.store(false, Ordering::Release);
    assert!(!bench.engine.is_over(), "it has not been given anything yet");
    group.has_more.store(true, Ordering::Release);
    tells.send(Change::Assigned(vec![0])).await.unwrap();
    bench.until("committed", |_| group.commits.lock().last() == Some(&10)).await;
    assert!(!bench.engine.is_idle() && !bench.engine.is_at_rest());
    group.has_more.store(false, Ordering::Release);
    bench.idle().await;
    assert!(bench.engine.is_at_rest());
}

/// Takes every transaction.
struct Taken(Arc<Played>);

#[async_trait]
impl Transactions for Taken {
    async fn commit(&self, offsets: &[(u32, i64)]) -> Result<()> {
        self.0.commit(offsets).await.map(drop)
    }

    async fn abort(&self) -> Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_a_transaction_is_told_and_not_that_it_was_broken() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 1);
    bench.produce("in", 0, &numbered(0..20)).await;
    let (tells, changes) = mpsc::channel(4);
    let group = Played::new(changes);
    let played = group.clone();
    bench
        .start_with(&simple(dir.path(), "batch: { max_rows: 10 }"), |pipeline| {
            let source = std::mem::replace(&mut pipeline.source, Box::new(Gone));
            let transactions = Arc::new(Taken(played.clone()));
            pipeline.source = Box::new(Shared { source, group: played });
            pipeline.source_topic = None;
            pipeline.grouped = true;
            pipeline.exactly_once = Some(ExactlyOnce { gate: Arc::default(), transactions });
            pipeline.sinks[0].open = Box::new(move || {
                Ok(Box::new(FakeSink(move |ids: Vec<i64>| match ids[0] {
                    // Still under way when the second is refused.
                    0 => Ok(Receipt { durable: pending().boxed(), ..written(ids.len()) }),
                    _ => Err(Error::stop("refused", "the store does not want it")),
                })))
            });
        })
        .await;
    tells.send(Change::Assigned(vec![0])).await.unwrap();
    bench.until("holding", |b| b.report("p").state == PartitionState::Holding).await;
    let waits = bench.report("p").waits_for.join(" ");
    assert!(waits.contains("the store does not want it"), "{waits}");
    assert!(group.commits.lock().is_empty());
}

/// Stands where a source was taken out.
struct Gone;

#[async_trait]
impl Source for Gone {
    fn name(&self) -> &str {
        "gone"
    }

    fn identity(&self) -> String {
        String::new()
    }

    fn partitions(&self) -> u32 {
        0
    }

    async fn reader(&self, _: u32, _: Start) -> Result<Box<dyn PartitionReader>> {
        unreachable!("nobody reads it")
    }

    async fn offset_of(&self, _: u32, _: Place) -> Result<i64> {
        unreachable!("nobody asks it")
    }
}
