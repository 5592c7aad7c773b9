//! Numbered events, and the checker that says whether any was lost.
//!
//! An event carries a key, its sequence number within the key, what must become of it, and a CRC
//! over all three. The checker knows what was sent and is told what arrived where; it keeps its own
//! count and believes none of the product's.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What must become of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It reaches every sink.
    Out,
    /// The SQL drops it.
    Drop,
    /// It becomes a dead letter.
    Dead,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub key: String,
    pub seq: u64,
    pub fate: Fate,
    /// CRC-32C of `key/seq/fate`, in hexadecimal.
    pub crc: String,
    /// What an event with the fate `dead` has wrong.
    pub number: String,
}

/// Makes events whose sequence numbers go on within each key. The same seed makes the same events.
pub struct Generator {
    rng: StdRng,
    keys: u64,
    next: BTreeMap<u64, u64>,
}

impl Generator {
    pub fn new(seed: u64, keys: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), keys, next: BTreeMap::new() }
    }

    pub fn event(&mut self) -> Event {
        let key = self.rng.random_range(0..self.keys);
        let seq = self.next.entry(key).or_insert(0);
        *seq += 1;
        let fate = match self.rng.random_range(0..100) {
            0..2 => Fate::Dead,
            2..12 => Fate::Drop,
            _ => Fate::Out,
        };
        Event::new(format!("k{key}"), *seq, fate)
    }
}

impl Event {
    pub fn new(key: String, seq: u64, fate: Fate) -> Self {
        let crc = crc(&key, seq, fate);
        let number = if fate == Fate::Dead { "not a number".into() } else { seq.to_string() };
        Self { key, seq, fate, crc, number }
    }

    /// The event as a line of JSON.
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("an event is plain data")
    }

    fn is_whole(&self) -> bool {
        self.crc == crc(&self.key, self.seq, self.fate)
    }
}

fn crc(key: &str, seq: u64, fate: Fate) -> String {
    format!("{:08x}", crc32c::crc32c(format!("{key}/{seq}/{fate:?}").as_bytes()))
}

/// What is wrong at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An event that was sent is not where it should be.
    Lost { place: String, key: String, seq: u64 },
    /// An event that was not sent, or not to there, arrived.
    Stray { place: String, key: String, seq: u64 },
    /// An event arrived changed.
    Damaged { place: String, key: String, seq: u64 },
    /// A key's event arrived before an older one had.
    OutOfOrder { place: String, key: String, seq: u64, after: u64 },
    /// More repetitions than were in flight.
    TooManyDuplicates { place: String, found: u64, allowed: u64 },
    /// A committed offset went back, or beyond the end.
    Offset { partition: u32, was: i64, is: i64 },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Lost { place, key, seq } => write!(f, "{place}: event {key}/{seq} is lost"),
            Fault::Stray { place, key, seq } => {
                write!(f, "{place}: event {key}/{seq} does not belong there")
            }
            Fault::Damaged { place, key, seq } => {
                write!(f, "{place}: event {key}/{seq} is damaged")
            }
            Fault::OutOfOrder { place, key, seq, after } => {
                write!(f, "{place}: event {key}/{seq} arrived first after {key}/{after}")
            }
            Fault::TooManyDuplicates { place, found, allowed } => {
                write!(f, "{place}: {found} duplicates, at most {allowed} were in flight")
            }
            Fault::Offset { partition, was, is } => {
                write!(f, "partition {partition}: the commit went from {was} to {is}")
            }
        }
    }
}

/// Counts what was sent and what arrived.
#[derive(Default)]
pub struct Checker {
    sent: BTreeMap<(String, u64), Fate>,
    /// Events whose producer never heard whether they were taken: they may have been.
    unsure: BTreeSet<(String, u64)>,
    faults: Vec<Fault>,
    offsets: BTreeMap<u32, i64>,
}

impl Checker {
    pub fn sent(&mut self, event: &Event) {
        self.sent.insert((event.key.clone(), event.seq), event.fate);
    }

    pub fn sent_unsure(&mut self, event: &Event) {
        self.sent(event);
        self.unsure.insert((event.key.clone(), event.seq));
    }

