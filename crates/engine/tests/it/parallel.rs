//! With `parallelism`: partitions share the permits to be in the steps.

use crate::harness::{Bench, FakeSink, numbered, simple, written};
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use millstream_connectors::file::RowsLookup;
use millstream_core::{Error, Found, Lookup, LookupKey, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Answers after a while.
struct Slow(RowsLookup);

#[async_trait]
impl Lookup for Slow {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    async fn get_many(&self, keys: &RecordBatch) -> Result<Found> {
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.0.get_many(keys).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_holds_leaves_the_permits_to_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 2);
    bench.produce("in", 0, &numbered(0..100)).await;
    let holds = Arc::new(AtomicBool::new(true));
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (held, keep) = (holds.clone(), kept.clone());
    let more = "batch: { max_rows: 10 }\nparallelism: 1";
    bench
        .start_with(&simple(dir.path(), more), |pipeline| {
            let input = (pipeline.decoder)().unwrap().schema();
            let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..2_000));
            let stored = RecordBatch::try_from_iter([("key", ids)]).unwrap();
            let lookups = BTreeMap::from([("l".to_owned(), stored.schema())]);
            let sql = "SELECT i.id, l.key FROM input i JOIN l ON l.key = i.id";
            let query = millstream_sql::plan(sql, &input, &lookups).unwrap();
            let key = LookupKey::Equal(vec!["key".into()]);
            let slow = Slow(RowsLookup::new(stored, &key).unwrap());
            pipeline.flow.steps[0].step = query.bind(vec![Arc::new(slow)]).unwrap();
            pipeline.sinks[0].open = Box::new(move || {
                let (held, keep) = (held.clone(), keep.clone());
                Ok(Box::new(FakeSink(move |ids: Vec<i64>| {
                    // The first partition's rows are below a thousand.
                    if ids[0] < 1_000 && held.load(Ordering::Acquire) {
                        return Err(Error::retry("away", "the store is away"));
                    }
                    keep.lock().extend(&ids);
                    Ok(written(ids.len()))
                })))
            });
        })
        .await;
    bench.until("held", |b| !b.report("p").waits_for.is_empty()).await;
    bench.produce("in", 1, &numbered(1_000..1_100)).await;
    bench.until("through", |b| b.committed("p", 1) == Some(100)).await;
    assert_eq!(bench.committed("p", 0), None);
    holds.store(false, Ordering::Release);
    bench.idle().await;
    let (low, high): (Vec<i64>, Vec<i64>) = kept.lock().iter().partition(|id| **id < 1_000);
    assert_eq!((low, high), ((0..100).collect(), (1_000..1_100).collect()));
}
