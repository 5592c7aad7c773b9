//! A data directory with an engine on it.

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use async_trait::async_trait;
use futures::FutureExt;
use millstream_config::{Env, Pipeline, load_many, parse};
use millstream_connectors::{Home, HomeOptions};
use millstream_core::{Batch, Receipt, Records, Result, Sink};
use millstream_engine::{
    Catalog, Committer, DeadLetters, Engine, Letter, Letters, Metrics, Pipeline as Opened,
    PipelineReport, open, plan_all,
};
use millstream_log::{BatchBuilder, Codec, Reader, TopicOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct Bench {
    pub home: Home,
    pub engine: Engine,
    pub metrics: Metrics,
    committer: Committer,
}

/// Environment variables for `${VAR}`: none.
pub struct NoEnv;

impl Env for NoEnv {
    fn var(&self, _name: &str) -> Option<String> {
        None
    }
}

impl Bench {
    pub fn at(dir: &Path) -> Self {
        Self::with(dir, HomeOptions::default())
    }

    pub fn with(dir: &Path, options: HomeOptions) -> Self {
        let home = Home::open(dir, options).unwrap();
        let (committer, commits) = Committer::new(
            home.clone(),
            Duration::from_millis(5),
            tokio::runtime::Handle::current(),
        );
        tokio::spawn(commits);
        let engine = Engine::new(tokio::runtime::Handle::current());
        Self { home, engine, metrics: Metrics::new(), committer }
    }

    pub fn committer(&self) -> &Committer {
        &self.committer
    }

    /// The same data directory with nothing running on it and all counters at zero.
    pub async fn restart(&mut self) {
        self.engine.drain(Duration::from_secs(10)).await;
        self.engine = Engine::new(tokio::runtime::Handle::current());
        self.metrics = Metrics::new();
    }

    pub async fn start(&self, files: &[Pipeline]) {
        let mut catalog = Catalog::new(self.home.clone());
        let plans =
            plan_all(files, &mut catalog).await.unwrap_or_else(|m| panic!("{}", m.render(false)));
        for plan in plans {
            let file = files.iter().find(|f| f.spec.pipeline == plan.spec.pipeline).unwrap();
            let opened =
                open(plan, file, &self.home, self.committer.clone(), &self.metrics).await.unwrap();
            self.engine.start(opened);
        }
    }

    /// A pipeline that is open but does not run.
    pub async fn open(&self, file: &Pipeline) -> anyhow::Result<Opened> {
        let mut plans = plan_all(std::slice::from_ref(file), &mut Catalog::new(self.home.clone()))
            .await
            .unwrap_or_else(|m| panic!("{}", m.render(false)));
        let plan = plans.remove(0);
        open(plan, file, &self.home, self.committer.clone(), &self.metrics).await
    }

    /// Starts a pipeline after something in it was changed.
    pub async fn start_with(&self, file: &Pipeline, change: impl FnOnce(&mut Opened)) {
        let mut opened = self.open(file).await.unwrap();
        change(&mut opened);
        self.engine.start(opened);
    }

    pub fn topic(&self, name: &str, partitions: u32) {
        let options = TopicOptions { partitions, ..TopicOptions::default() };
        self.home.log.create_topic(name, options).unwrap();
    }

    pub async fn produce(&self, topic: &str, partition: u32, values: &[String]) {
        let mut builder = BatchBuilder::new(Codec::None);
        for value in values {
            builder.push(1_000, None, Some(value.as_bytes()), &[]);
        }
        self.append(topic, partition, builder).await;
    }

    pub async fn append(&self, topic: &str, partition: u32, mut builder: BatchBuilder) {
        let partition = self.home.log.topic(topic).unwrap().partition(partition).unwrap();
        partition.append(&builder.finish()).unwrap().durable.await.unwrap();
    }

    /// The values of a topic's records as JSON, partition after partition.
    pub fn rows(&self, topic: &str) -> Vec<serde_json::Value> {
        let records = self.records(topic);
        let all = records.iter().flat_map(Records::iter);
        all.map(|record| serde_json::from_slice(record.value.unwrap()).unwrap()).collect()
    }

    /// The `id` of every row of a topic.
    pub fn ids(&self, topic: &str) -> Vec<i64> {
        self.rows(topic).iter().map(|row| row["id"].as_i64().unwrap()).collect()
    }

    pub fn letters(&self, topic: &str) -> Vec<Letter> {
        let topic = DeadLetters::Log(self.home.log.topic(topic).unwrap());
        // The embedded log is read without waiting.
        let opened = Letters::open(&self.home, &topic).now_or_never().unwrap();
        let mut letters = opened.unwrap();
        let next = || letters.next().now_or_never().unwrap().unwrap();
        std::iter::from_fn(next).map(|(letter, _)| letter).collect()
    }

    /// What `/metrics` says, summed over the series whose labels contain all of `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> u64 {
        let text = self.metrics.text();
        let lines =
            text.lines().filter_map(|line| line.strip_prefix(&format!("millstream_{name}{{")));
        let series = lines.filter(|line| labels.split(',').all(|label| line.contains(label)));
        series.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    }

    /// In, out, filtered, dead: from `/metrics`, with the sum checked.
    pub fn counts(&self, pipeline: &str) -> (u64, u64, u64, u64) {
        let label = format!("pipeline=\"{pipeline}\"");
        let mut tries = 0;
        loop {
            let [rows, out, filtered, dead] = ["in", "out", "filtered", "dead"]
                .map(|what| self.metric(&format!("rows_{what}_total"), &label));
            // The sum holds at rest; a batch may settle between two of the counters.
            if rows == out + filtered + dead {
                return (rows, out, filtered, dead);
            }
            tries += 1;
            assert!(tries < 1_000, "{rows} in, {out} out, {filtered} filtered, {dead} dead");
        }
    }

    pub fn committed(&self, pipeline: &str, partition: u32) -> Option<i64> {
        let known = self.home.tables.offsets().get(pipeline)?;
        known.offsets.get(&partition).copied()
    }

    /// Waits until this is so.
    pub async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        for _ in 0..2000 {
            if so(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("not {what} after ten seconds: {:#?}", self.engine.reports());
    }

    /// Waits until everything that is there was read and settled.
    pub async fn idle(&self) {
        for _ in 0..6000 {
            if self.engine.is_idle() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("still busy after a minute: {:#?}", self.engine.reports());
    }

    pub fn report(&self, pipeline: &str) -> PipelineReport {
        self.engine.reports().into_iter().find(|r| r.name == pipeline).unwrap()
    }

    /// The records of all partitions of a topic.
    pub fn records(&self, topic: &str) -> Vec<Records> {
        let topic = self.home.log.topic(topic).unwrap();
        let mut all = Vec::new();
        for partition in 0..topic.partitions() {
            let partition = topic.partition(partition).unwrap();
            let mut reader = Reader::new(&partition, partition.start_offset(), 1 << 20).unwrap();
            while let Some(records) = reader.try_next().unwrap() {
                all.push(records);
            }
        }
        all
    }
}

pub fn file(dir: &Path, name: &str, text: &str) -> Pipeline {
    parse(text, &dir.join(name), &NoEnv).unwrap_or_else(|m| panic!("{}", m.render(false)))
}

pub fn files(paths: &[PathBuf]) -> Vec<Pipeline> {
    load_many(paths, &NoEnv).unwrap_or_else(|m| panic!("{}", m.render(false)))
}

/// `{"id":0}`, `{"id":1}`, …
pub fn numbered(ids: std::ops::Range<i64>) -> Vec<String> {
    ids.map(|id| format!("{{\"id\":{id}}}")).collect()
}

/// A pipeline from topic `in` with the columns `id` and `v` to topic `out`.
pub fn simple(dir: &Path, more: &str) -> Pipeline {
    let text = format!(
        "pipeline: p
source:
  topic: in
  format: {{ json: {{ columns: {{ id: bigint, v: string }} }} }}
steps:
  - sql: SELECT id, v FROM input
sinks:
  - topic: out
    format: json
{more}"
    );
    file(dir, "p.yaml", &text)
}

/// The first column of a batch.
pub fn ids(batch: &Batch) -> Vec<i64> {
    batch.rows.column(0).as_primitive::<Int64Type>().values().to_vec()
}

/// A sink that does what it is told with the ids it is given.
pub struct FakeSink<F>(pub F);

#[async_trait]
impl<F: FnMut(Vec<i64>) -> Result<Receipt> + Send> Sink for FakeSink<F> {
    async fn write(&mut self, batch: &Batch) -> Result<Receipt> {
        (self.0)(ids(batch))
    }
}

pub fn written(rows: usize) -> Receipt {
    Receipt { rejected: Vec::new(), rows: rows as u64, bytes: 0, durable: async { Ok(()) }.boxed() }
}
