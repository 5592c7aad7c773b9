//! What is measured against a real Kafka: the client, the main job, and the listener for Kafka clients.

use crate::decode::Columns;
use crate::job::{Job, Measured, status_mb};
use crate::kafka::Work;
use crate::kafka_latency;
use crate::python::Peers;
use crate::report::{Row, Target, cpu_ratio, rate_ratio};
use crate::services::{self, Kafka};
use crate::suites::{PEAK_RSS_MB, Setup, Suite};
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// The listener comes first: the broker has had nothing else then.
pub const KAFKA_SUITES: [(&str, Suite); 4] = [
    ("kafka_listener", listener),
    ("kafka", client),
    ("kafka_latency", kafka_latency::suite),
    ("kafka_listener_warm", warm_listener),
];

const ONE_CORE: [&str; 3] = ["taskset", "-c", "0"];
/// How often what differs from run to run is measured, in turns with its peer: the middle counts.
const TURNS: usize = 3;
/// As large as a `Navigation` record.
const PERF_BYTES: &str = "303";

/// Consuming, producing, and the main job between two topics.
fn client(setup: &Setup) -> Result<Vec<Row>> {
    let kafka = Kafka::up()?;
    let peers = Peers::prepare(setup.peer_messages)?;
    let messages = setup.messages;
    let count = messages.to_string();
    let source = kafka.topic("navigation")?;
    let records = peers.records().display().to_string();
    let mut rdkafka_out =
        vec![services::rdkafka(&["produce", &kafka.brokers, &source, &records, &count])?];
    let rdkafka_in = services::rdkafka(&["consume", &kafka.brokers, &source, &count])?;
    let bare = Job::Decode { columns: Columns::All, messages }.measure()?;
    let parts = Measured {
        name: "bare rdkafka + bare arrow-avro".into(),
        cpu_seconds: rdkafka_in.cpu_seconds + bare.cpu_seconds,
        ..rdkafka_in.clone()
    };
    // In turns, so that both meet the same machine.
    let mut produced = Vec::new();
    for turn in 0..TURNS {
        let target = kafka.topic("produced")?;
        let own =
            Job::KafkaProduce { brokers: kafka.brokers.clone(), topic: target.clone(), messages };
        produced.push(own.measure()?);
        kafka.delete(&target)?;
        if turn + 1 < TURNS {
            let target = kafka.topic("produced")?;
            let produce = ["produce", &kafka.brokers, &target, &records, &count];
            rdkafka_out.push(services::rdkafka(&produce)?);
            kafka.delete(&target)?;
        }
    }
    let [rdkafka_out, produced] = [rdkafka_out, produced].map(middle);

    let pipeline = |work, behind: &[&str]| -> Result<Measured> {
        let target = kafka.topic("enriched")?;
        let env = kafka.environment(&source, &target);
        let env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let measured = Job::Kafka { work, messages }.measure_in(behind, &env)?;
        kafka.delete(&target)?;
        Ok(measured)
    };
    let consumed = pipeline(Work::Consume, &[])?;
    let job = pipeline(Work::MainJob, &[])?;
    let once = pipeline(Work::ExactlyOnce, &[])?;
    let mut one_core = pipeline(Work::MainJob, &ONE_CORE)?;
    one_core.name += ", one core";

    let few = setup.peer_messages;
    let target = kafka.topic("python")?;
    let python = peers.kafka_main_job(&kafka.brokers, &source, &target, few)?;
    kafka.delete(&target)?;
    let target = kafka.topic("streams")?;
    let [schema, sites] = [peers.schema(), peers.sites()].map(|path| path.display().to_string());
    let streams = services::streams(&[&kafka.brokers, &schema, &sites, &source, &target, &count])?;
    kafka.delete(&target)?;
    kafka.delete(&source)?;

    let faster = |peer: &Measured| Row::against(&job, peer, cpu_ratio(peer, &job)).times_faster();
    Ok(vec![
        Row::against(&consumed, &parts, cpu_ratio(&consumed, &parts)).target(Target::AtMost(1.1)),
        Row::against(&produced, &rdkafka_out, cpu_ratio(&produced, &rdkafka_out))
            .target(Target::AtMost(0.25)),
        Row::against(&once, &job, cpu_ratio(&once, &job)).target(Target::AtMost(1.3)),
        Row::rate(&one_core).target(Target::AtLeast(200_000.0)),
        faster(&python).target(Target::AtLeast(12.0)),
        faster(&streams),
        Row::peak_rss(&[&consumed, &job, &once, &one_core]).target(Target::AtMost(PEAK_RSS_MB)),
        Row::plain(&rdkafka_in),
        Row::plain(&rdkafka_out),
        Row::plain(&bare),
        Row::plain(&python),
        Row::plain(&streams),
    ])
}

