//! How long messages take at a steady rate: the main job's, beside librdkafka that copies the same
//! messages in the same run, which is the least that the broker and the machine allow. The first
//! tenth, in which everybody connects, is left out.

use crate::job::{Job, Measured};
use crate::kafka;
use crate::pipeline::Running;
use crate::python::Peers;
use crate::report::{Row, Target};
use crate::services::{self, Kafka};
use crate::store::FILES;
use crate::suites::Setup;
use anyhow::{Context as _, Result, bail, ensure};
use async_trait::async_trait;
use millstream_core::{Batch, Beginning, Error, Receipt, Records, Rejection, Sink};
use millstream_engine::{Engine, PartitionState};
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Instant;

const RATE: u64 = 20_000;
const SECONDS: u64 = 15;
/// What a peer says when everything that is written from then on is read.
const READY: &str = "ready";

/// The main job from the fetch of a batch to the acknowledgement of all that came of it, and from
/// the time at which a message was produced to when its result can be read.
pub fn suite(setup: &Setup) -> Result<Vec<Row>> {
    let kafka = Kafka::up()?;
    let peers = Peers::prepare(setup.peer_messages)?;
    let records = peers.records().display().to_string();
    let messages = RATE * SECONDS;
    let [count, rate] = [messages, RATE].map(|number| number.to_string());

    let (source, target) = (kafka.topic("paced")?, kafka.topic("copied")?);
    let produce = ["produce", &kafka.brokers, &source, &records, &count, &rate];
    let floor = Peer::start(&["relay", &kafka.brokers, &source, &target, &count])?;
    let watch = Peer::start(&["watch", &kafka.brokers, &target])?;
    services::rdkafka(&produce)?;
    let (floor, floor_seen) = (floor.measured()?, watch.measured()?);
    [source, target].iter().try_for_each(|topic| kafka.delete(topic))?;

    let (source, target) = (kafka.topic("paced")?, kafka.topic("enriched")?);
    let produce = ["produce", &kafka.brokers, &source, &records, &count, &rate];
    let watch = Peer::start(&["watch", &kafka.brokers, &target])?;
    let env = kafka.environment(&source, &target);
    let env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let producer = services::rdkafka_command(&produce)?;
    let words = std::iter::once(producer.get_program()).chain(producer.get_args());
    let producer = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let job = Job::KafkaPaced { messages, producer }.measure_in(&[], &env)?;
    let seen = watch.measured()?;
    [source, target].iter().try_for_each(|topic| kafka.delete(topic))?;

    let row = |measured: &Measured, what: &str, q: &str| {
        let number = measured.extra.get(&format!("{q}_ms")).copied().unwrap_or(f64::NAN);
        Row::number(measured, &format!("{what}, {q} ms"), number)
    };
    let (read, seen_name) = ("20K/s, read to acknowledged", "20K/s, produced to readable");
    Ok(vec![
        row(&job, read, "p50").target(Target::AtMost(5.0)),
        row(&job, read, "p99").target(Target::AtMost(25.0)),
        row(&floor, &format!("rdkafka: {read}"), "p50"),
        row(&floor, &format!("rdkafka: {read}"), "p99"),
        row(&seen, seen_name, "p50"),
        row(&seen, seen_name, "p99"),
        row(&floor_seen, &format!("rdkafka: {seen_name}"), "p50"),
        row(&floor_seen, &format!("rdkafka: {seen_name}"), "p99"),
    ])
}

