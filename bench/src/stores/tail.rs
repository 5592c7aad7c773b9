//! The tail absorbed: the production pipeline on a store of which some answers are slow.
//!
//! ```text
//! pipeline ──► CqlProxy: of a share of the SELECTs and INSERTs, each takes × times the median ──► store
//! ```
//!
//! Consume latency is the time between two polls of the pipeline's, of whichever partition, for each
//! 1,000 rows that they gave. The store's median is what the proxy saw in the run without slowness.

use super::cassandra::{Cassandra, bare_session};
use super::pipeline::Window;
use super::plot::{Curve, Plot};
use super::{Work, environment, fill, mean, pipeline};
use crate::job::{Measured, bench_dir};
use crate::report::{Row, Target};
use crate::services::Kafka;
use crate::suites::Setup;
use anyhow::{Context, Result, ensure};
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use async_trait::async_trait;
use futures::TryStreamExt;
use millstream_core::{
    Batch, Beginning, Group, Partition, PartitionReader, Place, Receipt, Records, Rejection, Sink,
    Source, Start,
};
use millstream_engine::Pipeline;
use millstream_testkit::cql_proxy::{Asked, CqlProxy, Hold, Way};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const SEED: u64 = 42;
const SHARES: [f64; 2] = [0.01, 0.1];
const FACTORS: [u32; 3] = [1, 4, 16];
/// Rows that one time between polls is for.
const POLL_ROWS: usize = 1_000;
/// The part of the rows that is looked at: partitions begin and end one by one.
const LOOKED_AT: std::ops::Range<f64> = 0.05..0.9;

pub fn suite(setup: &Setup) -> Result<Vec<Row>> {
    let (store, kafka) = (Cassandra::up()?, Kafka::up()?);
    store.load_sites()?;
    let messages = setup.messages / 8;
    let source = fill(&kafka, messages)?;
    let window = pipeline::window()?;
    println!(
        "cql_tail: a window of {} rows, of which {} requests of look-ups and {} writes may be at the \
         store; {messages} messages a run",
        window.rows, window.look_ups, window.writes
    );
    let proxy = CqlProxy::start(store.node.parse().context("the node's address")?, SEED)?;
    let run = |factor: u32, share: f64| -> Result<Measured> {
        store.empty_pages()?;
        proxy.forget();
        let mut env = environment(&kafka, &source);
        env.push(("BENCH_CQL", proxy.address().to_string()));
        let mut measured = store.measure(Work::Polls, messages, &env)?;
        measured.name = format!("x{factor} on {:.0} %", share * 100.0);
        let tail = proxy.seen(Asked::Insert);
        measured.extra.insert("held".into(), tail.held as f64);
        Ok(measured)
    };
    // The first run warms the store up.
    run(1, 0.0)?;
    let mut plain = run(1, 0.0)?;
    plain.name = "x1".into();
    let median = |asked| {
        let seen = proxy.seen(asked).node;
        seen.quantile(0.5).with_context(|| format!("no {asked:?} was seen"))
    };
    let medians =
        [(Asked::Select, median(Asked::Select)?), (Asked::Insert, median(Asked::Insert)?)];
    for (asked, median) in medians {
        println!("cql_tail: the store's median for {asked:?}: {:.2} ms", millis(median));
    }
    let mut curves = Vec::new();
    for share in SHARES {
        let mut points = Vec::new();
        for factor in FACTORS.into_iter().filter(|factor| *factor > 1) {
            for (asked, median) in medians {
                // Half as much to half as much again, so that on average it takes the factor.
                let extra = median * (factor - 1);
                let (least, most) = (extra / 2, extra * 3 / 2);
                proxy.hold(asked, Some(Hold { share, way: Way::Either, least, most }));
            }
            let slow = run(factor, share)?;
            ensure!(slow.extra["held"] > 0.0, "the proxy holds something");
            points.push((factor, slow));
        }
        proxy.heal();
        curves.push((share, points));
    }
    // What the machine does beside it changes: the end of the suite counts as much as its beginning.
    plain = mean([plain, run(1, 0.0)?]);
    let mut rows = vec![Row::rate(&plain), latency(&plain, "p50"), latency(&plain, "p99")];
    for (share, points) in &curves {
        for (factor, slow) in points {
            let of_rate = slow.messages_per_second() / plain.messages_per_second();
            let of_p99 = slow.extra["p99_ms"] / plain.extra["p99_ms"];
            let name = |what: &str| format!("{}, {what} to x1", slow.name);
            let rate = Row { name: name("messages/s"), ..Row::against(slow, &plain, of_rate) };
            let p99 = Row { name: name("consume p99"), ..Row::against(slow, &plain, of_p99) };
            let held = |wanted: f64| *factor == 16 && *share == wanted;
            rows.push(if held(0.01) { rate.target(Target::AtLeast(0.9)) } else { rate });
            rows.push(if held(0.1) { p99.target(Target::AtMost(2.0)) } else { p99 });
            rows.push(latency(slow, "p50"));
            rows.push(latency(slow, "p99"));
        }
    }
    kafka.delete(&source)?;
    for (_, points) in &mut curves {
        points.insert(0, (1, plain.clone()));
    }
    let path = bench_dir().join("cql_tail.svg");
    std::fs::create_dir_all(bench_dir())?;
    std::fs::write(&path, plot(&curves, &window)).context("writing the plot")?;
    println!("{}", path.display());
    Ok(rows)
}

