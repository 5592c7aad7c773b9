//! Processes with names of their own in a group, restarted one after the other, as a rollout does:
//! nothing is lost, nothing comes twice, and nobody else's partitions move.

use crate::program::{Program, Running, eventually};
use millstream_testkit::events::{Checker, Event, Fate, Generator};
use millstream_testkit::services::{self, Feeder, Kafka, unique};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

const PARTITIONS: usize = 6;
const PROCESSES: usize = 3;
/// Longer than the time between two heartbeats.
const AWAY: Duration = Duration::from_secs(4);
const COLUMNS: &str = "{ key: string, seq: bigint, fate: string, crc: string, number: string }";

#[test]
fn a_rollout_loses_nothing_and_moves_nothing() {
    roll_out("classic");
}

#[test]
fn nor_does_it_in_the_newer_protocol() {
    roll_out("consumer");
}

/// What a process has of the group, and how often partitions came to it and went.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Has {
    partitions: BTreeSet<String>,
    assigned: u64,
    revoked: u64,
    lost: u64,
}

impl Has {
    fn of(running: &Running) -> Has {
        let (_, text) = running.get("/metrics");
        let changes = |change: &str| {
            let series = format!("millstream_partition_changes_total{{change=\"{change}\"");
            let line = text.lines().find(|line| line.starts_with(&series));
            line.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
        };
        let lines = text.lines().filter(|line| line.starts_with("millstream_partition_holding{"));
        let partition =
            |line: &str| line.split("partition=\"").nth(1)?.split('"').next().map(String::from);
        Has {
            partitions: lines.filter_map(partition).collect(),
            assigned: changes("assigned"),
            revoked: changes("revoked"),
            lost: changes("lost"),
        }
    }
}

/// Numbered events on their way to a topic.
struct Feeding {
    feeder: Feeder,
    generator: Generator,
    checker: Checker,
    topic: String,
    out: usize,
}

impl Feeding {
    fn new(kafka: &Kafka, topic: &str) -> Feeding {
        Feeding {
            feeder: kafka.client().feeder(),
            generator: Generator::new(61, 40),
            checker: Checker::default(),
            topic: topic.to_owned(),
            out: 0,
        }
    }

    /// Each key has its partition.
    fn feed(&mut self, events: usize) {
        let mut parts = vec![Vec::new(); PARTITIONS];
        for _ in 0..events {
            let event = match self.generator.event() {
                event if event.fate == Fate::Dead => Event::new(event.key, event.seq, Fate::Out),
                event => event,
            };
            self.checker.sent(&event);
            self.out += usize::from(event.fate == Fate::Out);
            let at = event.key.bytes().map(usize::from).sum::<usize>() % PARTITIONS;
            parts[at].push((event.key.clone(), event.line().into_bytes()));
        }
        for (partition, part) in (0..).zip(&parts) {
            self.feeder.feed(&self.topic, partition, part);
        }
    }
}

fn roll_out(protocol: &str) {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("rollout");
    let out = format!("{topic}-out");
    kafka.create_topic(&topic, PARTITIONS as i32, &[]);
    kafka.create_topic(&out, 1, &[]);
    let brokers = kafka.bootstrap();
    let pipeline = format!(
        "pipeline: p
source:
  kafka:
    brokers: [\"{brokers}\"]
    topic: {topic}
    group: {topic}
    instance: ${{INSTANCE}}
    protocol: {protocol}
    session_timeout: 30s
  format: {{ json: {{ columns: {COLUMNS} }} }}
steps:
  - sql: SELECT * FROM input WHERE fate <> 'drop'
sinks: [{{ kafka: {{ brokers: [\"{brokers}\"], topic: {out} }}, key: key, format: json }}]
batch: {{ max_rows: 20 }}
"
    );
    let programs: Vec<Program> = (0..PROCESSES).map(|_| Program::new()).collect();
    programs.iter().for_each(|program| drop(program.write("p.yaml", &pipeline)));
    let start = |at: usize| {
        let name = format!("{topic}-{at}");
        programs[at].start_with(&["p.yaml"], &[("INSTANCE", Path::new(&name))])
    };
    let mut running: Vec<Option<Running>> = (0..PROCESSES).map(|at| Some(start(at))).collect();
    let has = |running: &[Option<Running>], at: usize| Has::of(running[at].as_ref().unwrap());
    let each = PARTITIONS / PROCESSES;
    eventually("each has its share", || {
        (0..PROCESSES).all(|at| has(&running, at).partitions.len() == each).then_some(())
    });

    let mut feeding = Feeding::new(&kafka, &topic);
    for at in 0..PROCESSES {
        let before: Vec<Has> = (0..PROCESSES).map(|at| has(&running, at)).collect();
        feeding.feed(400);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(running[at].take().unwrap().end(), 0);
        // Its partitions wait for it, also where the others have asked their group meanwhile.
        feeding.feed(200);
        if at == 0 {
            std::thread::sleep(AWAY);
        }
        running[at] = Some(start(at));
        eventually("it has its partitions again", || {
            (has(&running, at).partitions == before[at].partitions).then_some(())
        });
        feeding.feed(200);
        for (other, before) in before.iter().enumerate().filter(|(other, _)| *other != at) {
            assert_eq!(&has(&running, other), before, "{protocol}: {other} does not notice");
        }
        let again = has(&running, at);
        assert_eq!((again.assigned, again.revoked, again.lost), (each as u64, 0, 0), "{protocol}");
    }

    let read = || kafka.client().read(&out, 0, 0).unwrap();
    eventually("all came out", || (read().len() >= feeding.out).then_some(()));
    for running in running.into_iter().flatten() {
        assert_eq!(running.end(), 0);
    }
    let found: Vec<Event> = read()
        .iter()
        .map(|record| serde_json::from_slice(record.value.as_ref().unwrap()).unwrap())
        .collect();
    // What was in flight was finished and committed before each end.
    feeding.checker.arrived("the topic", Fate::Out, &found, true, 0);
    assert_eq!(feeding.checker.faults(), []);
}