/// How the tools produce: the setting's name, and what it sets.
type Setting = (&'static str, &'static [&'static str]);
const LARGE: Setting = ("256 KiB, 5 ms", &["batch.size=262144", "linger.ms=5"]);
const DEFAULTS: Setting = ("the tool's defaults", &[]);

/// Kafka's own performance tools against the embedded log and against the real broker, when both
/// have had two million messages.
fn listener(setup: &Setup) -> Result<Vec<Row>> {
    compared(setup, &[LARGE, DEFAULTS], true)
}

/// The same once the broker's compiler is done: nothing is held against a target.
fn warm_listener(setup: &Setup) -> Result<Vec<Row>> {
    compared(setup, &[LARGE], false)
}

fn compared(setup: &Setup, settings: &[Setting], held: bool) -> Result<Vec<Row>> {
    let kafka = Kafka::up()?;
    let scratch = crate::job::Scratch::new("listener")?;
    let own = Server::start(scratch.path())?;
    let servers = [
        Perf { who: "ours", brokers: &own.address, pid: own.child.id() },
        Perf { who: "Kafka", brokers: &kafka.brokers, pid: kafka.pid },
    ];
    let mut rows = Vec::new();
    round(&servers, &LARGE, setup.messages)?;
    for setting in settings {
        let measured = round(&servers, setting, setup.messages)?;
        for [own, peer] in &measured {
            let rate = Row::against(own, peer, rate_ratio(own, peer));
            let cpu = Row::against(own, peer, cpu_ratio(own, peer));
            let rate = Row { name: format!("{}, messages/s", rate.name), ..rate };
            let cpu = Row { name: format!("{}, CPU", cpu.name), ..cpu };
            let memory = own.peak_rss_mb / peer.peak_rss_mb;
            let memory = Row::against(own, peer, memory);
            let memory = Row { name: format!("{}, memory", memory.name), ..memory };
            let held = held && !setting.1.is_empty();
            for (row, target) in [
                (rate, Target::AtLeast(1.0)),
                (cpu, Target::AtMost(0.5)),
                (memory, Target::AtMost(0.25)),
            ] {
                rows.push(if held { row.target(target) } else { row });
            }
        }
        rows.extend(measured.iter().map(|[_, peer]| Row::plain(peer)));
    }
    Ok(rows)
}

/// Produces to one server after the other, then consumes from them in turns.
fn round(servers: &[Perf; 2], setting: &Setting, messages: u64) -> Result<[[Measured; 2]; 2]> {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_millis();
    let topic = format!("perf-{since}");
    let [own, peer] = servers;
    let produced =
        [own.produce(&topic, setting, messages)?, peer.produce(&topic, setting, messages)?];
    let mut consumed = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        for (server, consumed) in servers.iter().zip(&mut consumed) {
            consumed.push(server.consume(&topic, setting, messages)?);
        }
    }
    for server in servers {
        let brokers = server.brokers;
        services::tool(&["topics", "--bootstrap-server", brokers, "--delete", "--topic", &topic])?;
    }
    Ok([produced, consumed.map(middle)])
}

/// The middle of the rates, with the middle of the CPU times.
fn middle(mut measured: Vec<Measured>) -> Measured {
    let at = measured.len() / 2;
    measured.sort_by(|a, b| a.cpu_seconds.total_cmp(&b.cpu_seconds));
    let cpu_seconds = measured[at].cpu_seconds;
    measured.sort_by(|a, b| a.wall_seconds.total_cmp(&b.wall_seconds));
    Measured { cpu_seconds, ..measured.swap_remove(at) }
}

/// A server that Kafka's performance tools are run against.
struct Perf<'a> {
    who: &'a str,
    brokers: &'a str,
    pid: u32,
}

