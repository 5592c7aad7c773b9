//! What was sent, what has come out, and whether the commits in between were right.

use millstream_testkit::events::{Checker, Event, Fate};
use millstream_testkit::services::{Client, Stored};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub const PARTITIONS: i32 = 3;

/// Where the rows of a pipeline come out.
#[derive(Clone)]
pub enum Out {
    /// It keeps their order, and may have some of them twice.
    Topic { name: String, decode: fn(&[u8]) -> Event },
    /// `appends` says whether it shows what is written twice, and in which order.
    Store { store: Arc<dyn Store>, appends: bool },
}

/// Who sees what is stored, without the pipeline.
pub trait Store: Send + Sync + 'static {
    /// Everything in the table of events, in its order where it has one; the reason when it cannot
    /// be read now.
    fn events(&self) -> Result<Vec<Event>, String>;
}

type Id = (String, u64);

/// Everything that is known of one run.
pub struct Ledger {
    /// The source's topic, which its group is called like.
    topic: String,
    out: Out,
    decode: fn(&[u8]) -> Event,
    checker: Checker,
    sent: Vec<Event>,
    /// By topic and partition, from where on nothing was looked at yet.
    upto: BTreeMap<(String, i32), i64>,
    /// How often a topic was made again: what was read before is of no use after.
    era: u64,
    /// Something is broken, so that what is committed may be hidden for as long as it is.
    is_broken: bool,
    whole_since: Instant,
    /// The source's events by partition and offset.
    source: BTreeMap<(i32, i64), Event>,
    /// What came out into tables that are gone, and what is in the table or the topic that is there.
    gone: Vec<Event>,
    came_out: Vec<Event>,
    dead: Vec<Event>,
    arrived: BTreeSet<Id>,
    /// By partition, the offset below which all was found to be done.
    done_below: BTreeMap<i32, i64>,
    committed: BTreeMap<i32, i64>,
    looks: u64,
    unsound: Vec<String>,
}