/// Runs the main job, and when all partitions are read has the producer fill its source.
pub fn paced(messages: u64, producer: &[String]) -> Result<Measured> {
    let scratch = crate::job::Scratch::new("kafka-paced")?;
    let home = kafka::home(&scratch)?;
    let mut running = Running::open(&home, &kafka::file("main_job_kafka_paced.yaml")?)?;
    let times = Times::default();
    running.change(|pipeline| {
        for sink in &mut pipeline.sinks {
            let (times, stopped) = (times.clone(), || Err(Error::stop("bench", "it is taken")));
            let open = std::mem::replace(&mut sink.open, Box::new(stopped));
            sink.open = Box::new(move || {
                let (inner, times) = (open()?, times.clone());
                Ok(Box::new(Timed { inner, arrived: Instant::now(), times }))
            });
        }
    });
    let running = running.start();
    let is_running = |engine: &Engine| {
        let partitions = engine.reports().into_iter().flat_map(|report| report.partitions);
        partitions.filter(|p| p.state == PartitionState::Running).count() == FILES as usize
    };
    running.wait(is_running)?;
    let [program, arguments @ ..] = producer else { bail!("who produces?") };
    let mut meter = crate::job::Meter::paused();
    meter.resume();
    let begun = Instant::now();
    let mut producer = Command::new(program).args(arguments).stdout(Stdio::null()).spawn()?;
    running.wait(|engine| kafka::rows_in(engine) >= messages / 10)?;
    let unsteady = lock(&times).len();
    running.wait(|engine| kafka::rows_in(engine) >= messages)?;
    let wall = begun.elapsed();
    let sent = producer.wait()?;
    ensure!(sent.success(), "the producer ended with {sent}");
    let report = running.drain()?;
    meter.pause();
    crate::pipeline::check(&report, messages)?;
    let mut measured = meter.measured("main job, Kafka to Kafka", messages, 0)?;
    measured.wall_seconds = wall.as_secs_f64();
    let mut steady = lock(&times).split_off(unsteady);
    steady.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    for (name, q) in [("p50_ms", 0.5), ("p99_ms", 0.99)] {
        measured.extra.insert(name.into(), quantile(&steady, q));
    }
    home.log.close();
    Ok(measured)
}

/// Milliseconds, and how many messages took them, in the order in which they were acknowledged.
type Times = Arc<Mutex<Vec<(f64, usize)>>>;

/// Notes how long after the first message of a batch came in each was acknowledged.
struct Timed {
    inner: Box<dyn Sink>,
    arrived: Instant,
    times: Times,
}

#[async_trait]
impl Sink for Timed {
    fn begin(&mut self, beginning: &Beginning) {
        self.inner.begin(beginning);
    }

    fn stems_from(&mut self, records: &Arc<Records>, dead: &[Rejection]) {
        self.arrived = records.arrived();
        self.inner.stems_from(records, dead);
    }

    fn flush(&mut self) {
        self.inner.flush();
    }

    fn settled(&mut self, upto: i64) {
        self.inner.settled(upto);
    }

    fn poll_takes(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.inner.poll_takes(context)
    }

    async fn write(&mut self, batch: &Batch) -> millstream_core::Result<Receipt> {
        let receipt = self.inner.write(batch).await?;
        let (arrived, rows, times) = (self.arrived, batch.rows.num_rows(), self.times.clone());
        let durable = async move {
            receipt.durable.await?;
            lock(&times).push((arrived.elapsed().as_secs_f64() * 1e3, rows));
            Ok(())
        };
        Ok(Receipt { durable: Box::pin(durable), ..receipt })
    }
}

fn lock(times: &Times) -> MutexGuard<'_, Vec<(f64, usize)>> {
    times.lock().expect("nobody panics with it")
}

/// What so large a share of the messages took at most.
fn quantile(times: &[(f64, usize)], q: f64) -> f64 {
    let messages: usize = times.iter().map(|(_, messages)| messages).sum();
    let mut left = (messages as f64 * q) as usize;
    let found = times.iter().find(|(_, messages)| {
        let is_here = left < *messages;
        left = left.saturating_sub(*messages);
        is_here
    });
    found.map_or(f64::NAN, |(ms, _)| *ms)
}

/// librdkafka, which works until it has seen the last message.
struct Peer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    /// Gives it back when it is ready.
    fn start(arguments: &[&str]) -> Result<Peer> {
        let mut child = services::rdkafka_command(arguments)?.stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("it has a stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let said = lines.next().transpose()?;
        ensure!(said.as_deref() == Some(READY), "{arguments:?} says {said:?}");
        Ok(Peer { child, lines })
    }

    fn measured(mut self) -> Result<Measured> {
        let line = self.lines.next().transpose()?.context("it says what it measured")?;
        let ended = self.child.wait()?;
        ensure!(ended.success(), "it ended with {ended}");
        Ok(serde_json::from_str(&line)?)
    }
}
