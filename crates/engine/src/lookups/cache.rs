//! The cache of one lookup: answers by key, in shards, over the segments that hold their rows.
//!
//! A hit takes the lock of its shard only. Whatever puts answers in or takes them out holds the
//! lock of the segments first, then one shard at a time.

use super::CacheOptions;
use super::answers::Answers;
use super::keys::Key;
use super::segments::{Segment, Segments, copy};
use crate::metrics::LookupMetrics;
use ahash::RandomState;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_row::{RowConverter, Rows};
use hashbrown::HashTable;
use millstream_core::Found;
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const SHARDS: usize = 16;
/// Changes that are remembered one by one; with more, nothing that was asked for before is kept.
const CHANGES_MAX: usize = 65_536;

pub struct Cache {
    options: CacheOptions,
    pub converter: RowConverter,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
    memory: Mutex<Memory>,
    generation: AtomicU64,
    /// How many keys were forgotten because they changed.
    changes: AtomicU64,
    /// What was asked for before this change is not kept.
    floor: AtomicU64,
    metrics: LookupMetrics,
}

#[derive(Default)]
struct Shard {
    /// Hashed by the cache's hasher.
    answers: HashTable<Entry>,
    /// Keys that somebody is fetching; the channel closes when they are done or gave up.
    loading: HashMap<Key, watch::Receiver<()>, RandomState>,
    /// Keys that changed, and the number of the change: an answer that was asked for before it is
    /// not kept.
    changed: HashMap<Key, u64, RandomState>,
}

/// A moment of a cache: what changed since is not kept as it was then.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    generation: u64,
    changes: u64,
}

struct Memory {
    segments: Segments,
    /// Keys that have an answer.
    entries: usize,
    /// What the gauges were told.
    told: (i64, i64),
}

struct Entry {
    key: Key,
    answer: Answer,
}

struct Answer {
    /// The rows, in the batch of the segment that has the key.
    chunk: Arc<RecordBatch>,
    rows: Range<u32>,
    since: Instant,
    used: Cell<bool>,
    refreshing: Cell<bool>,
}

/// What the cache knows of the keys of a batch.
pub struct Known {
    pub answers: Answers,
    /// Keys that nobody has asked for; they are marked as being fetched.
    pub missing: Vec<u32>,
    /// Keys that another is fetching.
    pub waiting: Vec<(u32, watch::Receiver<()>)>,
    /// Keys whose answer is given for the last time, unless it comes again.
    pub stale: Vec<u32>,
}

/// The keys of a batch with their hashes in the order of their shards, and where those of each shard
/// end.
struct ByShard {
    keys: Vec<(u32, u64)>,
    ends: [usize; SHARDS],
}

/// Keys that somebody is fetching, until this is dropped.
pub struct Marks<'a> {
    cache: &'a Cache,
    keys: Vec<Key>,
}

impl Cache {
    pub fn new(
        options: CacheOptions,
        converter: RowConverter,
        generation: u64,
        metrics: LookupMetrics,
    ) -> Self {
        let segments = Segments::new(options.entries_max, options.bytes_max);
        Self {
            options,
            converter,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            memory: Mutex::new(Memory { segments, entries: 0, told: (0, 0) }),
            generation: AtomicU64::new(generation),
            changes: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            metrics,
        }
    }