impl Perf<'_> {
    fn produce(&self, topic: &str, (name, props): &Setting, messages: u64) -> Result<Measured> {
        services::create_topic(self.brokers, topic)?;
        let (count, to) = (messages.to_string(), format!("bootstrap.servers={}", self.brokers));
        let what = ["perf-produce", "--topic", topic, "--num-records", &count];
        let how = ["--throughput", "-1", "--record-size", PERF_BYTES, "--producer-props", &to];
        self.run(&format!("produce, {name}"), &[&what[..], &how, props].concat(), messages)
    }

    fn consume(&self, topic: &str, (name, _): &Setting, messages: u64) -> Result<Measured> {
        let count = messages.to_string();
        let what = ["perf-consume", "--bootstrap-server", self.brokers, "--topic", topic];
        let how = ["--messages", &count, "--timeout", "60000"];
        self.run(&format!("consume, {name}"), &[&what[..], &how].concat(), messages)
    }

    /// The CPU and the memory are the server's.
    fn run(&self, what: &str, arguments: &[&str], messages: u64) -> Result<Measured> {
        let (cpu, since) = (cpu_seconds(self.pid)?, Instant::now());
        let text = services::tool(arguments)?;
        let wall = since.elapsed().as_secs_f64();
        let rate = rate_in(&text);
        Ok(Measured {
            name: format!("{}: {what}", self.who),
            messages,
            bytes: messages * PERF_BYTES.parse::<u64>().unwrap_or_default(),
            cpu_seconds: cpu_seconds(self.pid)? - cpu,
            // The tool's own figure leaves its start-up out.
            wall_seconds: rate.map_or(wall, |rate| messages as f64 / rate),
            peak_rss_mb: status_mb(&self.pid.to_string(), "VmRSS:")?,
            extra: Default::default(),
        })
    }
}

/// Records a second as the producer's last line says (`…, 250000.0 records/sec (…`) or the
/// consumer's (its sixth column).
fn rate_in(text: &str) -> Option<f64> {
    let said = text.lines().rev().find_map(|line| {
        let (before, _) = line.split_once(" records/sec")?;
        before.rsplit([' ', ',']).next()?.parse().ok()
    });
    said.or_else(|| {
        let last = text.lines().rev().find(|line| line.matches(',').count() >= 5)?;
        last.split(',').nth(5)?.trim().parse().ok()
    })
}

/// User and system seconds of a process.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).context("the process's times")?;
    Ok((user + system) / rustix::param::clock_ticks_per_second() as f64)
}

/// `millstream serve` on a directory of its own; ended when dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(dir: &std::path::Path) -> Result<Server> {
        let exe = std::env::current_exe()?.with_file_name("millstream");
        let mut child = Command::new(&exe)
            .arg("--data")
            .arg(dir)
            .args(["serve", "--kafka-listen", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", exe.display()))?;
        let stderr = child.stderr.take().context("it has a stderr")?;
        let mut lines = BufReader::new(stderr).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, address) = line.split_once("kafka=")?;
            Some(address.trim().to_owned())
        });
        // What it says later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Server { child, address: address.context("it says where it listens")? })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
