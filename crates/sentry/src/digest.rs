//! What is told, and when: counts that grow become events, of each kind at most one a minute.

use crate::event::{Event, Level};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a kind is quiet after an event.
const QUIET: Duration = Duration::from_secs(60);
/// How many kinds are told apart. What is beyond is told as one.
const KINDS_MAX: usize = 256;
/// How many places in the source code an event names.
const PLACES_MAX: usize = 4;

/// What an event is about. None of it comes from a row or from an error's text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    pub pipeline: Option<String>,
    /// The step, sink or look-up, or a part of the program.
    pub step: String,
    /// A short stable word: `unavailable`, `panic`, …
    pub word: String,
}

/// How often something has happened, or how many of something there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    pub kind: Kind,
    pub level: Level,
    /// What it means.
    pub says: &'static str,
    pub count: Count,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Since the process began: it is told when it has grown.
    Ever(u64),
    /// Now: it is told when it has grown, and forgotten when it is 0 again.
    Now(u64),
    /// Once more.
    Once,
}

/// What is known of each kind.
#[derive(Debug, Default)]
pub(crate) struct Digest {
    kinds: BTreeMap<Kind, Known>,
    others: Known,
}

#[derive(Debug, Default)]
struct Known {
    seen: u64,
    untold: u64,
    told_at: Option<Instant>,
    level: Option<Level>,
    says: &'static str,
    at: Vec<String>,
}

impl Kind {
    pub fn of(pipeline: &str, step: &str, word: &str) -> Self {
        Self { pipeline: Some(pipeline.into()), step: step.into(), word: word.into() }
    }

    /// One that belongs to no pipeline.
    pub fn of_process(part: &str, word: &str) -> Self {
        Self { pipeline: None, step: part.into(), word: word.into() }
    }
}

impl Digest {
    pub fn add(&mut self, tallies: Vec<Tally>) {
        let mut beyond = 0;
        for Tally { kind, level, says, count } in tallies {
            if !self.kinds.contains_key(&kind) {
                if matches!(count, Count::Ever(0) | Count::Now(0)) {
                    continue;
                }
                if self.kinds.len() >= KINDS_MAX {
                    match count {
                        Count::Ever(ever) => beyond += ever,
                        Count::Now(_) => {}
                        Count::Once => self.others.untold += 1,
                    }
                    continue;
                }
            }
            let known = self.kinds.entry(kind).or_default();
            (known.level, known.says) = (known.level.max(Some(level)), says);
            known.count(count);
        }
        if beyond > 0 {
            self.others.count(Count::Ever(beyond));
        }
    }

    /// Whether this says more than what was said before.
    pub fn is_news(&self, tally: &Tally) -> bool {
        let seen = self.kinds.get(&tally.kind).map_or(0, |known| known.seen);
        match tally.count {
            Count::Ever(count) | Count::Now(count) => count > seen,
            Count::Once => true,
        }
    }

    /// Where in the source code a kind was noticed.
    pub fn place(&mut self, kind: &Kind, at: &str) {
        if let Some(known) = self.kinds.get_mut(kind)
            && known.at.len() < PLACES_MAX
            && !known.at.iter().any(|there| there == at)
        {
            known.at.push(at.to_owned());
        }
    }

    /// What is to be told now.
    pub fn due(&mut self, now: Instant) -> Vec<Event> {
        self.others.says = "more kinds of errors than are told apart";
        let others = Kind::of_process("process", "others");
        let all = self.kinds.iter_mut().chain([(&others, &mut self.others)]);
        let due = all.filter_map(|(kind, known)| {
            let is_quiet = known.told_at.is_some_and(|at| now < at + QUIET);
            if known.untold == 0 || is_quiet {
                return None;
            }
            known.told_at = Some(now);
            Some(Event {
                kind: kind.clone(),
                level: known.level.take().unwrap_or(Level::Error),
                says: known.says,
                times: std::mem::take(&mut known.untold),
                at: std::mem::take(&mut known.at),
            })
        });
        due.collect()
    }
}

