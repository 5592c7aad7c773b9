//! `delivery: exactly_once` through the binary, on real Kafka: processes that are killed, stand still
//! or lose their partitions, and a reader of committed records that sees every event once.

use crate::program::{Program, Running, ask, eventually, get};
use millstream_log::{Log, Reader};
use millstream_testkit::events::{Checker, Event, Fate, Generator};
use millstream_testkit::services::{self, unique};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 4;
const COLUMNS: &str = "{ key: string, seq: bigint, fate: string, crc: string, number: string }";
const PATIENCE: Duration = Duration::from_secs(120);

/// Where a process dies by itself.
const FAILPOINTS: [&str; 6] = [
    "engine.sink_written",
    "dead_letters.due",
    "engine.commit",
    "kafka.offsets_due",
    "kafka.offsets_sent",
    "kafka.transaction_committed",
];

struct World {
    topic: String,
    feeding: Program,
    collecting: Program,
    feeder: Running,
    collector: Running,
    checker: Checker,
    generator: Generator,
    sent: (u64, u64),
}

impl World {
    fn new(kafka: &services::Kafka, name: &str, seed: u64) -> Self {
        let brokers = brokers(kafka);
        let topic = unique(name);
        for suffix in ["", "-out", "-dead"] {
            kafka.create_topic(&format!("{topic}{suffix}"), PARTITIONS, &[]);
        }
        let feeding = Program::new();
        feeding.write("events.jsonl", "");
        feeding.write(
            "p.yaml",
            format!(
                "pipeline: feed
source: {{ file: events.jsonl, follow: true, format: {{ json: {{ columns: {COLUMNS} }} }} }}
sinks: [{{ kafka: {{ brokers: {brokers}, topic: {topic} }}, key: key, format: json }}]
"
            ),
        );
        let collecting = Program::new();
        for (at, suffix) in ["out", "dead"].iter().enumerate() {
            collecting.write(
                &format!("p{at}.yaml"),
                format!(
                    "pipeline: {topic}-collect-{suffix}
source:
  kafka: {{ brokers: {brokers}, topic: {topic}-{suffix} }}
  format: {{ json: {{ columns: {COLUMNS} }} }}
sinks: [{{ topic: {suffix}, partitions: 1, key: key, format: json }}]
"
                ),
            );
        }
        let (feeder, collector) =
            (feeding.start(&["p.yaml"]), collecting.start(&["p0.yaml", "p1.yaml"]));
        Self {
            topic,
            feeding,
            collecting,
            feeder,
            collector,
            checker: Checker::default(),
            generator: Generator::new(seed, 60),
            sent: (0, 0),
        }
    }

    /// A process of the pipeline in question, not started.
    fn worker(&self, kafka: &services::Kafka, source: &str, more: &str) -> Program {
        let (brokers, topic) = (brokers(kafka), &self.topic);
        let program = Program::new();
        program.write("fates.csv", "fate,what\nout,goes\ndead,goes too\n");
        program.write(
            "p.yaml",
            format!(
                "pipeline: {topic}
source:
  kafka: {{ brokers: {brokers}, topic: {topic}, {source} }}
  format: {{ json: {{ columns: {COLUMNS} }} }}
lookups:
  fates: {{ file: fates.csv, columns: {{ fate: string, what: string }} }}
steps:
  - sql: |
      SELECT i.key, i.seq, i.fate, i.crc, i.number, CAST(i.number AS BIGINT) AS n, f.what
      FROM input i JOIN fates f ON f.fate = i.fate
sinks: [{{ kafka: {{ brokers: {brokers}, topic: {topic}-out }}, key: key, format: json }}]
dead_letters: {{ topic: {topic}-dead, kafka: {{ brokers: {brokers} }} }}
max_dead_ratio: 1
delivery: exactly_once
batch: {{ max_rows: 50 }}
{more}"
            ),
        );
        program
    }

    fn feed(&mut self, count: usize) {
        let events: Vec<Event> = (0..count).map(|_| self.generator.event()).collect();
        self.feed_these(&events);
    }

    fn feed_these(&mut self, events: &[Event]) {
        let mut lines = String::new();
        for event in events {
            self.checker.sent(event);
            self.sent.0 += u64::from(event.fate == Fate::Out);
            self.sent.1 += u64::from(event.fate == Fate::Dead);
            lines.push_str(&(event.line() + "\n"));
        }
        let path = self.feeding.path("events.jsonl");
        let mut file = std::fs::File::options().append(true).open(path).unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }

