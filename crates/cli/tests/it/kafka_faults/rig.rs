//! A pipeline from Kafka to Kafka with a look-up and dead letters, run by the real binary, with
//! numbered events going in all the time and somebody who holds its commits against what came out.

use super::ledger::{Ledger, Places};
use crate::program::{Program, Running};
use millstream_testkit::events::{Event, Fate, Generator};
use millstream_testkit::services::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub const PARTITIONS: usize = 3;
const KEYS: u64 = 40;
/// Real brokers on a busy machine need their time to come back.
const PATIENCE: Duration = Duration::from_secs(120);
/// More than any time-out of these pipelines.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);
/// How many events go in at a time, and how often.
const PART: usize = 12;
const EVERY: Duration = Duration::from_millis(60);

/// What is special about a pipeline.
pub struct Setup {
    /// The brokers as its file names them.
    pub brokers: String,
    /// What its three cluster options have besides.
    pub cluster: String,
    pub source: String,
    /// The source's format, with what else stands beside it.
    pub format: String,
    /// Further lines of the source.
    pub beside_source: String,
    /// What stands beside the pipeline's file.
    pub files: Vec<(&'static str, String)>,
    /// What stands beside a sink's topic.
    pub sink: String,
    pub seed: u64,
    /// What is selected besides.
    pub select: &'static str,
    /// How an event is written.
    pub encode: fn(&Event) -> Vec<u8>,
    pub decode: fn(&[u8]) -> Event,
    /// How long what is committed may be hidden from readers: a new leader does not know at once
    /// up to where everybody has everything.
    pub hidden_for: Duration,
}

/// What is to be seen of a fault.
pub struct Seen<'a> {
    /// One line of the log has all of these words.
    pub line: &'a [&'a str],
    /// `/health/ready` says no, with a reason that has this word.
    pub reason: Option<&'a str>,
    /// It may be over and come again, and be said again, while it lasts.
    pub flaps: bool,
    /// It was there before the pipeline.
    pub starting: bool,
}

impl<'a> Seen<'a> {
    pub fn new(line: &'a [&'a str], reason: Option<&'a str>) -> Self {
        Self { line, reason, flaps: false, starting: false }
    }
}

pub struct Rig {
    pub program: Program,
    pub places: Places,
    pub client: Client,
    running: Option<Running>,
    ledger: Arc<Mutex<Ledger>>,
    feeding: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    complaints: Mutex<Vec<String>>,
}

impl Setup {
    pub fn new(brokers: String, seed: u64) -> Self {
        Self {
            brokers,
            cluster: "request_timeout: 2s, metadata_refresh: 1s".into(),
            source: "session_timeout: 6s, rebalance_timeout: 6s".into(),
            format: "{ json: { columns: { key: string, seq: bigint, fate: string, crc: string, \
                     number: string } } }"
                .into(),
            beside_source: String::new(),
            files: Vec::new(),
            sink: "compression: none".into(),
            seed,
            select: "",
            encode: |event| event.line().into_bytes(),
            decode: |bytes| serde_json::from_slice(bytes).unwrap(),
            hidden_for: Duration::ZERO,
        }
    }
}

impl Rig {
    /// The topics must be there: the source's, and with `-out` and `-dead`.
    pub fn start(name: &str, client: Client, setup: Setup) -> Rig {
        let program = Program::new();
        let places: String = (0..KEYS).map(|key| format!("k{key},place-{key}\n")).collect();
        program.write("places.csv", format!("key,place\n{places}"));
        program.ok(&["tables", "load", "places", "places.csv", "--key", "key"]);
        setup.files.iter().for_each(|(file, text)| drop(program.write(file, text)));
        program.write("p.yaml", pipeline(name, &setup));
        let running = program.start(&["p.yaml"]);
        let places = Places::new(name, PARTITIONS);
        let mut rig = Rig {
            program,
            ledger: Arc::new(Mutex::new(Ledger::new(places.clone(), setup.decode))),
            places,
            client,
            running: Some(running),
            feeding: Arc::new(AtomicBool::new(true)),
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
            complaints: Mutex::default(),
        };
        rig.feed_on(&setup);
        rig.look_on(setup.hidden_for);
        rig
    }