    /// What is known of these keys. Those that are missing are marked until the marks are dropped,
    /// also when their fetch fails or is cancelled; the receivers of `loading` then hear of it.
    pub fn look_up(&self, rows: &Rows, loading: &watch::Receiver<()>) -> (Known, Marks<'_>) {
        let mut known = Known {
            answers: Answers::new(rows.num_rows()),
            missing: Vec::new(),
            waiting: Vec::new(),
            stale: Vec::new(),
        };
        let now = Instant::now();
        let by_shard = self.by_shard(rows);
        for (shard, keys) in by_shard.iter() {
            let mut shard = self.shards[shard].lock();
            let Shard { answers, loading: others, .. } = &mut *shard;
            // The entries are all over the memory. Where each is likely to be is known without
            // reading it, and reading them in one short loop waits for many of them at once.
            let likely = keys.iter().map(|(_, hash)| answers.iter_hash(*hash).next());
            let likely: Vec<Option<&Entry>> = likely.collect();
            let lens: usize = likely.iter().flatten().map(|entry| entry.key.len()).sum();
            std::hint::black_box(lens);
            for ((key, hash), entry) in keys.iter().zip(likely) {
                let wanted = Key::new(rows.row(*key as usize).as_ref());
                let entry = match entry {
                    Some(entry) if entry.key == wanted => Some(entry),
                    Some(_) => answers.find(*hash, |entry| entry.key == wanted),
                    None => None,
                };
                if let Some(Entry { answer, .. }) = entry
                    && self.may_serve(answer, now)
                {
                    // Answers of the shard that nobody else asked for stay as they are in memory.
                    if !answer.used.get() {
                        answer.used.set(true);
                    }
                    if now - answer.since > self.ttl(answer) && !answer.refreshing.replace(true) {
                        known.stale.push(*key);
                    }
                    known.answers.set(*key, &answer.chunk, answer.rows.clone());
                } else if let Some(other) = others.get(&wanted) {
                    known.waiting.push((*key, other.clone()));
                } else {
                    others.insert(wanted, loading.clone());
                    known.missing.push(*key);
                }
            }
        }
        known.missing.sort_unstable();
        known.stale.sort_unstable();
        let marked = known.missing.iter().map(|key| Key::new(rows.row(*key as usize).as_ref()));
        let marks = Marks { cache: self, keys: marked.collect() };
        (known, marks)
    }

    /// Adds a key's answer, when there is one. False when there is none.
    pub fn get(&self, bytes: &[u8], key: u32, answers: &mut Answers) -> bool {
        let hash = self.hash(bytes);
        let shard = self.shard_of(hash).lock();
        match shard.answer(hash, bytes) {
            Some(answer) if self.may_serve(answer, Instant::now()) => {
                answers.set(key, &answer.chunk, answer.rows.clone());
                true
            }
            _ => false,
        }
    }

    /// To be taken before the store is asked, which has this generation.
    pub fn now(&self, generation: u64) -> Moment {
        Moment { generation, changes: self.changes.load(Ordering::Acquire) }
    }

    /// Keeps answers of the store as it was since a moment: of each key the rows that are found
    /// under its place among the keys.
    pub fn put(&self, keys: Vec<Key>, found: &Found, asked: Moment) {
        let mut memory = self.memory.lock();
        // Under the lock: a change that comes later forgets these later.
        if self.generation.load(Ordering::Acquire) != asked.generation
            || self.floor.load(Ordering::Acquire) > asked.changes
        {
            return;
        }
        let at_once = memory.segments.keys_at_once(keys.len(), &found.rows);
        let mut from = 0;
        let mut keys = keys.into_iter();
        loop {
            let some: Vec<Key> = keys.by_ref().take(at_once).collect();
            if some.is_empty() {
                break;
            }
            let upto = from + some.len();
            self.add(&mut memory, some, found, from..upto, asked);
            from = upto;
        }
        self.tell(&mut memory);
    }

    pub fn not_refreshed(&self, key: &[u8]) {
        let hash = self.hash(key);
        if let Some(answer) = self.shard_of(hash).lock().answer(hash, key) {
            answer.refreshing.set(false);
        }
    }

    /// Forgets everything when the store's content was replaced.
    pub fn follow(&self, generation: u64) {
        if self.generation.swap(generation, Ordering::AcqRel) != generation {
            self.clear(&mut self.memory.lock());
        }
    }

    /// Forgets keys, given as columns, whose rows changed.
    pub fn forget(&self, columns: &[ArrayRef]) {
        let Ok(rows) = self.converter.convert_columns(columns) else { return self.forget_all() };
        let mut memory = self.memory.lock();
        for key in &rows {
            let key = key.as_ref();
            let change = self.changes.fetch_add(1, Ordering::AcqRel) + 1;
            let hash = self.hash(key);
            let mut shard = self.shard_of(hash).lock();
            if shard.remove(hash, key) {
                memory.entries -= 1;
            }
            if shard.changed.len() >= CHANGES_MAX / SHARDS {
                shard.changed.clear();
                self.floor.store(change, Ordering::Release);
            } else {
                shard.changed.insert(Key::new(key), change);
            }
            self.metrics.invalidated.inc();
        }
        self.tell(&mut memory);
    }

