//! What was sent, what has come out, and whether the commits in between were right.

use millstream_testkit::events::{Checker, Event, Fate};
use millstream_testkit::services::{Client, Stored};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The topics of a pipeline.
#[derive(Debug, Clone)]
pub struct Places {
    pub source: String,
    pub out: String,
    pub dead: String,
    partitions: usize,
}

type Id = (String, u64);

/// Everything that is known of one run.
pub struct Ledger {
    places: Places,
    decode: fn(&[u8]) -> Event,
    checker: Checker,
    sent: Vec<Event>,
    /// How many of those are in the source's topic.
    landed: usize,
    /// By topic and partition, from where on nothing was looked at yet.
    upto: BTreeMap<(String, i32), i64>,
    /// The source's events by partition and offset.
    source: BTreeMap<(i32, i64), Event>,
    out: Vec<Event>,
    dead: Vec<Event>,
    arrived: BTreeSet<Id>,
    /// By partition, the offset below which all was found to be done.
    done_below: BTreeMap<i32, i64>,
    looks: u64,
    unsound: Vec<String>,
}

impl Places {
    pub fn new(name: &str, partitions: usize) -> Self {
        let [source, out, dead] = ["", "-out", "-dead"].map(|end| format!("{name}{end}"));
        Self { source, out, dead, partitions }
    }

    pub fn partition(&self, key: &str) -> usize {
        key.bytes().map(usize::from).sum::<usize>() % self.partitions
    }
}

impl Ledger {
    /// `decode` reads what is in the source's topic.
    pub fn new(places: Places, decode: fn(&[u8]) -> Event) -> Self {
        Self {
            places,
            decode,
            checker: Checker::default(),
            sent: Vec::new(),
            landed: 0,
            upto: BTreeMap::new(),
            source: BTreeMap::new(),
            out: Vec::new(),
            dead: Vec::new(),
            arrived: BTreeSet::new(),
            done_below: BTreeMap::new(),
            looks: 0,
            unsound: Vec::new(),
        }
    }

    /// To be told before they go in.
    pub fn sent(&mut self, events: &[Event]) {
        events.iter().for_each(|event| self.checker.sent(event));
        self.sent.extend_from_slice(events);
    }

    pub fn landed(&mut self) {
        self.landed = self.sent.len();
    }

    pub fn all_landed(&self) -> bool {
        self.landed == self.sent.len()
    }

    pub fn sent_count(&self) -> usize {
        self.sent.len()
    }

    /// How often the commits could be looked at.
    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// Those of the first so many that are nowhere yet.
    pub fn missing(&self, upto: usize) -> Vec<Event> {
        let due = self.sent.iter().take(upto).filter(|event| event.fate != Fate::Drop);
        due.filter(|event| !self.arrived.contains(&id(event))).cloned().collect()
    }

    /// Reads the commits, then what has come out: what is committed must be among it.
    pub fn look(ledger: &Mutex<Ledger>, client: &Client, hidden_for: Duration) -> io::Result<()> {
        let places = ledger.lock().unwrap().places.clone();
        let committed = client.committed(&places.source, &places.source)?;
        let begun = Instant::now();
        loop {
            Self::read_on(ledger, client, &places.source)?;
            Self::read_on(ledger, client, &places.out)?;
            Self::read_on(ledger, client, &places.dead)?;
            let mut ledger = ledger.lock().unwrap();
            let undone = ledger.undone(&committed);
            let is_hidden =
                committed.iter().any(|(partition, upto)| *upto > ledger.end(*partition));
            if is_hidden && begun.elapsed() < hidden_for {
                continue;
            }
            if undone.is_empty() {
                ledger.is_done_below(&committed);
                return Ok(());
            }
            if begun.elapsed() >= hidden_for {
                let (partition, offset) = undone[0];
                let told = format!(
                    "partition {partition}: {committed:?} is committed, but {} rows below are \
                     undone, the first at {offset}",
                    undone.len()
                );
                ledger.unsound.push(told);
                ledger.is_done_below(&committed);
                return Ok(());
            }
        }
    }

