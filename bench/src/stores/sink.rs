//! Rows with a TTL and a timestamp of their own: our sink as the tasks of twenty partitions use it,
//! and the driver by itself.

use super::cassandra::{
    CONCURRENCY, TTL_SECONDS, bare_session, cluster, execution, prepare, segment,
};
use crate::generate::uid;
use crate::job::{Measured, Meter};
use crate::pipeline::runtime;
use crate::store::FILES;
use anyhow::{Context, Result, ensure};
use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow_array::{TimestampMicrosecondArray, TimestampMillisecondArray};
use futures::{StreamExt, TryStreamExt, stream};
use millstream_core::Batch;
use millstream_cql::{CqlSinkOptions, CqlTable, Nulls, Operation, Ttl};
use scylla::value::CqlTimestamp;
use std::sync::Arc;

pub const BATCH_ROWS: u64 = 500;
/// 2026-01-01T00:00:00Z.
const EPOCH_MS: i64 = 1_767_225_600_000;

/// What is written for a number.
struct Page {
    uid: String,
    url: String,
    status: i32,
    segment: &'static str,
    seen_at: i64,
}

fn page(at: u64) -> Page {
    Page {
        uid: uid(at),
        url: format!("https://www.site{}.example.com/news/election-{at}/index.html", at % 10_000),
        status: if at.is_multiple_of(20) { 404 } else { 200 },
        segment: segment(at),
        seen_at: EPOCH_MS + at as i64,
    }
}

pub fn own(count: u64) -> Result<Measured> {
    let [tasks, io] = [runtime("pipelines", 1)?, runtime("io", 1)?];
    let batches = (0..count / BATCH_ROWS).map(|batch| rows(batch * BATCH_ROWS));
    let batches = Arc::new(batches.collect::<Result<Vec<_>>>()?);
    let schema = batches.first().context("there are rows to write")?.schema();
    let handle = io.handle().clone();
    tasks.block_on(tasks.spawn(async move {
        let options = CqlSinkOptions {
            keyspace: "bench".into(),
            table: "pages".into(),
            operation: Operation::Insert,
            columns: None,
            ttl: Ttl::Column("ttl".into()),
            timestamp: Some("written_at".into()),
            nulls: Nulls::Unset,
            batch_rows: 64,
            batch_bytes: 5 << 10,
            concurrency: CONCURRENCY,
            retries: 0,
            execution: execution(),
        };
        let table = CqlTable::open(cluster(&handle).await?, options, &schema).await?;
        let mut meter = Meter::paused();
        meter.resume();
        let partitions = (0..FILES as usize).map(|partition| {
            let (mut sink, batches) = (table.sink(), batches.clone());
            tokio::spawn(async move {
                let mut stored = 0;
                for rows in batches.iter().skip(partition).step_by(FILES as usize) {
                    let receipt = sink.write(&Batch::same(rows.clone())).await?;
                    ensure!(receipt.rejected.is_empty(), "nothing is refused");
                    receipt.durable.await?;
                    stored += receipt.rows;
                }
                anyhow::Ok(stored)
            })
        });
        // All of them run at once.
        let partitions: Vec<_> = partitions.collect();
        let mut stored = 0;
        for partition in partitions {
            stored += partition.await??;
        }
        meter.pause();
        let given = batches.len() as u64 * BATCH_ROWS;
        ensure!(stored == given, "{stored} of {given} rows are stored");
        meter.measured("CQL sink, TTL and timestamp", given, 0)
    }))?
}

pub fn rows(first: u64) -> Result<RecordBatch> {
    let pages: Vec<Page> = (first..first + BATCH_ROWS).map(page).collect();
    let texts = |of: fn(&Page) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(pages.iter().map(of)))
    };
    let status = Int32Array::from_iter_values(pages.iter().map(|page| page.status));
    let ttl = Int32Array::from_iter_values(pages.iter().map(|_| TTL_SECONDS));
    let seen_at = TimestampMillisecondArray::from_iter_values(pages.iter().map(|p| p.seen_at));
    let written = pages.iter().map(|page| page.seen_at * 1000);
    let written = TimestampMicrosecondArray::from_iter_values(written);
    Ok(RecordBatch::try_from_iter([
        ("uid", texts(|page| &page.uid)),
        ("url", texts(|page| &page.url)),
        ("status", Arc::new(status) as ArrayRef),
        ("segment", texts(|page| page.segment)),
        ("seen_at", Arc::new(seen_at.with_timezone("UTC"))),
        ("ttl", Arc::new(ttl)),
        ("written_at", Arc::new(written)),
    ])?)
}

pub fn bare(count: u64) -> Result<Measured> {
    let alone = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pages: Vec<Page> = (0..count).map(page).collect();
    alone.block_on(async {
        let session = bare_session().await?;
        let insert = "INSERT INTO bench.pages (uid, url, status, segment, seen_at) \
                      VALUES (?, ?, ?, ?, ?) USING TTL ? AND TIMESTAMP ?";
        let insert = prepare(&session, insert).await?;
        let mut meter = Meter::paused();
        meter.resume();
        stream::iter(&pages)
            .map(|page| async {
                let Page { uid, url, status, segment, seen_at } = page;
                let times = (CqlTimestamp(*seen_at), seen_at * 1000);
                let row = (uid, url, status, segment, times.0, TTL_SECONDS, times.1);
                session.execute_unpaged(&insert, row).await.map(drop)
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect::<()>()
            .await?;
        meter.pause();
        meter.measured("bare driver, one INSERT a row", count, 0)
    })
}
