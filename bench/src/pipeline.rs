//! The main job whole: topic → decode → cached look-up → SQL → Avro topic or table, acknowledged on
//! disk, on an engine as `millstream run` has it.

use crate::generate::{Event, Generator, SCHEMA, SCHEMA_ID, SEED, SITES, site};
use crate::job::{Measured, Meter, Scratch};
use crate::store::FILES;
use anyhow::{Context, Result, anyhow, ensure};
use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use millstream_config::{ProcessEnv, parse};
use millstream_connectors::{Home, HomeOptions};
use millstream_engine::{Catalog, Committer, Engine, Metrics, PipelineReport, open, plan_all};
use millstream_log::{BatchBuilder, Codec, TopicOptions, partition_for};
use millstream_registry::NewSchema;
use millstream_tables::TableSpec;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Records that a producer puts into one batch of a partition.
const PRODUCED_ROWS: usize = 500;
/// How long a run may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Where the main job writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    Topic,
    /// The topic, under another key than the source has: each batch goes to all its partitions.
    TopicByUrl,
    Table,
}

impl Output {
    fn name(self) -> &'static str {
        match self {
            Output::Topic => "a topic",
            Output::TopicByUrl => "a topic by url",
            Output::Table => "a table",
        }
    }

    fn file(self) -> Result<millstream_config::Pipeline> {
        let topic = include_str!("../main_job.yaml");
        match self {
            Output::Topic => parse_file("main_job.yaml", topic),
            Output::TopicByUrl => {
                parse_file("main_job.yaml", &topic.replace("key: uid", "key: url"))
            }
            Output::Table => {
                parse_file("main_job_table.yaml", include_str!("../main_job_table.yaml"))
            }
        }
    }
}

/// Runs the main job over `messages` records that are in the topic already, from the start of its
/// tasks until all is settled and the offsets are durable.
pub fn main_job(output: Output, messages: u64, codec: Codec) -> Result<Measured> {
    let scratch = Scratch::new("main-job")?;
    let home = Home::open(scratch.path(), HomeOptions::default())?;
    let bytes = prepare(&home, messages, codec)?;
    let topic = TopicOptions { partitions: FILES as u32, codec, ..TopicOptions::default() };
    home.log.create_topic("enriched", topic)?;

    let running = Running::open(&home, &output.file()?)?;
    let (log, tables) = (home.log.stats(), home.tables.stats()?);
    let mut meter = Meter::paused();
    meter.resume();
    let running = running.start();
    running.wait(Engine::is_idle)?;
    let report = running.drain()?;
    meter.pause();

    check(&report, messages)?;
    let name = format!("main job to {}, {}", output.name(), codec.name());
    let mut measured = meter.measured(&name, messages, bytes)?;
    let written = home.tables.stats()?;
    let fsyncs = home.log.stats().fsyncs - log.fsyncs + written.fsyncs - tables.fsyncs;
    for (name, value) in [
        ("rows_out", report.rows_out),
        ("fsyncs", fsyncs),
        ("table_rows", written.rows_written - tables.rows_written),
        ("table_bytes", written.bytes_written - tables.bytes_written),
    ] {
        measured.extra.insert(name.into(), value as f64);
    }
    home.log.close();
    Ok(measured)
}

/// A pipeline on an engine as `millstream run` has it: first opened, then started.
pub struct Running {
    engine: Engine,
    opened: Option<millstream_engine::Pipeline>,
    metrics: Metrics,
    runtimes: [Runtime; 2],
}

impl Running {
    pub fn open(home: &Home, file: &millstream_config::Pipeline) -> Result<Running> {
        let runtimes = [runtime("pipelines", 2)?, runtime("io", 1)?];
        let [cpu, io] = &runtimes;
        let metrics = Metrics::new();
        let (committer, committing) =
            Committer::new(home.clone(), file.spec.commit_interval.0, io.handle().clone());
        io.spawn(committing);
        let engine = Engine::new(cpu.handle().clone());
        let opened = io.block_on(async {
            let mut catalog = Catalog::new(home.clone());
            let plans = plan_all(std::slice::from_ref(file), &mut catalog)
                .await
                .map_err(|mistakes| anyhow!("{}", mistakes.render(false)))?;
            let plan = plans.into_iter().next().context("one file gives one plan")?;
            open(plan, file, home, committer, &metrics).await
        })?;
        Ok(Running { engine, opened: Some(opened), metrics, runtimes })
    }

    /// Changes what is opened before it starts.
    pub fn change(&mut self, change: impl FnOnce(&mut millstream_engine::Pipeline)) {
        if let Some(opened) = &mut self.opened {
            change(opened);
        }
    }

    /// The sum of a metric over all its labels.
    pub fn counted(&self, metric: &str) -> f64 {
        let text = self.metrics.text();
        let of = |line: &str| {
            let rest = line.strip_prefix(metric)?;
            rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        };
        text.lines().filter_map(of).sum()
    }

    pub fn start(mut self) -> Running {
        if let Some(opened) = self.opened.take() {
            self.engine.start(opened);
        }
        self
    }

    pub fn report(&self) -> Result<PipelineReport> {
        self.engine.reports().into_iter().next().context("the pipeline reports")
    }

