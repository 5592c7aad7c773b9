//! Sinks that fail, in each of the ways a sink may.

use crate::harness::{Bench, FakeSink, file, ids, numbered, simple, written};
use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{Batch, Error, Receipt, Result, Sink};
use millstream_engine::{PartitionState, Target};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

type Kept = Arc<Mutex<Vec<i64>>>;

const SMALL: &str = "batch: { max_rows: 10 }";

/// Numbers in, batches of ten of them to a sink that does as the test says; `kept` is what it notes.
struct Fixture {
    dir: tempfile::TempDir,
    bench: Bench,
    kept: Kept,
}

impl Fixture {
    async fn new(numbers: std::ops::Range<i64>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::at(dir.path());
        bench.topic("in", 1);
        bench.produce("in", 0, &numbered(numbers)).await;
        Self { dir, bench, kept: Kept::default() }
    }

    async fn start<F>(&self, write: F)
    where
        F: Fn(&Kept, Vec<i64>) -> Result<Receipt> + Clone + Send + Sync + 'static,
    {
        let kept = self.kept.clone();
        let file = simple(self.dir.path(), SMALL);
        let open = move || -> Result<Box<dyn Sink>> {
            let (write, kept) = (write.clone(), kept.clone());
            Ok(Box::new(FakeSink(move |ids: Vec<i64>| write(&kept, ids))))
        };
        self.bench.start_with(&file, |pipeline| pipeline.sinks[0].open = Box::new(open)).await;
    }