    /// A topic was made again: what it held before was looked at, and its offsets begin anew.
    pub fn made_again(&mut self, topic: &str) {
        self.upto.retain(|(of, _), _| of != topic);
        if topic == self.places.source {
            self.source.clear();
            self.done_below.clear();
            self.checker.offsets_begin_anew();
        }
    }

    fn read_on(ledger: &Mutex<Ledger>, client: &Client, topic: &str) -> io::Result<()> {
        let partitions = ledger.lock().unwrap().places.partitions as i32;
        for partition in 0..partitions {
            let at = (topic.to_owned(), partition);
            let from = ledger.lock().unwrap().upto.get(&at).copied().unwrap_or(0);
            let found = client.read(topic, partition, from)?;
            let mut ledger = ledger.lock().unwrap();
            if let Some(last) = found.last() {
                ledger.upto.insert(at, last.offset + 1);
            }
            found.into_iter().for_each(|record| ledger.take(topic, partition, &record));
        }
        Ok(())
    }

    fn take(&mut self, topic: &str, partition: i32, record: &Stored) {
        let value = record.value.as_deref().unwrap_or_default();
        let event = match topic == self.places.out {
            true => written(value),
            false => (self.decode)(value),
        };
        if topic == self.places.source {
            self.source.insert((partition, record.offset), event);
            return;
        }
        self.arrived.insert(id(&event));
        match topic == self.places.out {
            true => self.out.push(event),
            false => {
                let reason = record.headers.iter().find(|(name, _)| name == "millstream.reason");
                assert!(reason.is_some(), "a letter has its reason: {:?}", record.headers);
                self.dead.push(event);
            }
        }
    }

    /// Where a partition of the source ends, as far as it was seen.
    fn end(&self, partition: i32) -> i64 {
        self.upto.get(&(self.places.source.clone(), partition)).copied().unwrap_or(0)
    }

    fn undone(&self, committed: &BTreeMap<i32, i64>) -> Vec<(i32, i64)> {
        let mut undone = Vec::new();
        for (partition, upto) in committed {
            let from = self.done_below.get(partition).copied().unwrap_or(0);
            let below = self.source.range((*partition, from)..(*partition, (*upto).max(from)));
            let lacking = below.filter(|(_, event)| {
                event.fate != Fate::Drop && !self.arrived.contains(&id(event))
            });
            undone.extend(lacking.map(|(at, _)| *at));
        }
        undone
    }

    fn is_done_below(&mut self, committed: &BTreeMap<i32, i64>) {
        self.looks += 1;
        for (partition, offset) in committed {
            let end = self.end(*partition);
            self.checker.committed(*partition as u32, *offset, end);
            self.done_below.insert(*partition, *offset);
        }
    }

    pub fn assert_sound(&self, name: &str) {
        assert!(self.unsound.is_empty(), "{name}: {:#?}", self.unsound);
        assert_eq!(self.checker.faults(), [], "{name}");
    }

    /// Holds everything that arrived against everything that was sent.
    pub fn finish(&mut self, name: &str) {
        let repeated_max = self.sent.len() as u64;
        let (out, dead) = (self.out.clone(), self.dead.clone());
        let twice = self.checker.arrived("out", Fate::Out, &out, true, repeated_max)
            + self.checker.arrived("dead", Fate::Dead, &dead, true, repeated_max);
        println!(
            "{name}: {} events, {} out, {} dead, {twice} repeated, looked {} times",
            self.sent.len(),
            out.len(),
            dead.len(),
            self.looks
        );
        assert!(self.looks > 10, "{name}: nobody saw the commits");
        self.assert_sound(name);
    }
}

fn id(event: &Event) -> Id {
    (event.key.clone(), event.seq)
}

/// An event as the pipeline writes it, with what its look-up found.
fn written(value: &[u8]) -> Event {
    let row: serde_json::Value = serde_json::from_slice(value).unwrap();
    let place = row["key"].as_str().unwrap().replace('k', "place-");
    assert_eq!((&row["place"], &row["n"]), (&place.into(), &row["seq"]), "{row}");
    serde_json::from_value(row).unwrap()
}
