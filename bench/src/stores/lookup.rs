//! Keys that no cache has, in calls of a thousand as a batch of a pipeline asks them, and one by one.

use super::cassandra::{CONCURRENCY, USERS, bare_session, cluster, execution, prepare};
use crate::generate::uid;
use crate::job::{Measured, Meter};
use crate::pipeline::runtime;
use anyhow::{Result, ensure};
use arrow_array::{RecordBatch, StringArray};
use arrow_schema::DataType;
use futures::{StreamExt, TryStreamExt, stream};
use millstream_core::{Lookup, LookupKey};
use millstream_cql::{CqlLookup, CqlLookupOptions, Rows};
use std::sync::Arc;

/// Distinct keys of one call.
const CALL_KEYS: u64 = 1_000;
/// Calls under way: batches of that many partitions.
const CALLS: usize = 4;
/// Keys in one request.
const GROUP: usize = 64;
/// Steps from key to key: neighbours in a call are none in the table.
const STEP: u64 = 7_919;

/// The user of each key.
fn user(at: u64) -> u64 {
    at * STEP % USERS
}

pub fn own(count: u64) -> Result<Measured> {
    let [tasks, io] = [runtime("pipelines", 1)?, runtime("io", 1)?];
    let calls = (0..count / CALL_KEYS).map(|call| {
        let keys = (call * CALL_KEYS..(call + 1) * CALL_KEYS).map(|at| uid(user(at)));
        let keys: StringArray = keys.map(Some).collect();
        Ok(RecordBatch::try_from_iter([("uid", Arc::new(keys) as _)])?)
    });
    let calls = calls.collect::<Result<Vec<_>>>()?;
    let (handle, keys) = (io.handle().clone(), LookupKey::Equal(vec!["uid".into()]));
    tasks.block_on(tasks.spawn(async move {
        let options = CqlLookupOptions {
            keyspace: "bench".into(),
            table: "users".into(),
            columns: None,
            group: GROUP,
            concurrency: CONCURRENCY / 2,
            rows: Rows::First,
            execution: execution(),
        };
        let cluster = cluster(&handle).await?;
        let lookup = CqlLookup::open(cluster, options, &keys, &[DataType::Utf8]).await?;
        let (lookup, calls) = (Arc::new(lookup), Arc::new(calls));
        let mut meter = Meter::paused();
        meter.resume();
        let callers = (0..CALLS).map(|first| {
            let (lookup, calls) = (lookup.clone(), calls.clone());
            tokio::spawn(async move {
                let mut found = 0;
                for keys in calls.iter().skip(first).step_by(CALLS) {
                    found += lookup.get_many(keys).await?.rows.num_rows();
                }
                anyhow::Ok(found)
            })
        });
        // All of them run at once.
        let callers: Vec<_> = callers.collect();
        let mut found = 0;
        for caller in callers {
            found += caller.await??;
        }
        meter.pause();
        let asked = calls.len() as u64 * CALL_KEYS;
        ensure!(found as u64 == asked, "{found} of {asked} keys are found");
        meter.measured("CQL look-up, uncached", asked, 0)
    }))?
}

pub fn bare(count: u64) -> Result<Measured> {
    let alone = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let keys: Vec<String> = (0..count).map(|at| uid(user(at))).collect();
    alone.block_on(async {
        let session = bare_session().await?;
        let select = "SELECT uid, segment, country, score FROM bench.users WHERE uid = ?";
        let select = prepare(&session, select).await?;
        let mut meter = Meter::paused();
        meter.resume();
        let found = stream::iter(&keys)
            .map(|key| async {
                let answer = session.execute_unpaged(&select, (key.as_str(),)).await?;
                let rows = answer.into_rows_result()?;
                let row = rows.maybe_first_row::<(&str, &str, &str, i32)>()?;
                anyhow::Ok(row.map_or(0, |(_, segment, country, _)| {
                    u64::from(!segment.is_empty() && !country.is_empty())
                }))
            })
            .buffer_unordered(CONCURRENCY)
            .try_fold(0, |all, found| async move { Ok(all + found) })
            .await?;
        meter.pause();
        ensure!(found == count, "{found} of {count} keys are found");
        meter.measured("bare driver, one SELECT a key", count, 0)
    })
}