    pub fn wait(&self, until: impl Fn(&Engine) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !until(&self.engine) {
            ensure!(begun.elapsed() < PATIENCE, "still busy: {:?}", self.engine.reports());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends the tasks in good order, their commits durable.
    pub fn drain(self) -> Result<PipelineReport> {
        let [_, io] = &self.runtimes;
        ensure!(io.block_on(self.engine.drain(Duration::from_secs(60))), "the engine drains");
        let report = self.report()?;
        if std::env::var_os("MILLSTREAM_BENCH_METRICS").is_some() {
            eprintln!("{}", self.metrics.text());
        }
        for runtime in self.runtimes {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
        Ok(report)
    }
}

pub fn parse_file(name: &str, text: &str) -> Result<millstream_config::Pipeline> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    parse(text, &path, &ProcessEnv).map_err(|mistakes| anyhow!("{}", mistakes.render(false)))
}

pub fn runtime(name: &str, threads: usize) -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .thread_name(name)
        .worker_threads(threads)
        .enable_all()
        .build()?)
}

/// What the main job reads: the topic with `messages` records, and the sites. Gives the bytes of the
/// records' values.
pub fn prepare(home: &Home, messages: u64, codec: Codec) -> Result<u64> {
    let bytes = fill(home, messages, codec)?;
    load_sites(home)?;
    Ok(bytes)
}

/// Makes the source topic and fills it with seeded records under their uid, as a producer with a
/// buffer of some hundred records a partition leaves it.
fn fill(home: &Home, messages: u64, codec: Codec) -> Result<u64> {
    let id = home.registry.register("navigation-value", &NewSchema::avro(SCHEMA), false)?.id;
    ensure!(id == SCHEMA_ID, "the registry gave the schema id {id}");
    let options = TopicOptions { partitions: FILES as u32, codec, ..TopicOptions::default() };
    let topic = home.log.create_topic("navigation", options)?;
    let mut builders: Vec<_> = (0..FILES).map(|_| BatchBuilder::new(codec)).collect();
    let mut durable = None;
    let mut generator = Generator::new(SEED);
    let mut event = Event::default();
    let mut bytes = 0;
    let mut append = |index: usize, builder: &mut BatchBuilder| -> Result<()> {
        let partition = topic.partition(index as u32).context("the topic has 20 partitions")?;
        let batch = builder.finish();
        durable = Some(partition.append(&batch)?.durable);
        builder.reuse(batch);
        Ok(())
    };
    for _ in 0..messages {
        generator.next_into(&mut event);
        bytes += event.frame.len() as u64;
        let index = partition_for(&event.uid, FILES as u32) as usize;
        let builder = &mut builders[index];
        builder.push(event.seen_at, Some(&event.uid), Some(&event.frame), &[]);
        if builder.len() >= PRODUCED_ROWS {
            append(index, builder)?;
        }
    }
    for (index, builder) in builders.iter_mut().enumerate() {
        if !builder.is_empty() {
            append(index, builder)?;
        }
    }
    if let Some(durable) = durable {
        runtime("fill", 1)?.block_on(durable)?;
    }
    // Readers see what is synced: wait until that is all.
    let begun = Instant::now();
    let behind = || {
        let parts = (0..FILES as u32).filter_map(|index| topic.partition(index));
        parts.map(|partition| partition.unsynced_records()).sum::<u64>()
    };
    while behind() > 0 {
        ensure!(begun.elapsed() < PATIENCE, "the filled topic never became durable");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(bytes)
}

pub fn load_sites(home: &Home) -> Result<()> {
    let columns = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int32, false),
        Field::new("name", DataType::Utf8, true),
        Field::new("segment", DataType::Utf8, true),
    ]));
    let table = home.tables.create_table(TableSpec {
        name: "sites".into(),
        columns: columns.clone(),
        partition_key: vec!["id".into()],
        clustering: Vec::new(),
        ttl: None,
        grace: TableSpec::GRACE,
    })?;
    let sites: Vec<_> = (0..SITES).filter_map(site).collect();
    let ids: ArrayRef = Arc::new(Int32Array::from_iter_values(sites.iter().map(|s| s.id as i32)));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(sites.iter().map(|s| &s.name)));
    let segments: ArrayRef =
        Arc::new(StringArray::from_iter_values(sites.iter().map(|s| s.segment)));
    let rows = RecordBatch::try_new(columns, vec![ids, names, segments])?;
    let written = table.write(&rows, None, None)?;
    ensure!(written.rows == sites.len() as u64, "every site is written");
    Ok(home.tables.persist()?)
}

pub fn check(report: &PipelineReport, messages: u64) -> Result<()> {
    let PipelineReport { rows_in, rows_out, rows_filtered, rows_dead, .. } = report;
    ensure!(
        *rows_in == messages && rows_out + rows_filtered == messages && *rows_dead == 0,
        "{messages} records gave {rows_in} in, {rows_out} out, {rows_filtered} filtered, \
         {rows_dead} dead: {:?}",
        report.waits_for
    );
    // One in twenty has no consent; nearly all sites are found.
    let filtered = *rows_filtered as f64 / messages as f64;
    ensure!((0.04..0.06).contains(&filtered) || messages < 10_000, "{filtered} filtered");
    ensure!(!report.lookups.is_empty(), "the look-up reports");
    for lookup in &report.lookups {
        ensure!(lookup.found * 10 > lookup.asked * 9, "{} of {} found", lookup.found, lookup.asked);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_job_writes_what_it_keeps() {
        let topic = main_job(Output::Topic, 20_000, Codec::Lz4).unwrap();
        let table = main_job(Output::Table, 20_000, Codec::None).unwrap();
        assert_eq!(topic.extra["rows_out"], table.extra["table_rows"]);
        assert!(topic.extra["fsyncs"] >= 20.0 && topic.extra["table_rows"] == 0.0);
        assert!(table.extra["table_bytes"] > table.extra["table_rows"] * 60.0);
    }
}
