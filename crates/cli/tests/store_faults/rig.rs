//! A pipeline from Kafka that looks up in a store and writes to it, run by the real binary, with
//! numbered events going in all the time and somebody who holds its commits against what is stored.

use super::ledger::Ledger;
use crate::program::{Program, Running};
use millstream_testkit::events::{Event, Generator};
use millstream_testkit::services::{Client, Kafka, unique};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub const KEYS: u64 = 40;
const PARTITIONS: i32 = 3;
/// Real servers on a busy machine need their time to come back.
const PATIENCE: Duration = Duration::from_secs(150);
/// More than any time-out of these pipelines.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);
/// How many events go in at a time, and how often.
const PART: usize = 8;
const EVERY: Duration = Duration::from_millis(100);
/// What was on its way when a store went is answered and committed by then.
const UNDER_WAY: Duration = Duration::from_secs(12);
/// No fault is worth more lines than this, whatever the number of partitions and attempts.
const LINES_MAX: usize = 30;
/// More than a build with debug assertions takes at rest, and far less than what waits in Kafka
/// could make it.
const MEMORY_KIB_MAX: u64 = 600 << 10;

/// Who sees what is stored, without the pipeline.
pub trait Store: Send + Sync + 'static {
    /// Everything in the table of events, in its order where it has one; the reason when it cannot
    /// be read now.
    fn events(&self) -> Result<Vec<Event>, String>;
}

/// What the pipeline's file says of the store.
pub struct Setup {
    pub lookup: String,
    pub sink: String,
    /// What is selected besides, with a comma after it.
    pub select: &'static str,
    /// The look-up's column that has the key.
    pub key: &'static str,
    /// Whether the store shows what is written twice.
    pub appends: bool,
    pub seed: u64,
    /// What stands beside the file.
    pub files: Vec<(&'static str, String)>,
}

/// What is to be seen of a fault: one line of the log that has all of these words, and a reason of
/// `/health/ready` that has this one.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    pub line: &'a [&'a str],
    pub reason: Option<&'a str>,
}

pub struct Rig<S: Store> {
    who: &'static str,
    pub program: Program,
    pub store: Arc<S>,
    client: Client,
    running: Option<Running>,
    ledger: Arc<Mutex<Ledger>>,
    feeding: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    complaints: Mutex<Vec<String>>,
}

pub const NOTHING: Seen<'static> = Seen { line: &[], reason: None };

impl<S: Store> Rig<S> {
    pub fn start(kafka: &Kafka, who: &'static str, store: S, setup: &Setup) -> Self {
        let topic = unique(who);
        kafka.create_topic(&topic, PARTITIONS, &[]);
        kafka.create_topic(&format!("{topic}-dead"), PARTITIONS, &[]);
        let program = Program::new();
        setup.files.iter().for_each(|(file, text)| drop(program.write(file, text)));
        program.write("p.yaml", pipeline(&topic, &kafka.bootstrap(), setup));
        let running = program.start(&["p.yaml"]);
        let mut rig = Self {
            who,
            program,
            store: Arc::new(store),
            client: kafka.client(),
            running: Some(running),
            ledger: Arc::new(Mutex::new(Ledger::new(&topic, PARTITIONS, setup.appends))),
            feeding: Arc::new(AtomicBool::new(true)),
            stop: Arc::default(),
            threads: Vec::new(),
            complaints: Mutex::default(),
        };
        rig.feed_on(topic, setup.seed);
        rig.look_on();
        rig
    }

    /// Events go in, a few at a time, until the end.
    fn feed_on(&mut self, topic: String, seed: u64) {
        let (client, ledger) = (self.client.clone(), self.ledger.clone());
        let (stop, feeding) = (self.stop.clone(), self.feeding.clone());
        let mut generator = Generator::new(seed, KEYS);
        self.threads.push(thread::spawn(move || {
            let mut feeder = client.feeder();
            while !stop.load(Ordering::Relaxed) {
                if feeding.load(Ordering::Relaxed) {
                    let events: Vec<Event> = (0..PART).map(|_| generator.event()).collect();
                    ledger.lock().unwrap().sent(&events);
                    for partition in 0..PARTITIONS {
                        let own = events.iter().filter(|e| partition_of(&e.key) == partition);
                        let own: Vec<_> =
                            own.map(|e| (e.key.clone(), e.line().into_bytes())).collect();
                        feeder.feed(&topic, partition, &own);
                    }
                    ledger.lock().unwrap().landed();
                }
                thread::sleep(EVERY);
            }
        }));
    }