    fn collected(&self) -> (u64, u64) {
        let (_, text) = self.collector.get("/metrics");
        let rows = |suffix: &str| {
            let begin =
                format!("millstream_rows_in_total{{pipeline=\"{}-collect-{suffix}\"}}", self.topic);
            let line = text.lines().find(|line| line.starts_with(&begin));
            line.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
        };
        (rows("out"), rows("dead"))
    }

    /// Waits until all has come out and nothing more does, and looks at every event.
    fn check(mut self, workers: &[&Program]) {
        let deadline = Instant::now() + PATIENCE;
        let mut last = ((0, 0), Instant::now());
        loop {
            let now = self.collected();
            if now != last.0 {
                last = (now, Instant::now());
            }
            let all = now.0 >= self.sent.0 && now.1 >= self.sent.1;
            if all && last.1.elapsed() > Duration::from_secs(3) {
                break;
            }
            if Instant::now() > deadline {
                for worker in workers {
                    println!("{}", std::fs::read_to_string(worker.path("run.log")).unwrap());
                }
                panic!("{now:?} of {:?} came out", self.sent);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(self.feeder.end(), 0);
        assert_eq!(self.collector.end(), 0);
        let (out, dead) = (collected(&self.collecting, "out"), collected(&self.collecting, "dead"));
        self.checker.arrived("out", Fate::Out, &out, true, 0);
        self.checker.arrived("dead", Fate::Dead, &dead, true, 0);
        println!("{} events, {} out, {} dead", self.checker.sent_count(), out.len(), dead.len());
        let faults = self.checker.faults();
        assert!(
            faults.is_empty(),
            "{} faults, as {:?}",
            faults.len(),
            &faults[..faults.len().min(5)]
        );
    }
}

/// As a pipeline file has them.
fn brokers(kafka: &services::Kafka) -> String {
    let quoted: Vec<_> = kafka.bootstrap().split(',').map(|b| format!("\"{b}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

fn collected(program: &Program, topic: &str) -> Vec<Event> {
    let log = Log::open_read_only(&program.path("millstream-data/log")).unwrap();
    let partition = log.topic(topic).unwrap().partition(0).unwrap();
    let mut reader = Reader::new(&partition, 0, 1 << 20).unwrap();
    let mut events = Vec::new();
    while let Some(records) = reader.try_next().unwrap() {
        for record in records.iter() {
            events.push(serde_json::from_slice(record.value.unwrap()).unwrap());
        }
    }
    events
}

fn kills() -> u32 {
    std::env::var("MILLSTREAM_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4)
}

fn seed() -> u64 {
    std::env::var("MILLSTREAM_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(4)
}

/// Kills one process again and again: by signal at any moment, or at a named point of a commit.
#[test]
fn a_process_that_is_killed_writes_every_row_once() {
    let Some(kafka) = services::kafka() else { return };
    let mut world = World::new(&kafka, "once", seed());
    let worker = world.worker(
        &kafka,
        "protocol: classic, session_timeout: 6s, instance: one",
        "commit_interval: 40ms\n",
    );
    let mut rng = StdRng::seed_from_u64(seed());
    for kill in 0..kills() {
        let point = match kill % 2 {
            0 => None,
            _ => Some(format!(
                "{}@{}",
                FAILPOINTS[rng.random_range(0..FAILPOINTS.len())],
                rng.random_range(1..8)
            )),
        };
        let variables: Vec<(&str, &Path)> =
            point.iter().map(|point| ("MILLSTREAM_FAILPOINT", Path::new(point))).collect();
        let running = worker.start_with(&["p.yaml"], &variables);
        for _ in 0..rng.random_range(3..8) {
            world.feed(rng.random_range(40..200));
            std::thread::sleep(Duration::from_millis(rng.random_range(5..120)));
        }
        // It may have died by itself.
        drop(running);
    }
    let running = worker.start(&["p.yaml"]);
    world.feed(100);
    world.check(&[&worker]);
    let (_, text) = running.get("/metrics");
    assert!(text.contains("millstream_transactions_total{end=\"committed\""), "{text}");
    assert_eq!(running.end(), 0);
}

/// Two processes share the partitions: one is killed and comes again, the other stands still for
/// longer than its session, and wakes up with rows that are somebody else's.
#[test]
fn members_that_die_and_stand_still_write_every_row_once() {
    let Some(kafka) = services::kafka() else { return };
    for protocol in ["classic", "auto"] {
        let mut world = World::new(&kafka, "shared", 11);
        let source = format!("protocol: {protocol}, session_timeout: 6s, rebalance_timeout: 10s");
        let more = "commit_interval: 40ms\ntransaction_timeout: 5s\n";
        let workers = [world.worker(&kafka, &source, more), world.worker(&kafka, &source, more)];
        let mut running: Vec<Option<Running>> =
            workers.iter().map(|worker| Some(worker.start(&["p.yaml"]))).collect();
        for at in 0..36 {
            world.feed(100);
            match at {
                // Dropping it kills it.
                6 => running[0] = None,
                8 => running[0] = Some(workers[0].start(&["p.yaml"])),
                14 => running[1].as_ref().unwrap().signal("-STOP"),
                34 => running[1].as_ref().unwrap().signal("-CONT"),
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        world.check(&[&workers[0], &workers[1]]);
        for process in running.into_iter().flatten() {
            assert_eq!(process.end(), 0, "it went on after it had stood still");
        }
    }
}

/// Two processes with one id: the newer one writes, the other says so and ends.
#[test]
fn a_process_whose_id_another_has_ends_with_a_sentence() {
    let Some(kafka) = services::kafka() else { return };
    let mut world = World::new(&kafka, "fenced", 12);
    // The name in the group would be fenced first: here only the ids are the same.
    let workers: Vec<Program> = (0..2)
        .map(|_| world.worker(&kafka, "session_timeout: 6s", "transactional_id: both\n"))
        .collect();
    let first = workers[0].start(&["p.yaml"]);
    world.feed(100);
    eventually("the first one works", || (world.collected().0 > 0).then_some(()));
    let known = workers[0].path("millstream-data/identity");
    // As a copied directory has it.
    assert_eq!(workers[1].start(&["p.yaml"]).end(), 0);
    std::fs::copy(known, workers[1].path("millstream-data/identity")).unwrap();
    let second = workers[1].start(&["p.yaml"]);
    let feeding = Instant::now() + PATIENCE;
    let log = || std::fs::read_to_string(workers[0].path("run.log")).unwrap();
    while !log().contains("another process writes with the transactional id `both-") {
        assert!(Instant::now() < feeding, "{}", log());
        world.feed(20);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(first.wait().code(), Some(1));
    world.feed(50);
    world.check(&[&workers[0], &workers[1]]);
    assert_eq!(second.end(), 0);
}

/// A panic takes the transaction back for all partitions, and again until the record that causes it
/// stands alone.
#[test]
fn a_record_that_panics_is_a_dead_letter_once() {
    let Some(kafka) = services::kafka() else { return };
    let mut world = World::new(&kafka, "panics", 14);
    let worker = world.worker(&kafka, "session_timeout: 6s", "commit_interval: 40ms\n");
    let running = worker.start_with(&["p.yaml"], &[("MILLSTREAM_PANIC_ON", Path::new("poison"))]);
    world.feed(300);
    world.feed_these(&[Event::new("poison".into(), 1, Fate::Dead)]);
    world.feed(300);
    world.check(&[&worker]);
    let (_, text) = running.get("/metrics");
    let count = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    assert!(count("millstream_panics_total") >= 2, "{text}");
    assert_eq!(running.end(), 0);
}

/// Brokers that lead, coordinate or keep the group die under a running pipeline.
#[test]
fn brokers_that_die_cost_no_row_and_repeat_none() {
    let Some(kafka) = services::kafka_cluster() else { return };
    let mut world = World::new(&kafka, "brokers", 15);
    let worker = world.worker(&kafka, "session_timeout: 30s", "commit_interval: 40ms\n");
    let running = worker.start(&["p.yaml"]);
    for broker in 1..=3 {
        world.feed(300);
        std::thread::sleep(Duration::from_millis(500));
        kafka.kill(broker);
        for _ in 0..10 {
            world.feed(100);
            std::thread::sleep(Duration::from_millis(200));
        }
        kafka.start(broker);
        world.feed(100);
        std::thread::sleep(Duration::from_secs(3));
    }
    world.check(&[&worker]);
    assert_eq!(running.end(), 0);
}

/// What the tests above would see if it were done wrong.
#[test]
fn offsets_outside_of_the_transaction_are_seen() {
    let Some(kafka) = services::kafka() else { return };
    let mut world = World::new(&kafka, "wrong", 13);
    let worker = world.worker(&kafka, "protocol: classic, session_timeout: 6s, instance: one", "");
    let variables = [
        ("MILLSTREAM_BUG", Path::new("offsets_outside_transaction")),
        ("MILLSTREAM_FAILPOINT", Path::new("kafka.offsets_sent@2")),
    ];
    let running = worker.start_with(&["p.yaml"], &variables);
    eventually("it dies between its offsets and their rows", || {
        world.feed(100);
        std::thread::sleep(Duration::from_millis(100));
        (!worker.path("millstream-data/millstream.sock").exists()
            || std::os::unix::net::UnixStream::connect(
                worker.path("millstream-data/millstream.sock"),
            )
            .is_err())
        .then_some(())
    });
    drop(running);
    let running = worker.start(&["p.yaml"]);
    world.feed(100);
    // Some never come: what comes is all there is.
    let mut last = ((0, 0), Instant::now());
    while last.1.elapsed() < Duration::from_secs(5) {
        let now = world.collected();
        if now != last.0 {
            last = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(running.end(), 0);
    assert!(last.0.0 < world.sent.0, "{:?} of {:?} came out", last.0, world.sent);
}

/// A way to a broker on which nobody who asks for a coordinator is answered, and whether somebody has.
fn without_coordinators(broker: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    const FIND_COORDINATOR: [u8; 2] = [0, 10];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let door = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicBool::new(false));
    let noted = asked.clone();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut server = TcpStream::connect(broker).unwrap();
            let (mut to_client, mut from_server) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
            let noted = noted.clone();
            std::thread::spawn(move || {
                let mut length = [0; 4];
                while client.read_exact(&mut length).is_ok() {
                    let mut request = vec![0; u32::from_be_bytes(length) as usize];
                    client.read_exact(&mut request).unwrap();
                    if request.starts_with(&FIND_COORDINATOR) {
                        noted.store(true, Ordering::SeqCst);
                    } else {
                        server.write_all(&[&length[..], &request].concat()).unwrap();
                    }
                }
            });
        }
    });
    (door, asked)
}

#[test]
fn a_start_that_waits_for_a_coordinator_ends_when_it_is_asked_to() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("absent");
    for suffix in ["", "-out", "-dead"] {
        kafka.create_topic(&format!("{topic}{suffix}"), 1, &[]);
    }
    let (door, asked) = without_coordinators(kafka.bootstrap().parse().unwrap());
    let program = Program::new();
    program.write(
        "p.yaml",
        format!(
            "pipeline: {topic}
source:
  kafka: {{ brokers: [\"{door}\"], topic: {topic} }}
  format: {{ json: {{ columns: {COLUMNS} }} }}
sinks: [{{ kafka: {{ brokers: [\"{door}\"], topic: {topic}-out }}, format: json }}]
dead_letters: {{ topic: {topic}-dead, kafka: {{ brokers: [\"{door}\"] }} }}
delivery: exactly_once
"
        ),
    );
    let log = || std::fs::read_to_string(program.path("run.log")).unwrap();
    let mut command = program.command(&["run", "p.yaml", "--listen", "127.0.0.1:0"]);
    command.stderr(std::fs::File::create(program.path("run.log")).unwrap());
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    eventually("a coordinator is asked for", || asked.load(Ordering::SeqCst).then_some(()));
    // Meanwhile it says how it does.
    let process =
        ask(&program.path("millstream-data/millstream.sock"), "{\"request\":\"process\"}");
    let address = process["end"]["listen"].as_str().unwrap().parse().unwrap();
    let (status, ready) = get(address, "/health/ready");
    assert_eq!(status, 503, "{ready}");
    assert!(ready.contains("is being opened"), "{ready}");
    assert_eq!(get(address, "/health/live").0, 200);
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0), "{}", log());
    assert!(log().contains("nothing was begun"), "{}", log());
    // It has let go of everything.
    program.ok(&["topics", "list"]);
    program.ok(&["topics", "create", "t"]);
}
