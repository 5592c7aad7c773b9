//! Sessions of fetches (KIP-227): a consumer of many partitions names them once, and then says only
//! what has changed, as its answers do.
//!
//! ```text
//! client:  epoch 0, all partitions ───► a session, all partitions told
//!          epoch 1, what is new    ───► what has changed since
//!          epoch 2, …              ───► …
//!          epoch -1, session       ───► it is forgotten
//! ```
//!
//! Bounded in sessions and in partitions. One that was not used for long makes room; where there
//! is none to make, the session id of the answer is 0, and the client names all its partitions
//! each time, as clients without sessions do. No I/O and no clock: the time is an argument.

use super::{Given, Name, Wanted};
use kafka_protocol::ResponseError;
use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use tokio::time::{Duration, Instant};

/// Asks for a new session, or none, and ends the one that is named.
pub const FIRST: i32 = 0;
pub const LAST: i32 = -1;

const NAME_BYTES_MAX: usize = 249;

pub struct Sessions {
    limits: Limits,
    all: Mutex<All>,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub sessions: usize,
    /// Of all sessions together, and of one.
    pub partitions: usize,
    pub partitions_each: usize,
    /// A session that nobody used for so long makes room for others.
    pub idle: Duration,
}

#[derive(Default)]
struct All {
    by_id: HashMap<i32, Session>,
    by_use: BTreeSet<(Instant, i32)>,
    partitions: usize,
    begun: u64,
    evicted: u64,
}

/// How many sessions there are, how many were begun, and how many made room for others.
#[derive(Debug, PartialEq, Eq)]
pub struct Count {
    pub now: u64,
    pub begun: u64,
    pub evicted: u64,
}

struct Session {
    /// What the next request must say.
    epoch: i32,
    /// Whether topics are named by their ids.
    by_id: bool,
    used: Instant,
    /// In the order in which they are read: those that gave records go to the end.
    partitions: Vec<Slot>,
}

#[derive(Clone)]
struct Slot {
    wanted: Wanted,
    /// What the client was told last; the end is -1 where it must be told again.
    high_watermark: i64,
    start: i64,
}

/// A request within a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    pub session: i32,
    /// The epoch after this request's.
    next: i32,
}

/// What an incremental request says.
pub struct Change {
    pub session: i32,
    pub epoch: i32,
    pub by_id: bool,
    pub named: Vec<Wanted>,
    pub forgotten: Vec<(Arc<Name>, i32)>,
}

impl Sessions {
    pub fn new(limits: Limits) -> Sessions {
        Sessions { limits, all: Mutex::default() }
    }

    pub fn count(&self) -> Count {
        let all = self.all.lock();
        Count { now: all.by_id.len() as u64, begun: all.begun, evicted: all.evicted }
    }

    pub fn end(&self, session: i32) {
        self.all.lock().remove(session);
    }

    /// Keeps what a client was told first. 0 where there is no room.
    pub fn begin(&self, now: Instant, by_id: bool, told: &[(&Wanted, Given)]) -> i32 {
        let mut all = self.all.lock();
        let fits = (1..=self.limits.partitions_each).contains(&told.len())
            && told.iter().all(|(wanted, _)| wanted.can_be())
            && all.make_room(now, told.len(), &self.limits);
        let id = random();
        if !fits || id == 0 || all.by_id.contains_key(&id) {
            return 0;
        }
        let slots = told.iter().map(|(wanted, given)| {
            let mut slot = Slot { wanted: (*wanted).clone(), high_watermark: -1, start: -1 };
            slot.tell(given);
            slot
        });
        let partitions: Vec<Slot> = slots.collect();
        all.partitions += partitions.len();
        all.begun += 1;
        all.by_use.insert((now, id));
        all.by_id.insert(id, Session { epoch: next(FIRST), by_id, used: now, partitions });
        id
    }