fn latency(measured: &Measured, q: &str) -> Row {
    let number = measured.extra.get(&format!("{q}_ms")).copied().unwrap_or(f64::NAN);
    Row::number(measured, &format!("{}, consume latency {q} ms/1,000", measured.name), number)
}

type Points = Vec<(u32, Measured)>;

fn plot(curves: &[(f64, Points)], window: &Window) -> String {
    let curve = |share: &f64, points: &Points, what: &str, of: &dyn Fn(&Measured) -> f64| Curve {
        name: format!("{what}{:.0} % slow", share * 100.0),
        points: points.iter().map(|(factor, m)| (f64::from(*factor), of(m))).collect(),
    };
    let mut latencies = Vec::new();
    let mut rates = Vec::new();
    for (share, points) in curves {
        for q in ["p50", "p99"] {
            let of = |m: &Measured| m.extra.get(&format!("{q}_ms")).copied().unwrap_or(f64::NAN);
            latencies.push(curve(share, points, &format!("{q}, "), &of));
        }
        rates.push(curve(share, points, "", &|m| m.messages_per_second() / 1000.0));
    }
    let title =
        |what: &str| format!("{what}; window {} rows, {} writes", window.rows, window.writes);
    Plot::draw(&[
        Plot { title: title("consume latency, ms per 1,000 rows"), curves: latencies },
        Plot { title: title("thousand messages a second"), curves: rates },
    ])
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The pipeline, its polls timed and its writes kept; then the store is held to them.
pub fn run(messages: u64) -> Result<Measured> {
    let polls = Arc::new(Polls::default());
    let written = Arc::new(Mutex::new(Vec::new()));
    let mut measured = pipeline::in_order(messages, |pipeline| {
        watch(pipeline, polls.clone(), written.clone());
    })?;
    for (name, part) in [("p50_ms", 0.5), ("p99_ms", 0.99)] {
        measured.extra.insert(name.into(), polls.quantile(part).unwrap_or(f64::NAN));
    }
    let written = std::mem::take(&mut *lock(&written));
    check_order(&written)?;
    Ok(measured)
}

fn watch(pipeline: &mut Pipeline, polls: Arc<Polls>, written: Written) {
    let inner = std::mem::replace(&mut pipeline.source, Box::new(Nothing));
    pipeline.source = Box::new(Watched { inner, polls });
    for sink in &mut pipeline.sinks {
        let open = std::mem::replace(&mut sink.open, Box::new(|| Ok(Box::new(Nothing))));
        let written = written.clone();
        sink.open =
            Box::new(move || Ok(Box::new(Kept { inner: open()?, written: written.clone() })));
    }
}

/// Every key was written in the order of its records, and the last of them is what is stored.
fn check_order(written: &[RecordBatch]) -> Result<()> {
    let mut last: HashMap<&str, i64> = HashMap::new();
    for rows in written {
        let (uids, records) = (rows.column(0).as_string::<i32>(), rows.column(1));
        let records = records.as_primitive::<Int64Type>();
        for row in 0..rows.num_rows() {
            let (uid, record) = (uids.value(row), records.value(row));
            let before = last.insert(uid, record);
            ensure!(before < Some(record), "{uid}: record {record} was written after {before:?}");
        }
    }
    let runtime = crate::pipeline::runtime("check", 1)?;
    let stored: Vec<(String, Option<i64>)> = runtime.block_on(async {
        let session = bare_session().await?;
        let rows = session.query_iter("SELECT uid, record FROM bench.pages", ()).await?;
        anyhow::Ok(rows.rows_stream()?.try_collect().await?)
    })?;
    ensure!(stored.len() == last.len(), "{} keys written, {} stored", last.len(), stored.len());
    for (uid, record) in &stored {
        let wanted = last.get(uid.as_str()).copied();
        ensure!(*record == wanted, "{uid} has record {record:?}, not the last, {wanted:?}");
    }
    Ok(())
}

/// When rows were taken, by all partitions.
#[derive(Default)]
struct Polls(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    since: Option<Instant>,
    rows: usize,
    /// Milliseconds per [`POLL_ROWS`].
    times: Vec<f64>,
}

impl Polls {
    fn note(&self, rows: usize) {
        let mut taken = lock(&self.0);
        let now = Instant::now();
        let Some(since) = taken.since else {
            taken.since = Some(now);
            return;
        };
        taken.rows += rows;
        if taken.rows >= POLL_ROWS {
            let each = millis(now - since) * POLL_ROWS as f64 / taken.rows as f64;
            taken.times.push(each);
            (taken.since, taken.rows) = (Some(now), 0);
        }
    }

    fn quantile(&self, part: f64) -> Option<f64> {
        let taken = lock(&self.0);
        let at = |part: f64| (taken.times.len() as f64 * part) as usize;
        let mut times = taken.times[at(LOOKED_AT.start)..at(LOOKED_AT.end)].to_vec();
        times.sort_by(f64::total_cmp);
        let last = times.len().checked_sub(1)?;
        times.get((last as f64 * part).ceil() as usize).copied()
    }
}

/// What a thread that panicked has left is whole: nothing here panics half-way.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Watched {
    inner: Box<dyn Source>,
    polls: Arc<Polls>,
}

