//! Processes of one group on real Kafka that join, leave, are killed and stand still for longer than
//! their session, in turn and under load: every event comes out, in the order of its key, and what
//! comes twice is bounded. Another pipeline in one of the processes does not notice.

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
/// Parts that the events come in, and the time between two of them.
const PARTS: usize = 60;
const PAUSE: Duration = Duration::from_millis(350);

#[test]
fn processes_that_come_go_die_and_stand_still_lose_nothing() {
    come_and_go("classic");
}

/// Its session is the broker's: ten seconds.
#[test]
fn nor_do_they_in_the_newer_protocol() {
    come_and_go("consumer");
}

fn come_and_go(protocol: &str) {
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
    protocol: {protocol}
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
        program.write("other.jsonl", "");
        program.write(
            "other.yaml",
            "pipeline: other
source: { file: other.jsonl, follow: true, format: { json: { columns: { n: bigint } } } }
sinks: [{ topic: collected, partitions: 1, format: json }]
",
        );
    }
    let feeder = feeding.start(&["p.yaml"]);
    let collector = collecting.start(&["p.yaml"]);
    let start = |at: usize| Some(programs[at].start(&["p.yaml", "other.yaml"]));
    let mut running: Vec<Option<Running>> = vec![start(0), start(1), None];

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
    let mut other =
        std::fs::File::options().append(true).open(programs[2].path("other.jsonl")).unwrap();
    for (at, part) in events.chunks(EVENTS / PARTS).enumerate() {
        let lines: String = part.iter().map(|event| event.line() + "\n").collect();
        file.write_all(lines.as_bytes()).unwrap();
        writeln!(other, "{{\"n\":{at}}}").unwrap();
        match at {
            3 => running[2] = start(2),
            // Dropping it kills it.
            8 => running[0] = None,
            12 => running[0] = start(0),
            16 => running[1].as_ref().unwrap().signal("-STOP"),
            50 => running[1].as_ref().unwrap().signal("-CONT"),
            53 => assert_eq!(running[0].take().unwrap().end(), 0),
            56 => running[0] = start(0),
            _ => {}
        }
        std::thread::sleep(PAUSE);
    }
    let deadline = Instant::now() + PATIENCE;
    let mut last = (0, Instant::now());
    // Repetitions come too: wait until nothing more does.
    while last.0 < outgoing || last.1.elapsed() < Duration::from_secs(8) {
        assert!(Instant::now() < deadline, "{} of {outgoing} came out", last.0);
        std::thread::sleep(Duration::from_millis(200));
        let now = counted(&collector, "rows_in", &format!("{topic}-collect"));
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    let beside = running[2].as_ref().unwrap();
    assert_eq!(counted(beside, "rows_in", "other"), PARTS as u64);
    assert_eq!(counted(beside, "restarts", "other"), 0, "what the group does is not its concern");
    for process in running.into_iter().flatten().chain([feeder, collector]) {
        assert_eq!(process.end(), 0);
    }
    let told = texts(&programs[2]);
    assert!(told.iter().map(|text| text.as_str()).eq((0..PARTS).map(|n| format!("{{\"n\":{n}}}"))));
    let found: Vec<Event> =
        texts(&collecting).iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    // What the killed and the stopped had in flight, and what they had done since their last commit.
    let each = PARTITIONS / 2 * (BATCHES + 4) * BATCH_ROWS;
    let repeated = checker.arrived("the topic", Fate::Out, &found, true, 3 * each);
    println!("{protocol}: 4 changes, {} events, {repeated} repeated", events.len());
    assert_eq!(checker.faults(), []);
}

/// A counter of a pipeline.
fn counted(running: &Running, counter: &str, pipeline: &str) -> u64 {
    let (_, text) = running.get("/metrics");
    let begin = format!("millstream_{counter}_total{{pipeline=\"{pipeline}\"");
    let line = text.lines().find(|line| line.starts_with(&begin));
    line.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

/// What came out, as it is.
fn texts(program: &Program) -> Vec<String> {
    let log = Log::open_read_only(&program.path("millstream-data/log")).unwrap();
    let partition = log.topic("collected").unwrap().partition(0).unwrap();
    let mut reader = Reader::new(&partition, 0, 1 << 20).unwrap();
    let mut texts = Vec::new();
    while let Some(records) = reader.try_next().unwrap() {
        for record in records.iter() {
            texts.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
        }
    }
    texts
}
