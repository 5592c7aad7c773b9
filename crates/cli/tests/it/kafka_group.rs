//! Processes of one group on real Kafka that are killed and stopped for longer than their session,
//! in turn and under load: every event comes out, in the order of its key.

use crate::program::{Program, Running};
use millstream_log::{Log, Reader};
use millstream_testkit::events::{Checker, Event, Fate, Generator};
use millstream_testkit::services::{self, unique};
use std::io::Write;
use std::time::{Duration, Instant};

const EVENTS: usize = 12_000;
const PARTITIONS: u64 = 6;
const COLUMNS: &str = "{ key: string, seq: bigint, fate: string, crc: string, number: string }";
const BATCH_ROWS: u64 = 100;
const BATCHES: u64 = 4;
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn processes_that_die_and_stand_still_lose_nothing() {
    let Some(kafka) = services::kafka() else { return };
    let brokers = kafka.bootstrap();
    let topic = unique("killed");
    let out = format!("{topic}-out");
    kafka.create_topic(&topic, PARTITIONS as i32, &[]);
    kafka.create_topic(&out, 3, &[]);

    let feeding = Program::new();
    feeding.write("events.jsonl", "");
    feeding.write(
        "p.yaml",
        format!(
            "pipeline: feed
source: {{ file: events.jsonl, follow: true, format: {{ json: {{ columns: {COLUMNS} }} }} }}
sinks: [{{ kafka: {{ brokers: [\"{brokers}\"], topic: {topic} }}, key: key, format: json }}]
"
        ),
    );
    let collecting = Program::new();
    collecting.write(
        "p.yaml",
        format!(
            "pipeline: {topic}-collect
source:
  kafka: {{ brokers: [\"{brokers}\"], topic: {out} }}
  format: {{ json: {{ columns: {COLUMNS} }} }}
sinks: [{{ topic: collected, partitions: 1, key: key, format: json }}]
"
        ),
    );
    let work = format!(
        "pipeline: {topic}
source:
  kafka:
    brokers: [\"{brokers}\"]
    topic: {topic}
    protocol: classic
    session_timeout: 6s
    rebalance_timeout: 10s
  format: {{ json: {{ columns: {COLUMNS} }} }}
steps:
  - sql: SELECT * FROM input WHERE fate <> 'drop'
sinks: [{{ kafka: {{ brokers: [\"{brokers}\"], topic: {out} }}, key: key, format: json }}]
batch: {{ max_rows: {BATCH_ROWS} }}
in_flight: {{ batches: {BATCHES} }}
"
    );
    let programs: Vec<Program> = (0..3).map(|_| Program::new()).collect();
    for program in &programs {
        program.write("p.yaml", &work);
    }
    let feeder = feeding.start(&["p.yaml"]);
    let collector = collecting.start(&["p.yaml"]);
    let mut running: Vec<Option<Running>> =
        programs.iter().map(|program| Some(program.start(&["p.yaml"]))).collect();

    // Nobody's number is text here, so that what is to be dead goes out with the others.
    let mut generator = Generator::new(41, 60);
    let events: Vec<Event> = (0..EVENTS)
        .map(|_| generator.event())
        .map(|event| match event.fate {
            Fate::Dead => Event::new(event.key, event.seq, Fate::Out),
            _ => event,
        })
        .collect();
    let mut checker = Checker::default();
    events.iter().for_each(|event| checker.sent(event));
    let outgoing = events.iter().filter(|event| event.fate == Fate::Out).count() as u64;
    let mut file =
        std::fs::File::options().append(true).open(feeding.path("events.jsonl")).unwrap();
    let parts = 40;
    for (at, part) in events.chunks(EVENTS / parts).enumerate() {
        let lines: String = part.iter().map(|event| event.line() + "\n").collect();
        file.write_all(lines.as_bytes()).unwrap();
        match at {
            // Dropping it kills it.
            6 => running[0] = None,
            10 => running[0] = Some(programs[0].start(&["p.yaml"])),
            12 => running[1].as_ref().unwrap().signal("-STOP"),
            34 => running[1].as_ref().unwrap().signal("-CONT"),
            36 => running[2] = None,
            38 => running[2] = Some(programs[2].start(&["p.yaml"])),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(400));
    }
    let deadline = Instant::now() + PATIENCE;
    let mut last = (0, Instant::now());
    // Repetitions come too: wait until nothing more does.
    while last.0 < outgoing || last.1.elapsed() < Duration::from_secs(8) {
        assert!(Instant::now() < deadline, "{} of {outgoing} came out", last.0);
        std::thread::sleep(Duration::from_millis(200));
        let now = rows_in(&collector);
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    for process in running.into_iter().flatten().chain([feeder, collector]) {
        assert_eq!(process.end(), 0);
    }
    let found = collected(&collecting);
    // What the killed and the stopped had in flight, and what they had done since their last commit.
    let each = PARTITIONS / 2 * (BATCHES + 4) * BATCH_ROWS;
    let repeated = checker.arrived("the topic", Fate::Out, &found, true, 3 * each);
    println!("3 faults, {} events, {repeated} repeated", events.len());
    assert_eq!(checker.faults(), []);
}

fn rows_in(running: &Running) -> u64 {
    let (_, text) = running.get("/metrics");
    let line = text.lines().find(|line| line.starts_with("millstream_rows_in_total{"));
    line.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

fn collected(program: &Program) -> Vec<Event> {
    let log = Log::open_read_only(&program.path("millstream-data/log")).unwrap();
    let partition = log.topic("collected").unwrap().partition(0).unwrap();
    let mut reader = Reader::new(&partition, 0, 1 << 20).unwrap();
    let mut events = Vec::new();
    while let Some(records) = reader.try_next().unwrap() {
        for record in records.iter() {
            events.push(serde_json::from_slice(record.value.unwrap()).unwrap());
        }
    }
    events
}
