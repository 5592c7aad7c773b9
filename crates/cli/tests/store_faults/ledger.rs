//! What was sent, what the store has, and whether the commits in between were right.

use super::rig::Store;
use millstream_testkit::events::{Checker, Event, Fate};
use millstream_testkit::services::Client;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Mutex;

type Id = (String, u64);

/// Everything that is known of one run.
pub struct Ledger {
    /// The source's topic, which its group is called like.
    topic: String,
    partitions: i32,
    /// Whether the store shows what is written twice, and in which order.
    appends: bool,
    checker: Checker,
    sent: Vec<Event>,
    /// How many of those are in the source's topic.
    landed: usize,
    /// By topic and partition, from where on nothing was looked at yet.
    upto: BTreeMap<(String, i32), i64>,
    /// The source's events by partition and offset.
    source: BTreeMap<(i32, i64), Event>,
    /// What was stored in tables that are gone, and what is stored in the one that is there.
    gone: Vec<Event>,
    stored: Vec<Event>,
    dead: Vec<Event>,
    arrived: BTreeSet<Id>,
    /// By partition, the offset below which all was found to be done.
    done_below: BTreeMap<i32, i64>,
    committed: BTreeMap<i32, i64>,
    looks: u64,
    unsound: Vec<String>,
}

impl Ledger {
    pub fn new(topic: &str, partitions: i32, appends: bool) -> Self {
        Self {
            topic: topic.to_owned(),
            partitions,
            appends,
            checker: Checker::default(),
            sent: Vec::new(),
            landed: 0,
            upto: BTreeMap::new(),
            source: BTreeMap::new(),
            gone: Vec::new(),
            stored: Vec::new(),
            dead: Vec::new(),
            arrived: BTreeSet::new(),
            done_below: BTreeMap::new(),
            committed: BTreeMap::new(),
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

    pub fn committed(&self) -> &BTreeMap<i32, i64> {
        &self.committed
    }

    /// Those of the first so many that are nowhere yet.
    pub fn missing(&self, upto: usize) -> Vec<Event> {
        let due = self.sent.iter().take(upto).filter(|event| event.fate != Fate::Drop);
        due.filter(|event| !self.arrived.contains(&id(event))).cloned().collect()
    }

    /// The table is dropped, and what it has was looked at.
    pub fn dropped(&mut self) {
        let mut stored = std::mem::take(&mut self.stored);
        self.gone.append(&mut stored);
    }

    /// Reads the commits, then what is stored: what is committed must be among it. Commits are read
    /// also while the store cannot be.
    pub fn look(ledger: &Mutex<Ledger>, client: &Client, store: &dyn Store) -> Result<(), String> {
        let topic = ledger.lock().unwrap().topic.clone();
        let committed = client.committed(&topic, &topic).map_err(|error| error.to_string())?;
        ledger.lock().unwrap().committed = committed.clone();
        for topic in [&topic, &format!("{topic}-dead")] {
            Self::read_on(ledger, client, topic).map_err(|error| error.to_string())?;
        }
        let stored = store.events()?;
        let mut ledger = ledger.lock().unwrap();
        ledger.arrived.extend(stored.iter().map(id));
        ledger.stored = stored;
        ledger.hold_against(&committed);
        Ok(())
    }

    fn read_on(ledger: &Mutex<Ledger>, client: &Client, topic: &str) -> io::Result<()> {
        let partitions = ledger.lock().unwrap().partitions;
        for partition in 0..partitions {
            let at = (topic.to_owned(), partition);
            let from = ledger.lock().unwrap().upto.get(&at).copied().unwrap_or(0);
            let found = client.read(topic, partition, from)?;
            let mut ledger = ledger.lock().unwrap();
            if let Some(last) = found.last() {
                ledger.upto.insert(at, last.offset + 1);
            }
            let is_source = topic == ledger.topic;
            for record in found {
                let value = record.value.as_deref().unwrap_or_default();
                let event: Event = serde_json::from_slice(value).unwrap();
                match is_source {
                    true => drop(ledger.source.insert((partition, record.offset), event)),
                    false => {
                        ledger.arrived.insert(id(&event));
                        ledger.dead.push(event);
                    }
                }
            }
        }
        Ok(())
    }

    fn hold_against(&mut self, committed: &BTreeMap<i32, i64>) {
        self.looks += 1;
        for (partition, upto) in committed {
            let from = self.done_below.get(partition).copied().unwrap_or(0);
            let below = self.source.range((*partition, from)..(*partition, (*upto).max(from)));
            let undone: Vec<i64> = below
                .filter(|(_, event)| event.fate != Fate::Drop && !self.arrived.contains(&id(event)))
                .map(|((_, offset), _)| *offset)
                .collect();
            if let Some(first) = undone.first() {
                self.unsound.push(format!(
                    "partition {partition}: {upto} is committed, but {} rows below are undone, the \
                     first at {first}",
                    undone.len()
                ));
            }
            let end = self.upto.get(&(self.topic.clone(), *partition)).copied().unwrap_or(0);
            self.checker.committed(*partition as u32, *upto, end);
            self.done_below.insert(*partition, *upto);
        }
    }

    pub fn assert_sound(&self, name: &str) {
        assert!(self.unsound.is_empty(), "{name}: {:#?}", self.unsound);
        assert_eq!(self.checker.faults(), [], "{name}");
    }

    /// Holds everything that arrived against everything that was sent.
    pub fn finish(&mut self, name: &str) {
        let mut out = self.gone.clone();
        out.extend(self.stored.iter().cloned());
        let dead = self.dead.clone();
        self.checker.arrived("stored", Fate::Out, &out, self.appends, 0);
        let repeated_max = self.sent.len() as u64;
        let twice = self.checker.arrived("dead", Fate::Dead, &dead, false, repeated_max);
        println!(
            "{name}: {} events, {} stored, {} dead and {twice} of them repeated, looked {} times",
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