    pub fn sent_count(&self) -> usize {
        self.sent.len()
    }

    /// A committed offset as it was read after a stop.
    pub fn committed(&mut self, partition: u32, offset: i64, end: i64) {
        let was = *self.offsets.get(&partition).unwrap_or(&0);
        if offset < was || offset > end {
            self.faults.push(Fault::Offset { partition, was, is: offset });
        }
        self.offsets.insert(partition, offset);
    }

    /// The source was made again: nothing of it is committed yet.
    pub fn offsets_begin_anew(&mut self) {
        self.offsets.clear();
    }

    /// Everything that a place holds, in its order. `fate` is what belongs there; `ordered` whether
    /// the place keeps the order of arrival; `duplicates` how many repetitions may be there. Gives
    /// the number of repetitions.
    pub fn arrived(
        &mut self,
        place: &str,
        fate: Fate,
        events: &[Event],
        ordered: bool,
        duplicates: u64,
    ) -> u64 {
        let place = || place.to_owned();
        let mut seen: BTreeSet<(String, u64)> = BTreeSet::new();
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        let mut repeated = 0;
        for event in events {
            let (key, seq) = (event.key.clone(), event.seq);
            if !event.is_whole() {
                self.faults.push(Fault::Damaged { place: place(), key, seq });
                continue;
            }
            if self.sent.get(&(key.clone(), seq)) != Some(&fate) {
                self.faults.push(Fault::Stray { place: place(), key, seq });
                continue;
            }
            if !seen.insert((key.clone(), seq)) {
                repeated += 1;
                continue;
            }
            let newest = newest.entry(key.clone()).or_insert(0);
            if ordered && seq < *newest {
                self.faults.push(Fault::OutOfOrder { place: place(), key, seq, after: *newest });
            }
            *newest = seq.max(*newest);
        }
        for (id, wanted) in &self.sent {
            if *wanted == fate && !seen.contains(id) && !self.unsure.contains(id) {
                let (key, seq) = id.clone();
                self.faults.push(Fault::Lost { place: place(), key, seq });
            }
        }
        if repeated > duplicates {
            self.faults.push(Fault::TooManyDuplicates {
                place: place(),
                found: repeated,
                allowed: duplicates,
            });
        }
        repeated
    }

    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(count: usize) -> Vec<Event> {
        let mut generator = Generator::new(7, 3);
        (0..count).map(|_| generator.event()).collect()
    }

    fn checked(change: impl FnOnce(&mut Vec<Event>)) -> Vec<Fault> {
        let sent = events(300);
        let mut checker = Checker::default();
        sent.iter().for_each(|event| checker.sent(event));
        let mut arrived: Vec<_> = sent.into_iter().filter(|e| e.fate == Fate::Out).collect();
        change(&mut arrived);
        checker.arrived("sink", Fate::Out, &arrived, true, 1);
        checker.faults().to_vec()
    }

    #[test]
    fn every_kind_of_fault_is_seen() {
        assert_eq!(checked(|_| {}), []);
        assert_eq!(checked(|arrived| arrived.insert(5, arrived[5].clone())), []);
        type Change = fn(&mut Vec<Event>);
        let kinds: [(&str, Change); 5] = [
            ("lost", |arrived| drop(arrived.remove(9))),
            ("damaged", |arrived| arrived[3].seq += 1),
            ("belong", |arrived| arrived.push(Event::new("k9".into(), 1, Fate::Out))),
            ("arrived first after", |arrived| arrived.reverse()),
            ("duplicates", |arrived| arrived.extend(arrived.clone())),
        ];
        for (word, change) in kinds {
            let faults = checked(change);
            assert!(faults.iter().any(|f| f.to_string().contains(word)), "{word}: {faults:?}");
        }
    }

    #[test]
    fn offsets_never_go_back_or_beyond_the_end() {
        let mut checker = Checker::default();
        checker.committed(0, 10, 20);
        checker.committed(0, 10, 20);
        assert!(checker.faults().is_empty());
        checker.committed(0, 9, 20);
        checker.committed(1, 21, 20);
        assert_eq!(checker.faults().len(), 2);
    }
}