    /// Forgets everything: what changed is not known.
    pub fn forget_all(&self) {
        let mut memory = self.memory.lock();
        let change = self.changes.fetch_add(1, Ordering::AcqRel) + 1;
        self.floor.store(change, Ordering::Release);
        self.metrics.invalidated.inc_by(memory.entries as u64);
        self.clear(&mut memory);
    }

    fn clear(&self, memory: &mut Memory) {
        memory.segments.clear();
        memory.entries = 0;
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.answers.clear();
            shard.changed.clear();
        }
        self.tell(memory);
    }

    fn add(
        &self,
        memory: &mut Memory,
        keys: Vec<Key>,
        found: &Found,
        places: Range<usize>,
        asked: Moment,
    ) {
        let ranges =
            || places.clone().map(|place| found.of(place)).map(|r| r.start as u32..r.end as u32);
        let Ok(rows) = copy(&[&found.rows], ranges().map(|rows| (0, rows))) else { return };
        let segment = Segment::new(keys, rows);
        let mut from = 0;
        let since = Instant::now();
        for (key, found) in segment.keys.iter().zip(ranges()) {
            let rows = from..from + found.len() as u32;
            from = rows.end;
            let chunk = segment.rows.clone();
            let used = Cell::new(false);
            let answer = Answer { chunk, rows, since, used, refreshing: Cell::new(false) };
            let hash = self.hash(key.bytes());
            let mut shard = self.shard_of(hash).lock();
            if shard.changed.get(key.bytes()).is_some_and(|change| *change > asked.changes) {
                continue;
            }
            match shard.answer_mut(hash, key.bytes()) {
                Some(before) => *before = answer,
                None => {
                    let entry = Entry { key: key.clone(), answer };
                    let hash_of = |entry: &Entry| self.hash(entry.key.bytes());
                    shard.answers.insert_unique(hash, entry, hash_of);
                    memory.entries += 1;
                }
            }
        }
        memory.segments.push(segment);
        while let Some(small) = memory.segments.pop_small_neighbours() {
            self.rewrite(memory, &small, |_| true);
        }
        self.make_room(memory);
    }

    /// Gives up the oldest until the rest is within the bounds. What was used since goes round
    /// again, but once in a call only.
    fn make_room(&self, memory: &mut Memory) {
        let now = Instant::now();
        let mut spared = memory.segments.len();
        while memory.entries > self.options.entries_max || memory.segments.is_too_large() {
            let Some(oldest) = memory.segments.pop_oldest() else { return };
            let spare = spared > 0;
            spared = spared.saturating_sub(1);
            self.rewrite(memory, &[oldest], |answer| {
                spare && answer.used.take() && self.may_serve(answer, now)
            });
        }
    }

    /// Puts what is worth keeping of some segments into a new one, and drops the rest.
    fn rewrite(
        &self,
        memory: &mut Memory,
        segments: &[Segment],
        mut keep: impl FnMut(&Answer) -> bool,
    ) {
        let mut kept: Vec<(Key, usize, Range<u32>)> = Vec::new();
        for (at, segment) in segments.iter().enumerate() {
            for key in &segment.keys {
                let hash = self.hash(key.bytes());
                let mut shard = self.shard_of(hash).lock();
                // A key that was answered again is in another segment.
                let Some(answer) = shard.answer(hash, key.bytes()) else { continue };
                if !Arc::ptr_eq(&answer.chunk, &segment.rows) {
                    continue;
                }
                if keep(answer) {
                    kept.push((key.clone(), at, answer.rows.clone()));
                } else {
                    shard.remove(hash, key.bytes());
                    memory.entries -= 1;
                    self.metrics.evicted.inc();
                }
            }
        }
        if kept.is_empty() {
            return;
        }
        let batches: Vec<&RecordBatch> = segments.iter().map(|segment| &*segment.rows).collect();
        let copied = copy(&batches, kept.iter().map(|(_, at, rows)| (*at, rows.clone())));
        let Ok(rows) = copied else {
            for (key, ..) in &kept {
                let hash = self.hash(key.bytes());
                self.shard_of(hash).lock().remove(hash, key.bytes());
            }
            memory.entries -= kept.len();
            return;
        };
        let lens: Vec<u32> = kept.iter().map(|(_, _, rows)| rows.len() as u32).collect();
        let segment = Segment::new(kept.into_iter().map(|(key, ..)| key).collect(), rows);
        let mut from = 0;
        for (key, len) in segment.keys.iter().zip(lens) {
            let hash = self.hash(key.bytes());
            if let Some(answer) = self.shard_of(hash).lock().answer_mut(hash, key.bytes()) {
                answer.chunk = segment.rows.clone();
                answer.rows = from..from + len;
            }
            from += len;
        }
        memory.segments.push(segment);
    }

    /// Steps of a pipeline that use the same lookup share its gauges: each adds what it has.
    fn tell(&self, memory: &mut Memory) {
        let now = (memory.entries as i64, memory.segments.bytes() as i64);
        self.metrics.entries.add(now.0 - memory.told.0);
        self.metrics.bytes.add(now.1 - memory.told.1);
        memory.told = now;
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    fn shard_of(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[place_of(hash)]
    }

    /// The keys by their shards, so that a batch takes each lock once.
    fn by_shard(&self, rows: &Rows) -> ByShard {
        let hashes: Vec<u64> = rows.iter().map(|key| self.hash(key.as_ref())).collect();
        let mut ends = [0; SHARDS];
        hashes.iter().for_each(|hash| ends[place_of(*hash)] += 1);
        let mut sum = 0;
        let mut next = ends.map(|count| {
            sum += count;
            sum - count
        });
        let mut keys = vec![(0, 0); hashes.len()];
        for (key, hash) in hashes.into_iter().enumerate() {
            let next = &mut next[place_of(hash)];
            keys[*next] = (key as u32, hash);
            *next += 1;
        }
        // Each has come to where the one after it began.
        ByShard { keys, ends: next }
    }

    fn ttl(&self, answer: &Answer) -> Duration {
        if answer.rows.is_empty() { self.options.negative_ttl } else { self.options.ttl }
    }

    fn may_serve(&self, answer: &Answer, now: Instant) -> bool {
        now.saturating_duration_since(answer.since) <= self.ttl(answer) + self.options.stale
    }
}