struct WatchedReader {
    inner: Box<dyn PartitionReader>,
    polls: Arc<Polls>,
}

#[async_trait]
impl Source for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn identity(&self) -> String {
        self.inner.identity()
    }

    fn partitions(&self) -> u32 {
        self.inner.partitions()
    }

    async fn reader(
        &self,
        partition: u32,
        start: Start,
    ) -> millstream_core::Result<Box<dyn PartitionReader>> {
        let inner = self.inner.reader(partition, start).await?;
        Ok(Box::new(WatchedReader { inner, polls: self.polls.clone() }))
    }

    async fn beginning(&self, partition: u32) -> millstream_core::Result<i64> {
        self.inner.beginning(partition).await
    }

    async fn offset_of(&self, partition: u32, place: Place) -> millstream_core::Result<i64> {
        self.inner.offset_of(partition, place).await
    }

    fn place_of(&self, partition: u32) -> Partition {
        self.inner.place_of(partition)
    }

    fn identity_of(&self, partition: u32) -> String {
        self.inner.identity_of(partition)
    }

    fn end_of(&self, partition: u32) -> Option<i64> {
        self.inner.end_of(partition)
    }

    fn group(&self) -> Option<Arc<dyn Group>> {
        self.inner.group()
    }
}

#[async_trait]
impl PartitionReader for WatchedReader {
    async fn next(&mut self) -> millstream_core::Result<Option<Records>> {
        let records = self.inner.next().await?;
        if let Some(records) = &records {
            self.polls.note(records.len());
        }
        Ok(records)
    }

    fn end_offset(&self) -> i64 {
        self.inner.end_offset()
    }
}

/// The keys and records of what was written, in order for each partition.
type Written = Arc<Mutex<Vec<RecordBatch>>>;

struct Kept {
    inner: Box<dyn Sink>,
    written: Written,
}

#[async_trait]
impl Sink for Kept {
    fn begin(&mut self, beginning: &Beginning) {
        self.inner.begin(beginning);
    }

    fn stems_from(&mut self, records: &Arc<Records>, dead: &[Rejection]) {
        self.inner.stems_from(records, dead);
    }

    async fn write(&mut self, batch: &Batch) -> millstream_core::Result<Receipt> {
        let receipt = self.inner.write(batch).await?;
        let places = ["uid", "record"].map(|name| batch.rows.schema().index_of(name));
        if let [Ok(uid), Ok(record)] = places
            && let Ok(kept) = batch.rows.project(&[uid, record])
        {
            lock(&self.written).push(kept);
        }
        Ok(receipt)
    }
}

/// Stands where something is taken out to be put back.
struct Nothing;

#[async_trait]
impl Source for Nothing {
    fn name(&self) -> &str {
        "nothing"
    }

    fn identity(&self) -> String {
        String::new()
    }

    fn partitions(&self) -> u32 {
        0
    }

    async fn reader(&self, _: u32, _: Start) -> millstream_core::Result<Box<dyn PartitionReader>> {
        Err(millstream_core::Error::stop("nothing", "there is nothing to read"))
    }

    async fn offset_of(&self, _: u32, _: Place) -> millstream_core::Result<i64> {
        Ok(0)
    }
}

#[async_trait]
impl Sink for Nothing {
    async fn write(&mut self, _: &Batch) -> millstream_core::Result<Receipt> {
        Err(millstream_core::Error::stop("nothing", "there is nowhere to write"))
    }
}