    /// Events go in, a few at a time, until the end.
    fn feed_on(&mut self, setup: &Setup) {
        let (client, places) = (self.client.clone(), self.places.clone());
        let (ledger, stop) = (self.ledger.clone(), self.stop.clone());
        let feeding = self.feeding.clone();
        let mut generator = Generator::new(setup.seed, KEYS);
        let encode = setup.encode;
        self.threads.push(thread::spawn(move || {
            let mut feeder = client.feeder();
            while !stop.load(Ordering::Relaxed) {
                if feeding.load(Ordering::Relaxed) {
                    let events: Vec<Event> = (0..PART).map(|_| generator.event()).collect();
                    ledger.lock().unwrap().sent(&events);
                    for partition in 0..PARTITIONS {
                        let own = events.iter().filter(|e| places.partition(&e.key) == partition);
                        let own: Vec<_> = own.map(|e| (e.key.clone(), encode(e))).collect();
                        feeder.feed(&places.source, partition as i32, &own);
                    }
                    ledger.lock().unwrap().landed();
                }
                thread::sleep(EVERY);
            }
        }));
    }

    /// Commits are read all the time, and held against what has come out since.
    fn look_on(&mut self, hidden_for: Duration) {
        let (client, ledger) = (self.client.clone(), self.ledger.clone());
        let stop = self.stop.clone();
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // What cannot be seen now is seen the next time.
                let _ = Ledger::look(&ledger, &client, hidden_for);
                thread::sleep(Duration::from_millis(50));
            }
        }));
    }

    /// Waits until all is well, breaks something, sees that it is noticed, lets it last, mends it,
    /// and sees that everything goes on by itself.
    pub fn fault(
        &self,
        name: &str,
        lasts: Duration,
        seen: Seen<'_>,
        break_it: impl FnOnce(),
        mend: impl FnOnce(),
    ) {
        if !seen.starting {
            self.is_well(&format!("before: {name}"));
            match self.feeding.load(Ordering::Relaxed) {
                true => self.goes_on(&format!("before: {name}")),
                false => self.catch_up(&format!("before: {name}")),
            }
        }
        let before = if seen.starting { 0 } else { self.log().len() };
        let looked = self.ledger.lock().unwrap().looks();
        let begun = Instant::now();
        break_it();
        let said = |log: &[String]| -> usize {
            let has = |line: &&String| seen.line.iter().all(|word| line.contains(word));
            log.iter().filter(has).count()
        };
        let mut reason = seen.reason.is_none();
        while begun.elapsed() < lasts
            || (!seen.line.is_empty() && said(&self.log()[before..]) == 0)
            || !reason
        {
            let log = &self.log()[before..];
            if begun.elapsed() > lasts + NOTICED_WITHIN {
                let lacks = match reason {
                    true => "a line",
                    false => "a line or a reason",
                };
                let (line, because) = (seen.line, seen.reason);
                self.complain(format!("{name}: {lacks}, {line:?}, {because:?}"), log);
                break;
            }
            let (_, body) = self.running().get("/health/ready");
            let reasons = body.split("\"reasons\":").nth(1).unwrap_or_default();
            reason |= seen.reason.is_some_and(|word| reasons.contains(word));
            thread::sleep(Duration::from_millis(50));
        }
        let during = self.ledger.lock().unwrap().looks() - looked;
        mend();
        let mended = Instant::now();
        // What was there, and what came when it was over.
        self.goes_on(name);
        self.is_well(&format!("after: {name}"));
        let log = self.log().split_off(before);
        println!(
            "{name}: noticed and lasted {:.1} s, over {:.1} s after, {} lines, looked {during} times",
            (mended - begun).as_secs_f32(),
            mended.elapsed().as_secs_f32(),
            log.len()
        );
        let lines = said(&log);
        let lines_max = if seen.flaps { LINES_MAX } else { 1 };
        if !seen.line.is_empty() && !(1..=lines_max).contains(&lines) {
            self.complain(format!("{name}: {lines} lines with {:?}", seen.line), &log);
        }
        if log.len() > LINES_MAX {
            self.complain(format!("{name}: a flood of {} lines", log.len()), &log);
        }
        self.ledger.lock().unwrap().assert_sound(name);
    }

    /// What was said badly is told at the end, all together.
    fn complain(&self, what: String, log: &[String]) {
        self.complaints.lock().unwrap().push(format!("{what}:\n{}", log.join("\n")));
    }

    /// Waits until everything that was sent has arrived.
    pub fn catch_up(&self, name: &str) {
        let upto = self.ledger.lock().unwrap().sent_count();
        self.has_come_out(name, upto);
    }

    /// Waits for the first so many events.
    fn has_come_out(&self, name: &str, upto: usize) {
        let begun = Instant::now();
        loop {
            let (missing, sent) = {
                let ledger = self.ledger.lock().unwrap();
                (ledger.missing(upto), ledger.sent_count())
            };
            if missing.is_empty() && sent >= upto {
                return;
            }
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "{name}: see above");
            assert!(
                begun.elapsed() < PATIENCE,
                "{name}: {} of {upto} did not arrive, such as {:?}; ready: {:?}; the log:\n{}",
                missing.len(),
                missing.first(),
                self.running().get("/health/ready").1,
                self.log().join("\n")
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_well(&self, name: &str) {
        let begun = Instant::now();
        loop {
            let (status, body) = self.running().get("/health/ready");
            if status == 200 {
                return;
            }
            let log = || self.log().join("\n");
            assert!(begun.elapsed() < PATIENCE, "{name}: not ready: {body}; the log:\n{}", log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Lets nothing more in until [`Rig::feed_again`], and waits until what is in has come out.
    pub fn pause_feeding(&self, name: &str) {
        self.feeding.store(false, Ordering::Relaxed);
        let begun = Instant::now();
        while !self.ledger.lock().unwrap().all_landed() {
            assert!(begun.elapsed() < PATIENCE, "{name}: the feeder does not end");
            thread::sleep(Duration::from_millis(20));
        }
        self.catch_up(name);
    }

    /// More goes in and comes out.
    pub fn goes_on(&self, name: &str) {
        let upto = self.ledger.lock().unwrap().sent_count() + 4 * PART;
        self.has_come_out(name, upto);
    }

    pub fn feed_again(&self) {
        self.feeding.store(true, Ordering::Relaxed);
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    /// The lines of the program's log.
    pub fn log(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.program.path("run.log")).unwrap();
        log.lines().map(str::to_owned).collect()
    }

    pub fn ledger(&self) -> &Mutex<Ledger> {
        &self.ledger
    }

    /// Ends everything: each event is where it belongs, in order, and commits were sound.
    pub fn end(mut self, name: &str) {
        self.pause_feeding(name);
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        let code = self.running.take().unwrap().end();
        assert_eq!(code, 0, "{}", self.log().join("\n"));
        let begun = Instant::now();
        while let Err(error) = Ledger::look(&self.ledger, &self.client, Duration::ZERO) {
            assert!(begun.elapsed() < PATIENCE, "{name}: {error}");
        }
        self.ledger.lock().unwrap().finish(name);
        let complaints = self.complaints.lock().unwrap();
        assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// No fault is worth more lines than this: a few for each thing that is tried, whatever the number
/// of partitions and attempts.
const LINES_MAX: usize = 30;

fn pipeline(name: &str, setup: &Setup) -> String {
    let Setup { brokers, cluster, source, beside_source, format, sink, select, .. } = setup;
    let brokers = brokers.replace(',', "\", \"");
    let cluster = format!("brokers: [\"{brokers}\"], {cluster}");
    format!(
        "pipeline: {name}
source:
  kafka: {{ {cluster}, topic: {name}, {source} }}
  format: {format}
{beside_source}lookups:
  places: {{ table: places }}
steps:
  - sql: |
      SELECT i.key, i.seq, i.fate, i.crc, i.number, CAST(i.number AS BIGINT) AS n, p.place{select}
      FROM input i JOIN places p ON p.key = i.key
      WHERE i.fate <> '{}'
sinks:
  - kafka: {{ {cluster}, topic: {name}-out }}
    key: key
    format: json
    {sink}
dead_letters: {{ topic: {name}-dead, kafka: {{ {cluster} }} }}
max_dead_ratio: 1
batch: {{ max_rows: 50 }}
in_flight: {{ batches: 4 }}
",
        serde_json::to_value(Fate::Drop).unwrap().as_str().unwrap()
    )
}