    /// Commits are read all the time, and held against what is stored since.
    fn look_on(&mut self) {
        let (client, ledger) = (self.client.clone(), self.ledger.clone());
        let (store, stop) = (self.store.clone(), self.stop.clone());
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                // What cannot be seen now is seen the next time.
                let _ = Ledger::look(&ledger, &client, &*store);
                // It leaves the machine to those who work.
                thread::sleep(
                    begun.elapsed().clamp(Duration::from_millis(150), Duration::from_secs(2)),
                );
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
        let name = &format!("{}: {name}", self.who);
        self.is_well(&format!("before: {name}"));
        self.goes_on(&format!("before: {name}"));
        let before = self.log().len();
        let begun = Instant::now();
        break_it();
        self.feed_again();
        let said = |log: &[String]| -> usize {
            let has = |line: &&String| seen.line.iter().all(|word| line.contains(word));
            log.iter().filter(has).count()
        };
        let mut reason = seen.reason.is_none();
        let mut stood = None;
        while begun.elapsed() < lasts
            || (!seen.line.is_empty() && said(&self.log()[before..]) == 0)
            || !reason
        {
            let (_, body) = self.running().get("/health/ready");
            if begun.elapsed() > lasts + NOTICED_WITHIN {
                let log = &self.log()[before..];
                let (line, because) = (seen.line, seen.reason);
                self.complain(
                    format!("{name}: a line or a reason: {line:?}, {because:?}; ready: {body}"),
                    log,
                );
                break;
            }
            let reasons = body.split("\"reasons\":").nth(1).unwrap_or_default();
            reason |= seen.reason.is_some_and(|word| reasons.contains(word));
            if stood.is_none() && begun.elapsed() > UNDER_WAY {
                stood = Some(self.ledger.lock().unwrap().committed().clone());
            }
            thread::sleep(Duration::from_millis(50));
        }
        if let Some(stood) = stood
            && seen.reason.is_some()
        {
            let stands = self.ledger.lock().unwrap().committed().clone();
            assert_eq!(stood, stands, "{name}: something was committed while nothing was stored");
        }
        mend();
        let mended = Instant::now();
        self.goes_on(name);
        self.is_well(&format!("after: {name}"));
        let log = self.log().split_off(before);
        println!(
            "{name}: noticed and lasted {:.1} s, over {:.1} s after, {} lines, {} KiB at most",
            (mended - begun).as_secs_f32(),
            mended.elapsed().as_secs_f32(),
            log.len(),
            self.memory_kib_max(),
        );
        if log.len() > LINES_MAX {
            self.complain(format!("{name}: a flood of {} lines", log.len()), &log);
        }
        self.ledger.lock().unwrap().assert_sound(name);
        assert!(self.memory_kib_max() < MEMORY_KIB_MAX, "{name}: {} KiB", self.memory_kib_max());
    }

    /// The table of events is dropped while nothing is on its way, so that all that it had was seen.
    pub fn drop_table(&self, drop_it: impl FnOnce()) {
        self.pause_feeding("before a table is dropped");
        drop_it();
        self.ledger.lock().unwrap().dropped();
    }

    /// What was said badly is told at the end, all together.
    fn complain(&self, what: String, log: &[String]) {
        self.complaints.lock().unwrap().push(format!("{what}:\n{}", log.join("\n")));
    }