/// Of the bits in the middle: a shard's table uses those at both ends.
fn place_of(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

impl Shard {
    fn answer(&self, hash: u64, key: &[u8]) -> Option<&Answer> {
        let entry = self.answers.find(hash, |entry| entry.key.bytes() == key)?;
        Some(&entry.answer)
    }

    fn answer_mut(&mut self, hash: u64, key: &[u8]) -> Option<&mut Answer> {
        let entry = self.answers.find_mut(hash, |entry| entry.key.bytes() == key)?;
        Some(&mut entry.answer)
    }

    /// Whether it was there.
    fn remove(&mut self, hash: u64, key: &[u8]) -> bool {
        let found = self.answers.find_entry(hash, |entry| entry.key.bytes() == key);
        found.map(|entry| entry.remove()).is_ok()
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let memory = self.memory.get_mut();
        memory.entries = 0;
        self.metrics.entries.sub(memory.told.0);
        self.metrics.bytes.sub(memory.told.1);
    }
}

impl ByShard {
    fn iter(&self) -> impl Iterator<Item = (usize, &[(u32, u64)])> {
        let mut from = 0;
        self.ends
            .iter()
            .enumerate()
            .map(move |(shard, end)| (shard, &self.keys[std::mem::replace(&mut from, *end)..*end]))
    }
}

impl Drop for Marks<'_> {
    fn drop(&mut self) {
        for key in &self.keys {
            let hash = self.cache.hash(key.bytes());
            self.cache.shard_of(hash).lock().loading.remove(key.bytes());
        }
    }
}