impl Known {
    fn count(&mut self, count: Count) {
        match count {
            Count::Ever(ever) => {
                self.untold += ever.saturating_sub(self.seen);
                self.seen = self.seen.max(ever);
            }
            Count::Now(now) => {
                if now > self.seen {
                    self.untold = now;
                }
                self.untold = self.untold.min(now);
                self.seen = now;
            }
            Count::Once => self.untold += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(word: &str, count: Count) -> Tally {
        let kind = Kind::of("p", "s", word);
        Tally { kind, level: Level::Error, says: "it failed", count }
    }

    /// The words and numbers of what is due after these tallies.
    fn told(digest: &mut Digest, now: Instant, tallies: Vec<Tally>) -> Vec<(String, u64)> {
        digest.add(tallies);
        digest.due(now).into_iter().map(|event| (event.kind.word, event.times)).collect()
    }

    #[test]
    fn a_kind_is_told_at_once_and_then_once_a_minute_with_what_came_meanwhile() {
        let mut digest = Digest::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let ever = |count| vec![tally("a", Count::Ever(count))];
        assert_eq!(told(&mut digest, at(0), ever(0)), []);
        assert_eq!(told(&mut digest, at(1), ever(5)), [("a".into(), 5)]);
        assert_eq!(told(&mut digest, at(2), ever(5)), []);
        assert_eq!(told(&mut digest, at(3), ever(7)), []);
        assert_eq!(told(&mut digest, at(60), ever(9)), []);
        assert_eq!(told(&mut digest, at(61), ever(9)), [("a".into(), 4)]);
        assert_eq!(told(&mut digest, at(500), ever(9)), []);
        // Another kind waits for none.
        assert_eq!(told(&mut digest, at(501), ever(10)), [("a".into(), 1)]);
        let other = vec![tally("b", Count::Once)];
        assert_eq!(told(&mut digest, at(502), other), [("b".into(), 1)]);
    }

    #[test]
    fn a_state_is_told_when_it_grows_and_forgotten_when_it_ends() {
        let mut digest = Digest::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let now = |count| vec![tally("holding", Count::Now(count))];
        assert_eq!(told(&mut digest, at(0), now(1)), [("holding".into(), 1)]);
        assert_eq!(told(&mut digest, at(100), now(1)), []);
        assert_eq!(told(&mut digest, at(200), now(3)), [("holding".into(), 3)]);
        assert_eq!(told(&mut digest, at(201), now(0)), []);
        assert_eq!(told(&mut digest, at(202), now(2)), []);
        assert_eq!(told(&mut digest, at(203), now(0)), []);
        assert_eq!(told(&mut digest, at(900), now(0)), [], "it is over");
        assert_eq!(told(&mut digest, at(901), now(1)), [("holding".into(), 1)]);
    }

    #[test]
    fn kinds_beyond_the_bound_are_told_as_one() {
        let mut digest = Digest::default();
        let now = Instant::now();
        let many = |count| (0..KINDS_MAX + 44).map(move |n| tally(&format!("k{n:03}"), count));
        let first = told(&mut digest, now, many(Count::Ever(2)).collect());
        assert_eq!(first.len(), KINDS_MAX + 1);
        assert_eq!(first[KINDS_MAX], ("others".into(), 88));
        assert_eq!(digest.kinds.len(), KINDS_MAX);
        let later = now + QUIET;
        assert_eq!(told(&mut digest, later, many(Count::Ever(2)).collect()), []);
        let grown = told(&mut digest, later, many(Count::Ever(3)).collect());
        assert_eq!(grown[KINDS_MAX], ("others".into(), 44));
    }

    #[test]
    fn the_worst_level_since_the_last_event_is_told() {
        let mut digest = Digest::default();
        let warning = Tally { level: Level::Warning, ..tally("a", Count::Once) };
        digest.add(vec![warning.clone(), tally("a", Count::Once), warning]);
        assert_eq!(digest.due(Instant::now())[0].level, Level::Error);
    }
}