    /// Applies a request to its session, and gives all that it asks now. `None` when nothing is
    /// left of the session.
    pub fn take(
        &self,
        now: Instant,
        change: Change,
    ) -> Result<Option<(Turn, Vec<Wanted>)>, ResponseError> {
        let mut all = self.all.lock();
        let all = &mut *all;
        let Some(session) = all.by_id.get_mut(&change.session) else {
            return Err(ResponseError::FetchSessionIdNotFound);
        };
        if session.epoch != change.epoch {
            return Err(ResponseError::InvalidFetchSessionEpoch);
        }
        if session.by_id != change.by_id {
            return Err(ResponseError::FetchSessionTopicIdError);
        }
        let before = session.partitions.len();
        let room = self.limits.partitions.saturating_sub(all.partitions);
        let can_be = change.named.iter().all(Wanted::can_be);
        session.apply(change.named, change.forgotten);
        let after = session.partitions.len();
        all.partitions = all.partitions + after - before;
        if after == 0 {
            all.remove(change.session);
            return Ok(None);
        }
        if after > self.limits.partitions_each || after.saturating_sub(before) > room || !can_be {
            all.remove(change.session);
            // It asks again for all of them, and gets no session.
            return Err(ResponseError::FetchSessionIdNotFound);
        }
        all.by_use.remove(&(session.used, change.session));
        all.by_use.insert((now, change.session));
        session.used = now;
        session.epoch = next(session.epoch);
        let turn = Turn { session: change.session, next: session.epoch };
        Ok(Some((turn, session.partitions.iter().map(|slot| slot.wanted.clone()).collect())))
    }

    /// Leaves out of an answer what the client knows. It is in the order of what [`Self::take`]
    /// gave.
    pub fn put<'a>(
        &self,
        turn: Turn,
        told: Vec<(&'a Wanted, Given)>,
    ) -> Result<Vec<(&'a Wanted, Given)>, ResponseError> {
        let mut all = self.all.lock();
        // Another request of it came meanwhile: the client waits for this answer no more.
        let session = all.by_id.get_mut(&turn.session).filter(|s| s.epoch == turn.next);
        let session = session.ok_or(ResponseError::InvalidFetchSessionEpoch)?;
        let mut kept = Vec::new();
        let mut gave = vec![false; told.len()];
        for (at, (wanted, given)) in told.into_iter().enumerate() {
            let Some(slot) = session.partitions.get_mut(at) else { break };
            gave[at] = !given.records.is_empty();
            // Looked for again only when it is gone.
            slot.wanted.log.clone_from(&wanted.log);
            if slot.tell(&given) {
                kept.push((wanted, given));
            }
        }
        if gave.contains(&true) {
            let mut gave = gave.into_iter();
            let (last, first): (Vec<Slot>, Vec<Slot>) = std::mem::take(&mut session.partitions)
                .into_iter()
                .partition(|_| gave.next().unwrap_or(false));
            session.partitions = first;
            session.partitions.extend(last);
        }
        Ok(kept)
    }
}

impl All {
    fn remove(&mut self, id: i32) {
        if let Some(session) = self.by_id.remove(&id) {
            self.by_use.remove(&(session.used, id));
            self.partitions -= session.partitions.len();
        }
    }

    fn make_room(&mut self, now: Instant, partitions: usize, limits: &Limits) -> bool {
        loop {
            let fits = self.by_id.len() < limits.sessions
                && self.partitions + partitions <= limits.partitions;
            if fits {
                return true;
            }
            match self.by_use.first().copied() {
                Some((used, id)) if used + limits.idle <= now => {
                    self.remove(id);
                    self.evicted += 1;
                }
                _ => return false,
            }
        }
    }
}

impl Session {
    fn apply(&mut self, named: Vec<Wanted>, forgotten: Vec<(Arc<Name>, i32)>) {
        if named.is_empty() && forgotten.is_empty() {
            return;
        }
        if !forgotten.is_empty() {
            let forgotten: HashSet<(&Name, i32)> =
                forgotten.iter().map(|(topic, index)| (&**topic, *index)).collect();
            self.partitions
                .retain(|slot| !forgotten.contains(&(&*slot.wanted.topic, slot.wanted.index)));
        }
        let known: HashMap<(Arc<Name>, i32), usize> = self
            .partitions
            .iter()
            .enumerate()
            .map(|(at, slot)| ((slot.wanted.topic.clone(), slot.wanted.index), at))
            .collect();
        let mut new = HashMap::new();
        for wanted in named {
            let key = (wanted.topic.clone(), wanted.index);
            let at = known.get(&key).or_else(|| new.get(&key)).copied();
            match at {
                // It keeps the name that its neighbours share.
                Some(at) => {
                    let slot = &mut self.partitions[at];
                    let topic = slot.wanted.topic.clone();
                    slot.wanted = Wanted { topic, ..wanted };
                }
                None => {
                    new.insert(key, self.partitions.len());
                    self.partitions.push(Slot { wanted, high_watermark: -1, start: -1 });
                }
            }
        }
    }
}

