//! Property tests: order, and what may be committed, whatever takes how long.

use crate::harness::{Bench, FakeSink, numbered, simple, written};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use futures::FutureExt;
use millstream_connectors::file::RowsLookup;
use millstream_core::{
    Ack, Checkpoint, Decoded, Decoder, Found, Lookup, LookupKey, Receipt, Records, Result,
};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Answers after a while.
struct Slow {
    rows: RowsLookup,
    delays: parking_lot::Mutex<StdRng>,
}

#[async_trait]
impl Lookup for Slow {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    async fn get_many(&self, keys: &RecordBatch) -> Result<Found> {
        let delay = self.delays.lock().random_range(0..4_000);
        tokio::time::sleep(Duration::from_micros(delay)).await;
        self.rows.get_many(keys).await
    }
}

/// Ready for records from the tenth on when it is told so.
struct Held {
    inner: Box<dyn Decoder>,
    ready: Arc<Notify>,
    asked: Arc<AtomicBool>,
}

#[async_trait]
impl Decoder for Held {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    async fn prepare(&mut self, records: &Records) -> Result<()> {
        if records.first_offset() >= Some(10) {
            self.asked.store(true, Ordering::Release);
            self.ready.notified().await;
        }
        Ok(())
    }

    fn decode(&mut self, records: &Records) -> Result<Decoded> {
        self.inner.decode(records)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_committed_while_the_next_batch_waits_for_its_schemas() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 1);
    bench.produce("in", 0, &numbered(0..10)).await;
    bench.produce("in", 0, &numbered(10..20)).await;
    let (ready, durable) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let asked = Arc::new(AtomicBool::new(false));
    let (is_ready, is_durable, is_asked) = (ready.clone(), durable.clone(), asked.clone());
    bench
        .start_with(&simple(dir.path(), "batch: { max_rows: 10 }"), |pipeline| {
            let inner = std::mem::replace(&mut pipeline.decoder, Box::new(|| unreachable!()));
            pipeline.decoder = Box::new(move || {
                let (ready, asked) = (is_ready.clone(), is_asked.clone());
                Ok(Box::new(Held { inner: inner()?, ready, asked }))
            });
            pipeline.sinks[0].open = Box::new(move || {
                let is_durable = is_durable.clone();
                Ok(Box::new(FakeSink(move |ids: Vec<i64>| {
                    let is_durable = is_durable.clone();
                    let durable = async move {
                        is_durable.notified().await;
                        Ok(())
                    };
                    Ok(Receipt { durable: durable.boxed(), ..written(ids.len()) })
                })))
            });
        })
        .await;
    bench.until("asked", |_| asked.load(Ordering::Acquire)).await;
    durable.notify_one();
    bench.until("committed", |b| b.committed("p", 0) == Some(10)).await;
    ready.notify_one();
    durable.notify_one();
    bench.until("committed", |b| b.committed("p", 0) == Some(20)).await;
}

async fn in_order(seed: u64, batch: usize, window: usize, rows: i64) {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 1);
    bench.produce("in", 0, &numbered(0..rows)).await;
    let kept = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let keep = kept.clone();
    let more = format!("batch: {{ max_rows: {batch} }}\nin_flight: {{ batches: {window} }}");
    let offsets = bench.home.tables.offsets();
    bench
        .start_with(&simple(dir.path(), &more), |pipeline| {
            let input = (pipeline.decoder)().unwrap().schema();
            let stored = {
                let ids: Vec<i64> = (0..rows).collect();
                let ids: arrow_array::ArrayRef = Arc::new(arrow_array::Int64Array::from(ids));
                RecordBatch::try_from_iter([("key", ids)]).unwrap()
            };
            let lookups = BTreeMap::from([("l".to_owned(), stored.schema())]);
            let sql = "SELECT i.id, l.key FROM input i JOIN l ON l.key = i.id WHERE i.id % 10 <> 3";
            let query = millstream_sql::plan(sql, &input, &lookups).unwrap();
            let key = LookupKey::Equal(vec!["key".into()]);
            let slow = Slow {
                rows: RowsLookup::new(stored, &key).unwrap(),
                delays: parking_lot::Mutex::new(StdRng::seed_from_u64(seed)),
            };
            pipeline.flow.steps[0].step = query.bind(vec![Arc::new(slow)]).unwrap();
            let delays = Arc::new(parking_lot::Mutex::new(StdRng::seed_from_u64(!seed)));
            pipeline.sinks[0].open = Box::new(move || {
                let (kept, delays, offsets) = (keep.clone(), delays.clone(), offsets.clone());
                Ok(Box::new(FakeSink(move |ids: Vec<i64>| {
                    let rows = ids.len();
                    let first = ids[0];
                    kept.lock().extend(ids);
                    let (delays, offsets) = (delays.clone(), offsets.clone());
                    let durable = async move {
                        let delay = delays.lock().random_range(0..3_000);
                        tokio::time::sleep(Duration::from_micros(delay)).await;
                        let committed = offsets.get("p").and_then(|c| c.offsets.get(&0).copied());
                        assert!(committed.unwrap_or(0) <= first, "committed before it was done");
                        Ok(())
                    };
                    Ok(Receipt { durable: durable.boxed(), ..written(rows) })
                })))
            });
        })
        .await;
    bench.idle().await;
    let want: Vec<_> = (0..rows).filter(|id| id % 10 != 3).collect();
    assert_eq!(*kept.lock(), want, "seed {seed}");
    let filtered = rows as u64 - want.len() as u64;
    assert_eq!(bench.counts("p"), (rows as u64, want.len() as u64, filtered, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn rows_come_out_in_the_order_they_went_in(
        seed: u64, batch in 1usize..40, window in 1usize..9, rows in 1i64..300,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(in_order(seed, batch, window, rows));
    }
}

proptest! {
    /// Shares are given back in any order: the prefix never passes a run with a share out.
    #[test]
    fn a_checkpoint_never_passes_a_row_that_is_not_done(
        runs in prop::collection::vec((1usize..5, 1usize..4), 1..30), seed: u64,
    ) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut checkpoint = Checkpoint::new(0);
        let mut next = 0;
        let mut open = Vec::new();
        let mut shares = Vec::new();
        for (at, (rows, parts)) in runs.iter().enumerate() {
            next += *rows as i64;
            let (ack, settlement) = Ack::open(*rows);
            shares.extend((1..*parts).map(|_| (at, ack.share())));
            shares.push((at, ack));
            open.push((checkpoint.open(next), Some(Box::pin(settlement.wait())), next));
        }
        let mut out: Vec<usize> = runs.iter().map(|(_, parts)| *parts).collect();
        while !shares.is_empty() {
            let (at, share) = shares.swap_remove(random.random_range(0..shares.len()));
            share.done();
            out[at] -= 1;
            for (run, wait, _) in &mut open {
                if let Some(settled) = wait.as_mut().and_then(|wait| wait.now_or_never()) {
                    prop_assert!(settled.is_some());
                    checkpoint.finish(*run);
                    *wait = None;
                }
            }
            let first_out = out.iter().position(|left| *left > 0);
            let want = match first_out {
                Some(0) => 0,
                Some(at) => open[at - 1].2,
                None => next,
            };
            prop_assert_eq!(checkpoint.upto(), want);
        }
    }
}
