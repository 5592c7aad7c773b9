//! A pipeline from Kafka, run by the real binary, with numbered events going in all the time and
//! somebody who holds its commits against what has come out.

use super::ledger::{Ledger, Out, PARTITIONS};
use super::seen::Seen;
use crate::program::{Program, Running};
use millstream_testkit::events::{Event, Generator};
use millstream_testkit::services::Client;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub const KEYS: u64 = 40;
/// Real servers on a busy machine need their time to come back.
const PATIENCE: Duration = Duration::from_secs(300);
/// More than any time-out of these pipelines, on a machine that has much else to do.
const NOTICED_WITHIN: Duration = Duration::from_secs(60);
/// What is said of a fault, and when, depends on what was going on when it came: one that was not
/// noticed as expected is made again, up to so many times in all.
const TRIES: usize = 3;
/// No fault is worth more lines than this: a few for each thing that is tried, whatever the number
/// of partitions and attempts.
const LINES_MAX: usize = 30;
/// A fault is noticed and over so long after it should end; where that takes longer it may be worth
/// more lines.
const OVER_WITHIN: Duration = Duration::from_secs(15);
/// More than a build with debug assertions takes at rest, and far less than what waits in Kafka
/// could make it.
const MEMORY_KIB_MAX: u64 = 600 << 10;

/// What goes in, and how it is looked at.
pub struct Load {
    /// The source's topic; that of the dead letters has `-dead` after it.
    pub topic: String,
    pub out: Out,
    pub seed: u64,
    /// How an event is written.
    pub encode: fn(&Event) -> Vec<u8>,
    pub decode: fn(&[u8]) -> Event,
    /// How long what is committed may be hidden from readers: a new leader does not know at once
    /// up to where everybody has everything.
    pub hidden_for: Duration,
    pub pace: Pace,
}

/// How fast all of it goes.
#[derive(Clone, Copy)]
pub struct Pace {
    /// How many events go in at a time, and how often.
    pub part: usize,
    pub every: Duration,
    /// Whoever looks rests for as long as the look took, but within these.
    pub rest: [Duration; 2],
}

pub struct Rig {
    who: String,
    pub program: Program,
    client: Client,
    running: Option<Running>,
    ledger: Arc<Mutex<Ledger>>,
    /// Locked while a part goes in.
    feeding: Arc<Mutex<bool>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    complaints: Mutex<Vec<String>>,
    hidden_for: Duration,
    pace: Pace,
}

impl Rig {
    /// Runs the program's `p.yaml`; the topics must be there.
    pub fn start(who: &str, program: Program, client: Client, load: Load) -> Self {
        let running = program.start(&["p.yaml"]);
        let ledger = Ledger::new(&load.topic, load.decode, load.out.clone());
        let mut rig = Self {
            who: who.to_owned(),
            program,
            client,
            running: Some(running),
            ledger: Arc::new(Mutex::new(ledger)),
            feeding: Arc::new(Mutex::new(true)),
            stop: Arc::default(),
            threads: Vec::new(),
            complaints: Mutex::default(),
            hidden_for: load.hidden_for,
            pace: load.pace,
        };
        rig.look_on();
        rig.feed_on(load);
        rig
    }

    /// Events go in, a few at a time, until the end.
    fn feed_on(&mut self, load: Load) {
        let (client, ledger) = (self.client.clone(), self.ledger.clone());
        let (stop, feeding) = (self.stop.clone(), self.feeding.clone());
        let mut generator = Generator::new(load.seed, KEYS);
        self.threads.push(thread::spawn(move || {
            let mut feeder = client.feeder();
            while !stop.load(Ordering::Relaxed) {
                let feeding = feeding.lock().unwrap();
                if *feeding {
                    let events: Vec<Event> =
                        (0..load.pace.part).map(|_| generator.event()).collect();
                    ledger.lock().unwrap().sent(&events);
                    for partition in 0..PARTITIONS {
                        let own = events.iter().filter(|e| partition_of(&e.key) == partition);
                        let own: Vec<_> = own.map(|e| (e.key.clone(), (load.encode)(e))).collect();
                        feeder.feed(&load.topic, partition, &own);
                    }
                }
                drop(feeding);
                thread::sleep(load.pace.every);
            }
        }));
    }