impl Wanted {
    /// No topic has a longer name; nobody is to leave one here.
    fn can_be(&self) -> bool {
        self.topic.name.len() <= NAME_BYTES_MAX
    }
}

impl Slot {
    /// Whether there is something that the client does not know.
    fn tell(&mut self, given: &Given) -> bool {
        let news = given.error != 0
            || !given.records.is_empty()
            || given.high_watermark != self.high_watermark
            || given.start != self.start;
        // After an error also what is as it was before is news.
        self.high_watermark = if given.error == 0 { given.high_watermark } else { -1 };
        self.start = given.start;
        news
    }
}

fn next(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

/// Nobody is to guess another's.
fn random() -> i32 {
    let mut bytes = [0; 4];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => i32::from_be_bytes(bytes) & i32::MAX,
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::out::Piece;
    use bytes::Bytes;

    const LIMITS: Limits =
        Limits { sessions: 2, partitions: 5, partitions_each: 4, idle: Duration::from_secs(120) };

    fn wanted(topic: &str, index: i32) -> Wanted {
        Wanted {
            topic: Arc::new(Name { name: topic.into(), id: uuid::Uuid::nil() }),
            index,
            offset: 0,
            max_bytes: 100,
            epoch: -1,
            log: Err(ResponseError::UnknownTopicOrPartition),
        }
    }

    fn given(end: i64, records: &'static [u8]) -> Given {
        let records = Bytes::from_static(records);
        Given {
            error: 0,
            high_watermark: end,
            start: 0,
            records: Piece::Bytes(records),
            cut: false,
        }
    }

    fn begin(sessions: &Sessions, now: Instant, partitions: std::ops::Range<i32>) -> i32 {
        let wanted: Vec<Wanted> = partitions.map(|index| wanted("t", index)).collect();
        let told: Vec<_> = wanted.iter().map(|wanted| (wanted, given(5, b""))).collect();
        sessions.begin(now, false, &told)
    }

    fn change(session: i32, epoch: i32) -> Change {
        Change { session, epoch, by_id: false, named: Vec::new(), forgotten: Vec::new() }
    }

    fn indexes(wanted: &[Wanted]) -> Vec<i32> {
        wanted.iter().map(|wanted| wanted.index).collect()
    }

    /// The indexes that an answer tells of.
    fn told(sessions: &Sessions, turn: Turn, all: &[Wanted], given: Vec<Given>) -> Vec<i32> {
        let told = sessions.put(turn, all.iter().zip(given).collect()).unwrap();
        told.iter().map(|(wanted, _)| wanted.index).collect()
    }

    #[test]
    fn only_what_changed_is_told_and_who_gave_goes_to_the_end() {
        let (sessions, now) = (Sessions::new(LIMITS), Instant::now());
        let id = begin(&sessions, now, 0..3);
        let (turn, all) = sessions.take(now, change(id, 1)).unwrap().unwrap();
        assert_eq!(indexes(&all), [0, 1, 2]);
        let answer = vec![given(6, b"records"), given(5, b""), given(7, b"")];
        assert_eq!(told(&sessions, turn, &all, answer), [0, 2]);
        let (turn, all) = sessions.take(now, change(id, 2)).unwrap().unwrap();
        assert_eq!(indexes(&all), [1, 2, 0]);
        let failed = Given { error: 1, ..given(5, b"") };
        let answer = vec![failed, given(7, b""), given(6, b"")];
        assert_eq!(told(&sessions, turn, &all, answer), [1]);
        // When the error is over, what is as before is news.
        let (turn, all) = sessions.take(now, change(id, 3)).unwrap().unwrap();
        let answer = vec![given(5, b""), given(7, b""), Given { start: 2, ..given(6, b"") }];
        assert_eq!(told(&sessions, turn, &all, answer), [1, 0]);
    }

    #[test]
    fn partitions_are_added_changed_and_forgotten() {
        let (sessions, now) = (Sessions::new(LIMITS), Instant::now());
        let id = begin(&sessions, now, 0..2);
        let moved = Wanted { offset: 9, ..wanted("t", 1) };
        let named = vec![moved, wanted("t", 2), wanted("u", 0), wanted("u", 0)];
        let forgotten = vec![(wanted("t", 0).topic, 0)];
        let (_, all) =
            sessions.take(now, Change { named, forgotten, ..change(id, 1) }).unwrap().unwrap();
        let found: Vec<_> = all.iter().map(|w| (&*w.topic.name, w.index, w.offset)).collect();
        assert_eq!(found, [("t", 1, 9), ("t", 2, 0), ("u", 0, 0)]);
        let forgotten = all.iter().map(|wanted| (wanted.topic.clone(), wanted.index)).collect();
        assert!(sessions.take(now, Change { forgotten, ..change(id, 2) }).unwrap().is_none());
        assert_eq!((sessions.count().now, sessions.all.lock().partitions), (0, 0));
    }

    #[test]
    fn a_request_out_of_turn_is_told_so() {
        let (sessions, now) = (Sessions::new(LIMITS), Instant::now());
        let id = begin(&sessions, now, 0..2);
        let refused = |change| sessions.take(now, change).err().unwrap();
        assert_eq!(refused(change(id ^ 1, 1)), ResponseError::FetchSessionIdNotFound);
        assert_eq!(refused(change(id, 2)), ResponseError::InvalidFetchSessionEpoch);
        let by_id = Change { by_id: true, ..change(id, 1) };
        assert_eq!(refused(by_id), ResponseError::FetchSessionTopicIdError);
        let (first, all) = sessions.take(now, change(id, 1)).unwrap().unwrap();
        let (second, _) = sessions.take(now, change(id, 2)).unwrap().unwrap();
        let answer = || all.iter().zip([given(6, b""), given(6, b"")]).collect();
        let late = sessions.put(first, answer()).err().unwrap();
        assert_eq!(late, ResponseError::InvalidFetchSessionEpoch);
        assert_eq!(sessions.put(second, answer()).unwrap().len(), 2);
        sessions.end(id);
        assert_eq!(refused(change(id, 3)), ResponseError::FetchSessionIdNotFound);
    }

    #[test]
    fn the_cache_is_bounded_and_the_old_make_room() {
        let (sessions, now) = (Sessions::new(LIMITS), Instant::now());
        let first = begin(&sessions, now, 0..2);
        let second = begin(&sessions, now, 0..2);
        assert!(first != 0 && second != 0);
        assert_eq!(begin(&sessions, now, 0..1), 0, "there are two");
        let later = now + LIMITS.idle;
        sessions.take(later, change(second, 1)).unwrap();
        assert_eq!(begin(&sessions, later, 0..4), 0, "too many partitions beside the second");
        assert!(begin(&sessions, later, 0..3) != 0, "in place of the first");
        assert_eq!(sessions.count(), Count { now: 2, begun: 3, evicted: 1 });
        let named = vec![wanted("t", 7)];
        let refused = sessions.take(later, Change { named, ..change(second, 2) }).err().unwrap();
        assert_eq!(refused, ResponseError::FetchSessionIdNotFound);
        let all = sessions.all.lock();
        assert_eq!((all.by_id.len(), all.partitions, all.by_use.len()), (1, 3, 1));
        let left: Vec<i32> = all.by_id.keys().copied().collect();
        drop(all);
        left.into_iter().for_each(|id| sessions.end(id));
        assert_eq!(begin(&sessions, later, 0..5), 0, "too many for one");
        let long = wanted(&"t".repeat(250), 0);
        assert_eq!(sessions.begin(later, false, &[(&long, given(5, b""))]), 0);
    }

    #[test]
    fn epochs_begin_anew_after_the_largest() {
        assert_eq!((next(FIRST), next(i32::MAX)), (1, 1));
    }
}
