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
use anyhow::{Context, Result, bail, ensure};
use millstream_engine::{Engine, PartitionState};
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
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
    let running = Running::open(&home, &kafka::file("main_job_kafka_paced.yaml")?)?.start();
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
    let unsteady = running.end_to_end();
    running.wait(|engine| kafka::rows_in(engine) >= messages)?;
    let steady = since(&unsteady, running.end_to_end());
    let wall = begun.elapsed();
    let sent = producer.wait()?;
    ensure!(sent.success(), "the producer ended with {sent}");
    let report = running.drain()?;
    meter.pause();
    crate::pipeline::check(&report, messages)?;
    let mut measured = meter.measured("main job, Kafka to Kafka", messages, 0)?;
    measured.wall_seconds = wall.as_secs_f64();
    for (name, q) in [("p50_ms", 0.5), ("p99_ms", 0.99)] {
        measured.extra.insert(name.into(), quantile(&steady, q) * 1e3);
    }
    home.log.close();
    Ok(measured)
}

/// What was counted after an earlier look.
fn since(before: &[(f64, f64)], mut now: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    now.iter_mut().zip(before).for_each(|((_, now), (_, before))| *now -= before);
    now
}

/// A quantile of what is counted up to each bound, by interpolation between two.
fn quantile(counted: &[(f64, f64)], q: f64) -> f64 {
    let rank = q * counted.last().map_or(f64::NAN, |(_, all)| *all);
    let at = counted.iter().position(|(_, upto)| *upto >= rank);
    let Some((at, (bound, upto))) = at.map(|at| (at, counted[at])) else { return f64::NAN };
    let (lower, below) = at.checked_sub(1).map_or((0.0, 0.0), |before| counted[before]);
    if bound.is_infinite() {
        return bound;
    }
    lower + (bound - lower) * (rank - below) / (upto - below).max(f64::MIN_POSITIVE)
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