    /// Commits are read all the time, and held against what has come out since.
    fn look_on(&mut self) {
        let (client, ledger) = (self.client.clone(), self.ledger.clone());
        let hidden_for = self.hidden_for;
        let (stop, [least, most]) = (self.stop.clone(), self.pace.rest);
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                // What cannot be seen now is seen the next time.
                let _ = Ledger::look(&ledger, &client, hidden_for);
                // It leaves the machine to those who work.
                thread::sleep(begun.elapsed().clamp(least, most));
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
        mut break_it: impl FnMut(),
        mut mend: impl FnMut(),
    ) {
        let name = &format!("{}: {name}", self.who);
        let mut unnoticed = Vec::new();
        while unnoticed.len() < if seen.starting { 1 } else { TRIES } {
            match self.happen(name, lasts, seen, &mut break_it, &mut mend) {
                Ok(()) => return,
                Err(told) => unnoticed.push(told),
            }
            println!("{name}: not noticed as expected");
        }
        self.complain(unnoticed.join("\n"));
    }

    /// Once; an error says what was not noticed of it.
    fn happen(
        &self,
        name: &str,
        lasts: Duration,
        seen: Seen<'_>,
        break_it: &mut impl FnMut(),
        mend: &mut impl FnMut(),
    ) -> Result<(), String> {
        if !seen.starting {
            self.is_well(&format!("before: {name}"));
            let is_fed = *self.feeding.lock().unwrap();
            match is_fed {
                true => self.goes_on(&format!("before: {name}")),
                false => self.catch_up(&format!("before: {name}")),
            }
        }
        let before = if seen.starting { 0 } else { self.log().len() };
        self.ledger.lock().unwrap().breaks();
        break_it();
        let (broken, sent) = (Instant::now(), self.ledger.lock().unwrap().sent_count());
        let ready = self.is_noticed(before, broken, lasts, seen);
        if seen.halts {
            self.stands(name, sent);
        }
        mend();
        self.ledger.lock().unwrap().mended();
        let mended = Instant::now();
        // What was there, and what came when it was over.
        self.goes_on(name);
        self.is_well(&format!("after: {name}"));
        let log = self.log().split_off(before);
        println!(
            "{name}: noticed and lasted {:.1} s, over {:.1} s after, {} lines, {} KiB at most",
            (mended - broken).as_secs_f32(),
            mended.elapsed().as_secs_f32(),
            log.len(),
            self.memory_kib_max(),
        );
        let spans = 1 + broken.elapsed().as_secs() / (lasts + OVER_WITHIN).as_secs();
        if log.len() > LINES_MAX * spans as usize {
            self.complain(format!("{name}: a flood of {} lines:\n{}", log.len(), log.join("\n")));
        }
        self.ledger.lock().unwrap().assert_sound(name);
        assert!(self.memory_kib_max() < MEMORY_KIB_MAX, "{name}: {} KiB", self.memory_kib_max());
        let (wanted, all) = ((seen.line, seen.reason), log.join("\n"));
        if let Err(ready) = ready {
            return Err(format!("{name}: a line or a reason: {wanted:?}; ready: {ready}:\n{all}"));
        }
        match seen.said_again(&log) {
            Some(line) => Err(format!("{name}: it says again {line}:\n{all}")),
            _ => Ok(()),
        }
    }

