//! The bytes that all partitions of a pipeline have under way.

use crate::harness::{Bench, FakeSink, simple, written};
use futures::FutureExt;
use millstream_core::Receipt;
use std::ops::Range;
use std::time::Duration;

const ROW: usize = 1000;

fn wide(ids: Range<i64>) -> Vec<String> {
    ids.map(|id| format!(r#"{{"id":{id},"v":"{}"}}"#, "x".repeat(ROW))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_partitions_whose_sink_never_ends_stay_within_the_budget_and_a_batch_each() {
    const BUDGET: u64 = 50_000;
    const BATCH: u64 = 10 * (ROW as u64 + 200);
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 20);
    for partition in 0..20 {
        for from in 0..20 {
            bench.produce("in", partition, &wide(from * 10..from * 10 + 10)).await;
        }
    }
    let text = "batch: { max_bytes: 10kB }\nin_flight_bytes: 50kB";
    bench
        .start_with(&simple(dir.path(), text), |pipeline| {
            pipeline.sinks[0].open = Box::new(|| {
                Ok(Box::new(FakeSink(|ids: Vec<i64>| {
                    let durable = futures::future::pending().boxed();
                    Ok(Receipt { durable, ..written(ids.len()) })
                })))
            });
        })
        .await;
    assert_eq!(bench.metric("queue_bytes_max", "p"), BUDGET);
    let bytes = |b: &Bench| b.metric("queue_bytes", "pipeline=\"p\"");
    let within = |b: &Bench| {
        let bytes = bytes(b);
        assert!(bytes <= BUDGET + 21 * BATCH, "{bytes} bytes are under way");
        bytes
    };
    bench
        .until("all partitions have a batch", |b| {
            within(b) > BUDGET && b.metric("in_flight_batches", "p") >= 20
        })
        .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    within(&bench);
}

#[tokio::test(flavor = "multi_thread")]
async fn others_go_on_while_one_partition_has_all_of_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 4);
    bench.produce("in", 0, &wide(0..200)).await;
    let text = "batch: { max_rows: 10 }\nin_flight_bytes: 30kB";
    bench
        .start_with(&simple(dir.path(), text), |pipeline| {
            pipeline.sinks[0].open = Box::new(|| {
                Ok(Box::new(FakeSink(|ids: Vec<i64>| {
                    let stuck = ids[0] < 1000;
                    let durable = async move {
                        if stuck {
                            std::future::pending::<()>().await;
                        }
                        tokio::task::yield_now().await;
                        Ok(())
                    };
                    Ok(Receipt { durable: durable.boxed(), ..written(ids.len()) })
                })))
            });
        })
        .await;
    bench.until("the budget is used", |b| b.metric("queue_bytes", "pipeline=\"p\"") > 30_000).await;
    for partition in 1..4 {
        let from = i64::from(partition) * 1000;
        bench.produce("in", partition, &wide(from..from + 300)).await;
    }
    bench.until("done", |b| b.metric("rows_out_total", "p") == 900).await;
}