    /// Another process, whose sink is the real one.
    async fn start_again(&mut self) {
        self.bench.restart().await;
        self.bench.start(&[simple(self.dir.path(), SMALL)]).await;
        self.bench.idle().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_may_come_back_holds_and_goes_on_in_order() {
    let fixture = Fixture::new(0..100).await;
    let Fixture { bench, kept, .. } = &fixture;
    let full = Arc::new(AtomicBool::new(true));
    let is_full = full.clone();
    fixture
        .start(move |kept, ids| {
            if ids[0] >= 30 && is_full.load(Ordering::Relaxed) {
                return Err(Error::retry("disk_full", "no room"));
            }
            kept.lock().extend(&ids);
            Ok(written(ids.len()))
        })
        .await;
    bench.until("waiting", |b| b.report("p").waits_for.iter().any(|w| w.contains("no room"))).await;
    bench.until("committed", |b| b.committed("p", 0) == Some(30)).await;
    bench.until("retried", |b| b.metric("retries_total", r#"kind="disk_full""#) > 2).await;
    assert_eq!(kept.lock().len(), 30);
    full.store(false, Ordering::Relaxed);
    bench.idle().await;
    assert_eq!(*kept.lock(), (0..100).collect::<Vec<_>>());
    assert_eq!(bench.counts("p"), (100, 100, 0, 0));
    assert!(bench.report("p").waits_for.is_empty());
    assert_eq!(bench.metric("restarts_total", "p"), 0);
}

/// Takes one batch at a time, when it is let.
struct Picky {
    kept: Kept,
    takes: Arc<AtomicBool>,
    waits: Arc<Mutex<Option<Waker>>>,
    flushed: Arc<AtomicBool>,
}

#[async_trait]
impl Sink for Picky {
    fn poll_takes(&mut self, context: &mut Context<'_>) -> Poll<()> {
        *self.waits.lock() = Some(context.waker().clone());
        match self.takes.load(Ordering::Relaxed) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn flush(&mut self) {
        self.flushed.store(true, Ordering::Relaxed);
    }

    async fn write(&mut self, batch: &Batch) -> Result<Receipt> {
        self.kept.lock().extend(ids(batch));
        self.takes.store(false, Ordering::Relaxed);
        let takes = self.takes.clone();
        let durable = async move {
            while !takes.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        };
        Ok(Receipt { durable: durable.boxed(), ..written(batch.rows.num_rows()) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_wait_in_the_source_while_a_sink_takes_none() {
    let fixture = Fixture::new(0..30).await;
    let Fixture { bench, kept, dir } = &fixture;
    let (takes, flushed) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let waits: Arc<Mutex<Option<Waker>>> = Arc::default();
    let (own, own_takes) = (kept.clone(), takes.clone());
    let (own_waits, own_flushed) = (waits.clone(), flushed.clone());
    let open = move || -> Result<Box<dyn Sink>> {
        let (kept, takes) = (own.clone(), own_takes.clone());
        let (waits, flushed) = (own_waits.clone(), own_flushed.clone());
        Ok(Box::new(Picky { kept, takes, waits, flushed }))
    };
    let file = simple(dir.path(), SMALL);
    bench.start_with(&file, |pipeline| pipeline.sinks[0].open = Box::new(open)).await;
    for upto in [10, 20, 30] {
        bench.until("written", |_| kept.lock().len() == upto).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(kept.lock().len(), upto, "no more is fetched");
        assert!(!flushed.load(Ordering::Relaxed), "more comes: nothing is to be finished early");
        takes.store(true, Ordering::Relaxed);
        waits.lock().take().unwrap().wake();
    }
    bench.idle().await;
    assert_eq!(*kept.lock(), (0..30).collect::<Vec<_>>());
    assert_eq!(bench.committed("p", 0), Some(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_refused_costs_the_rows_to_blame() {
    let fixture = Fixture::new(0..100).await;
    let Fixture { bench, kept, .. } = &fixture;
    fixture
        .start(|kept, ids| {
            if ids.contains(&33) || ids.contains(&37) {
                return Err(Error::reject("too_large", "one of these is too large"));
            }
            let rejected = ids.iter().position(|id| *id == 50);
            let rejected: Vec<_> =
                rejected.map(|at| (at as u32, "not 50".into())).into_iter().collect();
            kept.lock().extend(ids.iter().filter(|id| **id != 50));
            Ok(Receipt { rejected, ..written(ids.len()) })
        })
        .await;
    bench.idle().await;
    let want: Vec<_> = (0..100).filter(|id| ![33, 37, 50].contains(id)).collect();
    assert_eq!(*kept.lock(), want);
    assert_eq!(bench.counts("p"), (100, 97, 0, 3));
    let letters = bench.letters("p.dead");
    let seen: Vec<_> =
        letters.iter().map(|l| (l.source_offset, l.step.as_str(), l.kind.as_str())).collect();
    assert_eq!(
        seen,
        [(33, "out", "too_large"), (37, "out", "too_large"), (50, "out", "unencodable")]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_needs_the_operator_holds_and_what_came_before_is_done() {
    let mut fixture = Fixture::new(0..100).await;
    fixture
        .start(|kept, ids| {
            if ids[0] >= 40 {
                return Err(Error::stop("table_gone", "somebody dropped the table"));
            }
            kept.lock().extend(&ids);
            // Durable, but late: the error comes first.
            let durable = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(())
            };
            Ok(Receipt { durable: durable.boxed(), ..written(ids.len()) })
        })
        .await;
    let Fixture { bench, kept, .. } = &fixture;
    bench.until("holding", |b| b.report("p").state == PartitionState::Holding).await;
    bench.until("committed", |b| b.committed("p", 0) == Some(40)).await;
    assert_eq!(bench.counts("p"), (40, 40, 0, 0));
    assert_eq!(*kept.lock(), (0..40).collect::<Vec<_>>());
    assert_eq!(bench.metric("errors_total", r#"step="out",kind="table_gone""#), 1);
    assert!(bench.report("p").waits_for[0].contains("somebody dropped the table"));
    fixture.start_again().await;
    assert_eq!(fixture.bench.ids("out"), (40..100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_turns_out_undone_goes_back_to_the_last_commit() {
    let fixture = Fixture::new(0..200).await;
    let Fixture { bench, kept, .. } = &fixture;
    let failed = Arc::new(Mutex::new(HashMap::<i64, u32>::new()));
    let offsets = bench.home.tables.offsets();
    fixture
        .start(move |kept, ids| {
            let (failed, kept, offsets) = (failed.clone(), kept.clone(), offsets.clone());
            let rows = ids.len();
            let durable = async move {
                let fails = [20, 50, 60].contains(&ids[0]) && {
                    let mut failed = failed.lock();
                    let times = failed.entry(ids[0]).or_default();
                    *times += 1;
                    *times <= 2
                };
                tokio::time::sleep(Duration::from_millis(2)).await;
                let committed = offsets.get("p").and_then(|c| c.offsets.get(&0).copied());
                assert!(committed.unwrap_or(0) <= ids[0], "{committed:?} above {ids:?}");
                if fails {
                    return Err(Error::retry("sync_failed", "fsync failed"));
                }
                kept.lock().extend(ids);
                Ok(())
            };
            Ok(Receipt { durable: durable.boxed(), ..written(rows) })
        })
        .await;
    bench.idle().await;
    assert!(bench.metric("restarts_total", "p") >= 2);
    let mut kept = kept.lock().clone();
    kept.sort_unstable();
    kept.dedup();
    assert_eq!(kept, (0..200).collect::<Vec<_>>());
    assert_eq!(bench.counts("p"), (200, 200, 0, 0), "what came twice is counted once");
    bench.until("committed", |b| b.committed("p", 0) == Some(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_is_in_flight_and_gives_up_on_a_stuck_sink() {
    for stuck in [false, true] {
        let mut fixture = Fixture::new(0..1000).await;
        fixture
            .start(move |kept, ids| {
                if stuck && ids[0] >= 100 {
                    return Err(Error::retry("away", "nobody answers"));
                }
                let (kept, rows) = (kept.clone(), ids.len());
                let durable = async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    kept.lock().extend(ids);
                    Ok(())
                };
                Ok(Receipt { durable: durable.boxed(), ..written(rows) })
            })
            .await;
        let Fixture { bench, kept, .. } = &fixture;
        bench.until("under way", |_| !kept.lock().is_empty()).await;
        if stuck {
            bench.until("stuck", |b| !b.report("p").waits_for.is_empty()).await;
            bench.until("committed", |b| b.committed("p", 0) == Some(100)).await;
        }
        let limit = if stuck { 300 } else { 10_000 };
        assert_eq!(bench.engine.drain(Duration::from_millis(limit)).await, !stuck);
        let done = kept.lock().len() as i64;
        assert!(done < 1000, "it stopped early");
        assert_eq!(
            bench.committed("p", 0),
            Some(done),
            "all that is done is committed, nothing else"
        );
        assert!(!stuck || done == 100);
        fixture.start_again().await;
        assert_eq!(fixture.bench.ids("out"), (done..1000).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_not_let_in_goes_on_by_itself_once_it_is() {
    for kind in ["authentication", "registry_not_allowed"] {
        let fixture = Fixture::new(0..100).await;
        let Fixture { bench, kept, .. } = &fixture;
        let is_shut = Arc::new(AtomicBool::new(true));
        let shut = is_shut.clone();
        fixture
            .start(move |kept, ids| {
                if ids[0] >= 40 && shut.load(Ordering::Relaxed) {
                    return Err(Error::stop(kind, "it wants another password"));
                }
                kept.lock().extend(&ids);
                Ok(written(ids.len()))
            })
            .await;
        bench.until("holding", |b| b.report("p").state == PartitionState::Holding).await;
        is_shut.store(false, Ordering::Relaxed);
        bench.until("committed", |b| b.committed("p", 0) == Some(100)).await;
        assert_eq!(*kept.lock(), (0..100).collect::<Vec<_>>(), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_holds_shows_its_lag_when_metrics_are_read() {
    let fixture = Fixture::new(0..10).await;
    let Fixture { bench, .. } = &fixture;
    fixture.start(|_, _| Err(Error::stop("gone", "somebody took it away"))).await;
    bench.until("holding", |b| b.report("p").state == PartitionState::Holding).await;
    bench.produce("in", 0, &numbered(10..40)).await;
    bench.engine.refresh_metrics();
    assert_eq!(bench.metric("lag_rows", "p"), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sink_writes_is_known_whatever_it_is_called() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 1);
    let text = "
pipeline: p
source: { topic: in, format: { json: { columns: { id: bigint } } } }
sinks:
  - { name: one, table: t, key: [id] }
  - { name: two, topic: out, format: json }
  - { discard: true }
";
    let pipeline = bench.open(&file(dir.path(), "p.yaml", text)).await.unwrap();
    let [table, topic] = [Target::Table("t".into()), Target::Topic("out".into())];
    assert!(pipeline.writes(&table) && pipeline.writes(&topic));
    for other in
        [Target::Table("one".into()), Target::Table("out".into()), Target::Topic("t".into())]
    {
        assert!(!pipeline.writes(&other), "{other:?}");
    }
}