    /// Waits for the first so many events.
    fn are_stored(&self, name: &str, upto: usize) {
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
                "{name}: {} of {upto} did not arrive, such as {:?}; ready: {:?}; looking: {:?}; the \
                 log:\n{}",
                missing.len(),
                missing.first(),
                self.running().get("/health/ready").1,
                self.store.events().err(),
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

    /// Lets nothing more in until the next fault is there, and waits until what is in is stored.
    fn pause_feeding(&self, name: &str) {
        self.feeding.store(false, Ordering::Relaxed);
        let begun = Instant::now();
        while !self.ledger.lock().unwrap().all_landed() {
            assert!(begun.elapsed() < PATIENCE, "{name}: the feeder does not end");
            thread::sleep(Duration::from_millis(20));
        }
        // One that has begun may not have noticed.
        thread::sleep(2 * EVERY);
        let upto = self.ledger.lock().unwrap().sent_count();
        self.are_stored(name, upto);
    }

    /// More is committed, whether or not somebody can see just now that it is stored.
    pub fn commits_go_on(&self, name: &str) {
        let committed = || self.ledger.lock().unwrap().committed().values().sum::<i64>();
        let (begun, before) = (Instant::now(), committed());
        while committed() < before + 8 * PART as i64 {
            assert!(begun.elapsed() < PATIENCE, "{name}: nothing is committed");
            thread::sleep(Duration::from_millis(50));
        }
        println!("{name}: commits went on within {:.1} s", begun.elapsed().as_secs_f32());
    }

    /// More goes in and is stored.
    fn goes_on(&self, name: &str) {
        let upto = self.ledger.lock().unwrap().sent_count() + 4 * PART;
        self.are_stored(name, upto);
    }

    fn feed_again(&self) {
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

    /// What the process had in memory at most, where the system says it.
    fn memory_kib_max(&self) -> u64 {
        let path = format!("/proc/{}/status", self.running().pid());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.map_or(0, |line| line.trim().trim_end_matches(" kB").trim().parse().unwrap())
    }

    /// Ends everything: each event is where it belongs, and commits were sound.
    pub fn end(mut self) {
        let name = self.who;
        self.pause_feeding(name);
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        let code = self.running.take().unwrap().end();
        assert_eq!(code, 0, "{}", self.log().join("\n"));
        let begun = Instant::now();
        while let Err(error) = Ledger::look(&self.ledger, &self.client, &*self.store) {
            assert!(begun.elapsed() < PATIENCE, "{name}: {error}");
        }
        self.ledger.lock().unwrap().finish(name);
        let complaints = self.complaints.lock().unwrap().join("\n\n");
        assert!(complaints.is_empty(), "{complaints}");
    }
}

impl<S: Store> Drop for Rig<S> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if thread::panicking()
            && let Ok(complaints) = self.complaints.lock()
        {
            println!("{}", complaints.join("\n\n"));
        }
    }
}

fn partition_of(key: &str) -> i32 {
    key.bytes().map(i32::from).sum::<i32>() % PARTITIONS
}

/// An event from the columns that a store has of it.
pub fn event(cells: [String; 4], seq: i64, place: &str) -> Event {
    let [key, fate, crc, number] = cells;
    assert_eq!(place, key.replace('k', "place-"), "what was looked up for {key}/{seq}");
    let row =
        serde_json::json!({ "key": key, "seq": seq, "fate": fate, "crc": crc, "number": number });
    serde_json::from_value(row).unwrap()
}

fn pipeline(name: &str, brokers: &str, setup: &Setup) -> String {
    let Setup { lookup, sink, select, key, .. } = setup;
    let brokers = format!("brokers: [\"{}\"]", brokers.replace(',', "\", \""));
    format!(
        "pipeline: {name}
source:
  kafka: {{ {brokers}, topic: {name} }}
  format: {{ json: {{ columns: {{ key: string, seq: bigint, fate: string, crc: string, number: string }} }} }}
lookups:
  places:
    {lookup}
    timeout: 2s
    cache: {{ max_entries: 20, ttl: 500ms }}
steps:
  - sql: |
      SELECT {select}i.key, i.seq, i.fate, i.crc, i.number, p.place
      FROM input i JOIN places p ON p.{key} = i.key
      WHERE i.fate <> 'drop' AND CAST(i.number AS BIGINT) >= 0
sinks: [{{ {sink} }}]
dead_letters: {{ topic: {name}-dead, kafka: {{ {brokers} }} }}
max_dead_ratio: 1
batch: {{ max_rows: 50 }}
in_flight: {{ batches: 4 }}
"
    )
}