    /// Waits until a fault has lasted and what is to be seen of it was seen; an error has what
    /// `/health/ready` said last.
    fn is_noticed(
        &self,
        before: usize,
        broken: Instant,
        lasts: Duration,
        seen: Seen<'_>,
    ) -> Result<(), String> {
        let within = if seen.starting { PATIENCE } else { NOTICED_WITHIN };
        let mut reason = seen.reason.is_none();
        loop {
            let line = seen.line.is_empty() || !seen.said(&self.log()[before..]).is_empty();
            if line && reason && broken.elapsed() >= lasts {
                return Ok(());
            }
            let (_, body) = self.ready();
            if broken.elapsed() > lasts + within {
                return Err(body);
            }
            let reasons = body.split("\"reasons\":").nth(1).unwrap_or_default();
            reason |= seen.reason.is_some_and(|word| reasons.contains(word));
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Nothing that was sent after the first so many is committed.
    fn stands(&self, name: &str, upto: usize) {
        let begun = Instant::now();
        while let Err(error) = Ledger::stands(&self.ledger, &self.client, upto) {
            assert!(begun.elapsed() < PATIENCE, "{name}: nobody sees the commits: {error}");
        }
    }

    /// The table of events is dropped while nothing is on its way, so that all that it had was seen.
    pub fn drop_table(&self, drop_it: impl FnOnce()) {
        self.pause_feeding("before a table is dropped");
        // Before it is empty, lest it be looked at in between.
        self.ledger.lock().unwrap().dropped();
        drop_it();
        self.feed_again();
    }

    /// A topic is made again after all that it had was seen.
    pub fn make_again(&self, topic: &str, make: impl FnOnce()) {
        // Nothing of the old one is in the new one, whatever its offsets are.
        self.ledger.lock().unwrap().made_again(topic);
        make();
    }

    /// What was said badly is told at the end, all together.
    fn complain(&self, what: String) {
        self.complaints.lock().unwrap().push(what);
    }

    /// Waits until everything that was sent has arrived.
    fn catch_up(&self, name: &str) {
        let upto = self.ledger.lock().unwrap().sent_count();
        self.has_come_out(name, upto);
    }

    /// Waits for the first so many events, and until somebody has held the commits against what has
    /// come out.
    fn has_come_out(&self, name: &str, upto: usize) {
        let begun = Instant::now();
        let looked = self.ledger.lock().unwrap().looks();
        loop {
            let (missing, sent, looks) = {
                let ledger = self.ledger.lock().unwrap();
                (ledger.missing(upto), ledger.sent_count(), ledger.looks())
            };
            if missing.is_empty() && sent >= upto && looks > looked {
                return;
            }
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "{name}: see above");
            assert!(
                begun.elapsed() < PATIENCE,
                "{name}: {} of {upto} did not arrive, such as {:?}; ready: {:?}; looking: {:?}; the \
                 log:\n{}",
                missing.len(),
                missing.first(),
                self.ready().1,
                Ledger::look(&self.ledger, &self.client, Duration::ZERO).err(),
                self.log().join("\n")
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_well(&self, name: &str) {
        let begun = Instant::now();
        loop {
            let (status, body) = self.ready();
            if status == 200 {
                return;
            }
            let log = || self.log().join("\n");
            let waits = begun.elapsed() < PATIENCE;
            assert!(waits, "{name}: not ready: {body}; the log:\n{}", log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Lets nothing more in until [`Rig::feed_again`], and waits until what is in has come out.
    pub fn pause_feeding(&self, name: &str) {
        *self.feeding.lock().unwrap() = false;
        self.catch_up(name);
    }

    pub fn feed_again(&self) {
        *self.feeding.lock().unwrap() = true;
    }

    /// More is committed, whether or not somebody can see just now that it has come out.
    pub fn commits_go_on(&self, name: &str) {
        let committed = || self.ledger.lock().unwrap().committed().values().sum::<i64>();
        let (begun, before) = (Instant::now(), committed());
        while committed() < before + 8 * self.pace.part as i64 {
            assert!(begun.elapsed() < PATIENCE, "{name}: nothing is committed");
            thread::sleep(Duration::from_millis(50));
        }
        println!("{name}: commits went on within {:.1} s", begun.elapsed().as_secs_f32());
    }

    /// More goes in and comes out.
    pub fn goes_on(&self, name: &str) {
        let upto = self.ledger.lock().unwrap().sent_count() + 4 * self.pace.part;
        self.has_come_out(name, upto);
    }

    /// What `/health/ready` says.
    fn ready(&self) -> (u16, String) {
        let running = self.running();
        if TcpStream::connect(running.address).is_err() {
            // Why it ends is the last that it says.
            thread::sleep(Duration::from_secs(10));
            panic!("{}: it ended by itself; the log:\n{}", self.who, self.log().join("\n"));
        }
        running.get("/health/ready")
    }

    fn running(&self) -> &Running {
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

    /// Ends everything: each event is where it belongs, in order where there is one, and commits
    /// were sound.
    pub fn end(mut self) {
        let name = self.who.clone();
        self.pause_feeding(&name);
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        let code = self.running.take().unwrap().end();
        assert_eq!(code, 0, "{}", self.log().join("\n"));
        let begun = Instant::now();
        while let Err(error) = Ledger::look(&self.ledger, &self.client, self.hidden_for) {
            assert!(begun.elapsed() < PATIENCE, "{name}: {error}");
        }
        self.ledger.lock().unwrap().finish(&name);
        let complaints = self.complaints.lock().unwrap().join("\n\n");
        assert!(complaints.is_empty(), "{complaints}");
    }
}

impl Drop for Rig {
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