impl Ledger {
    /// `decode` reads what is in the source's topic, and in that of its dead letters.
    pub fn new(topic: &str, decode: fn(&[u8]) -> Event, out: Out) -> Self {
        Self {
            topic: topic.to_owned(),
            out,
            decode,
            checker: Checker::default(),
            sent: Vec::new(),
            upto: BTreeMap::new(),
            era: 0,
            is_broken: false,
            whole_since: Instant::now(),
            source: BTreeMap::new(),
            gone: Vec::new(),
            came_out: Vec::new(),
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

    pub fn sent_count(&self) -> usize {
        self.sent.len()
    }

    /// The offsets by partition, as they were read the last time.
    pub fn committed(&self) -> &BTreeMap<i32, i64> {
        &self.committed
    }

    /// How often the commits could be held against what has come out.
    pub fn looks(&self) -> u64 {
        self.looks
    }

    pub fn breaks(&mut self) {
        self.is_broken = true;
    }

    pub fn mended(&mut self) {
        (self.is_broken, self.whole_since) = (false, Instant::now());
    }

    /// Those of the first so many that are nowhere yet.
    pub fn missing(&self, upto: usize) -> Vec<Event> {
        let due = self.sent.iter().take(upto).filter(|event| event.fate != Fate::Drop);
        due.filter(|event| !self.arrived.contains(&id(event))).cloned().collect()
    }

    /// A topic was made again: what it held before was looked at, and its offsets begin anew.
    pub fn made_again(&mut self, topic: &str) {
        self.era += 1;
        self.upto.retain(|(of, _), _| of != topic);
        if topic == self.topic {
            self.source.clear();
            self.done_below.clear();
            self.checker.offsets_begin_anew();
        }
    }

    /// The table is about to be dropped: all that it has was looked at.
    pub fn dropped(&mut self) {
        self.gone.append(&mut self.came_out);
    }

    /// Reads the commits, then what has come out: what is committed must be among it. Commits are
    /// read also while what has come out cannot be. How long that may be hidden counts from when
    /// nothing is broken.
    pub fn look(
        ledger: &Mutex<Ledger>,
        client: &Client,
        hidden_for: Duration,
    ) -> Result<(), String> {
        let (topic, out, era) = {
            let ledger = ledger.lock().unwrap();
            (ledger.topic.clone(), ledger.out.clone(), ledger.era)
        };
        let committed = client.committed(&topic, &topic).map_err(|error| error.to_string())?;
        ledger.lock().unwrap().committed = committed.clone();
        let begun = Instant::now();
        loop {
            Self::read_on(ledger, client, &topic, era)?;
            match &out {
                Out::Topic { name, .. } => Self::read_on(ledger, client, name, era)?,
                Out::Store { store, .. } => {
                    let stored = store.events()?;
                    let mut ledger = ledger.lock().unwrap();
                    ledger.arrived.extend(stored.iter().map(id));
                    ledger.came_out = stored;
                }
            }
            Self::read_on(ledger, client, &format!("{topic}-dead"), era)?;
            let mut ledger = ledger.lock().unwrap();
            ledger.is_still(era)?;
            let undone = ledger.undone(&committed);
            let is_hidden =
                committed.iter().any(|(partition, upto)| *upto > ledger.end(*partition));
            let whole_for = ledger.whole_since.max(begun).elapsed();
            let may_hide = !hidden_for.is_zero() && (ledger.is_broken || whole_for < hidden_for);
            if may_hide && (is_hidden || !undone.is_empty()) {
                drop(ledger);
                thread::sleep(Duration::from_millis(50));
                continue;
            }
            if let Some((partition, offset)) = undone.first() {
                let told = format!(
                    "partition {partition}: {committed:?} is committed, but {} rows below are \
                     undone, the first at {offset}",
                    undone.len()
                );
                ledger.unsound.push(told);
            }
            ledger.is_done_below(&committed);
            return Ok(());
        }
    }

    /// While nothing can come out: none of those that were sent after the first so many may be
    /// committed, but for those that come out nowhere.
    pub fn stands(ledger: &Mutex<Ledger>, client: &Client, upto: usize) -> Result<(), String> {
        let (topic, era) = {
            let ledger = ledger.lock().unwrap();
            (ledger.topic.clone(), ledger.era)
        };
        let committed = client.committed(&topic, &topic).map_err(|error| error.to_string())?;
        Self::read_on(ledger, client, &topic, era)?;
        let mut ledger = ledger.lock().unwrap();
        let later: BTreeSet<Id> = ledger.sent[upto..].iter().map(id).collect();
        let is_wrong = |((partition, offset), event): (&(i32, i64), &Event)| {
            let below = committed.get(partition).is_some_and(|upto| offset < upto);
            below && event.fate == Fate::Out && later.contains(&id(event))
        };
        let wrong = ledger.source.iter().filter(|row| is_wrong(*row)).count();
        if wrong > 0 {
            let told =
                format!("{wrong} rows are committed by {committed:?} that could not come out");
            ledger.unsound.push(told);
        }
        Ok(())
    }

    fn read_on(
        ledger: &Mutex<Ledger>,
        client: &Client,
        topic: &str,
        era: u64,
    ) -> Result<(), String> {
        for partition in 0..PARTITIONS {
            let at = (topic.to_owned(), partition);
            let from = ledger.lock().unwrap().upto.get(&at).copied().unwrap_or(0);
            let found: io::Result<Vec<Stored>> = client.read(topic, partition, from);
            let found = found.map_err(|error| error.to_string())?;
            let mut ledger = ledger.lock().unwrap();
            ledger.is_still(era)?;
            if ledger.upto.get(&at).copied().unwrap_or(0) != from {
                return Err("somebody else has read the same".into());
            }
            if let Some(last) = found.last() {
                ledger.upto.insert(at, last.offset + 1);
            }
            found.into_iter().for_each(|record| ledger.take(topic, partition, &record));
        }
        Ok(())
    }

    /// What was seen of a topic that was made again since says nothing of the one that is there.
    fn is_still(&self, era: u64) -> Result<(), String> {
        if self.era == era { Ok(()) } else { Err("a topic was made again".into()) }
    }

    fn take(&mut self, topic: &str, partition: i32, record: &Stored) {
        let value = record.value.as_deref().unwrap_or_default();
        if topic == self.topic {
            self.source.insert((partition, record.offset), (self.decode)(value));
            return;
        }
        if let Out::Topic { name, decode } = &self.out
            && topic == name
        {
            let event = decode(value);
            self.arrived.insert(id(&event));
            self.came_out.push(event);
            return;
        }
        let reason = record.headers.iter().find(|(name, _)| name == "millstream.reason");
        assert!(reason.is_some(), "a letter has its reason: {:?}", record.headers);
        let event = (self.decode)(value);
        self.arrived.insert(id(&event));
        self.dead.push(event);
    }

    /// Where a partition of the source ends, as far as it was seen.
    fn end(&self, partition: i32) -> i64 {
        self.upto.get(&(self.topic.clone(), partition)).copied().unwrap_or(0)
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
        let sent = self.sent.len() as u64;
        let (is_topic, ordered, repeated_max) = match &self.out {
            Out::Topic { .. } => (true, true, sent),
            Out::Store { appends, .. } => (false, *appends, 0),
        };
        let out = [&*self.gone, &*self.came_out].concat();
        let twice = self.checker.arrived("out", Fate::Out, &out, ordered, repeated_max)
            + self.checker.arrived("dead", Fate::Dead, &self.dead, is_topic, sent);
        println!(
            "{name}: {sent} events, {} out, {} dead, {twice} repeated, looked {} times",
            out.len(),
            self.dead.len(),
            self.looks
        );
        assert!(self.looks > 0, "{name}: nobody saw the commits");
        self.assert_sound(name);
    }
}

fn id(event: &Event) -> Id {
    (event.key.clone(), event.seq)
}
