//! What stands between a JOIN and its store: a cache with single flight, retries, and what to do
//! when the store stays away. (Keys are already distinct: the SQL sees to that, batch by batch.)

use crate::metrics::{LookupMetrics, PipelineMetrics, Timer};
use crate::waits::Waits;
use ahash::RandomState;
use arrow_array::{RecordBatch, UInt32Array};
use arrow_row::{RowConverter, Rows, SortField};
use arrow_schema::{DataType, SchemaRef};
use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{Disposition, Error, Found, Lookup, Result};
use parking_lot::Mutex;
use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const SHARDS: usize = 16;
/// Keys up to this many bytes are kept in place.
const KEY_IN_PLACE: usize = 22;
/// How long a key counts as failed.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// How a lookup behaves; from the pipeline file.
#[derive(Debug, Clone)]
pub struct Policy {
    pub cache: Option<CacheOptions>,
    /// Rows become dead letters after `retries`, instead of holding the partition.
    pub dead_letter: bool,
    pub retries: u32,
    pub timeout: Duration,
}

#[derive(Debug, Clone)]
pub struct CacheOptions {
    pub entries_max: usize,
    pub ttl: Duration,
    /// How long a miss is remembered.
    pub negative_ttl: Duration,
    /// How long beyond its time an answer may still be given while a new one is fetched.
    pub stale: Duration,
}

/// A lookup with its policy. Shared by all partition tasks of a pipeline.
pub struct Guarded {
    name: String,
    store: Arc<dyn Lookup>,
    policy: Policy,
    cache: Option<Arc<Cache>>,
    failures: Option<Failures>,
    metrics: LookupMetrics,
    pipeline_metrics: Arc<PipelineMetrics>,
    waits: Arc<Waits>,
}

/// Keys that the store has just failed on as often as the policy says: while a batch is halved to
/// find the rows that need them, it is not asked for them again.
struct Failures {
    converter: RowConverter,
    keys: Mutex<HashMap<Box<[u8]>, Failure, RandomState>>,
}

#[derive(Clone)]
struct Failure {
    since: Instant,
    kind: &'static str,
    reason: String,
}

struct Cache {
    options: CacheOptions,
    converter: RowConverter,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
    generation: AtomicU64,
}

#[derive(Default)]
struct Shard {
    answers: HashMap<Key, Answer, RandomState>,
    /// The keys of the answers in the order they came; one that was used since goes round again.
    order: VecDeque<Key>,
    /// Keys that somebody is fetching; the channel closes when they are done or gave up.
    loading: HashMap<Key, watch::Receiver<()>, RandomState>,
}

/// A key's bytes. Short ones stand in place, so that comparing them reads no other memory.
#[derive(Debug)]
enum Key {
    Short(u8, [u8; KEY_IN_PLACE]),
    Long(Box<[u8]>),
}

/// The keys of a batch in the order of their shards, and where those of each shard end.
struct ByShard {
    keys: Vec<u32>,
    ends: [usize; SHARDS],
}

/// The chunks that the answers for one batch are in.
#[derive(Default)]
struct Chunks {
    list: Vec<Arc<RecordBatch>>,
    /// By the chunk's address, which stays its own while it is in the list.
    place_of: HashMap<usize, u32, RandomState>,
}

/// An answer's rows in the [`Chunks`] of a batch.
#[derive(Clone)]
struct Place {
    chunk: u32,
    rows: Range<u32>,
}

#[derive(Clone)]
struct Answer {
    /// The rows, in a batch that it shares with others that were fetched together.
    chunk: Arc<RecordBatch>,
    rows: Range<u32>,
    since: Instant,
    used: bool,
    refreshing: bool,
}

impl Guarded {
    pub fn new(
        name: &str,
        store: Arc<dyn Lookup>,
        key_types: &[DataType],
        policy: Policy,
        pipeline_metrics: Arc<PipelineMetrics>,
        waits: Arc<Waits>,
    ) -> Result<Self> {
        let cache = match &policy.cache {
            Some(options) => Some(Arc::new(Cache {
                options: options.clone(),
                converter: converter(key_types)?,
                hasher: RandomState::new(),
                shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
                generation: AtomicU64::new(store.generation()),
            })),
            None => None,
        };
        let failures = match policy.dead_letter {
            true => Some(Failures { converter: converter(key_types)?, keys: Mutex::default() }),
            false => None,
        };
        let metrics = pipeline_metrics.lookup_of(name);
        Ok(Self {
            name: name.to_owned(),
            store,
            policy,
            cache,
            failures,
            metrics,
            pipeline_metrics,
            waits,
        })
    }

    /// Asks the store until it answers, or as often as the policy says.
    async fn ask(&self, keys: &RecordBatch) -> Result<Found> {
        if let Some(failures) = &self.failures
            && let Some(failure) = failures.of(keys)?
        {
            return Err(Error::reject(failure.kind, failure.reason));
        }
        let mut attempt = 0;
        let mut backoff = Duration::from_millis(20);
        loop {
            let answer = tokio::time::timeout(self.policy.timeout, self.store.get_many(keys)).await;
            let error = match answer {
                Ok(Ok(found)) => {
                    if attempt > 0 {
                        self.waits.clear(&self.name);
                    }
                    return Ok(found);
                }
                Ok(Err(error)) if error.disposition() != Disposition::Retry => return Err(error),
                Ok(Err(error)) => error,
                Err(_) => {
                    Error::retry("timeout", format!("no answer within {:?}", self.policy.timeout))
                }
            };
            attempt += 1;
            self.pipeline_metrics.retry(&self.name, error.kind());
            if self.policy.dead_letter && attempt > self.policy.retries {
                self.waits.clear(&self.name);
                let reason =
                    format!("lookup {} failed {attempt} times: {}", self.name, error.chain());
                if let Some(failures) = &self.failures {
                    failures.note(keys, error.kind(), &reason)?;
                }
                return Err(Error::reject(error.kind(), reason));
            }
            self.waits.set(&self.name, &format!("lookup {}: {}", self.name, error.chain()));
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(Duration::from_secs(5));
        }
    }

    async fn cached(&self, cache: &Arc<Cache>, keys: &RecordBatch) -> Result<Found> {
        let generation = self.store.generation();
        cache.follow(generation);
        let rows = convert(&cache.converter, keys)?;
        let count = keys.num_rows();
        let mut chunks = Chunks::default();
        let mut answers: Vec<Option<Place>> = vec![None; count];
        let mut missing = Vec::new();
        let mut waiting = Vec::new();
        let mut stale = Vec::new();
        let (done, loading) = watch::channel(());
        let now = Instant::now();
        for (shard, keys) in cache.by_shard(&rows).iter() {
            let mut shard = cache.shards[shard].lock();
            let shard = &mut *shard;
            for key in keys {
                let bytes = rows.row(*key as usize);
                if let Some(answer) = shard.answers.get_mut(bytes.as_ref())
                    && cache.may_serve(answer, now)
                {
                    // Answers of the shard that nobody else asked for stay as they are in memory.
                    if !answer.used {
                        answer.used = true;
                    }
                    if now - answer.since > cache.ttl(answer) && !answer.refreshing {
                        answer.refreshing = true;
                        stale.push(*key);
                    }
                    answers[*key as usize] = Some(chunks.place(answer));
                } else if let Some(other) = shard.loading.get(bytes.as_ref()) {
                    waiting.push((*key as usize, other.clone()));
                } else {
                    shard.loading.insert(Key::new(bytes.as_ref()), loading.clone());
                    missing.push(*key);
                }
            }
        }
        missing.sort_unstable();
        stale.sort_unstable();
        self.metrics.hits.inc_by((count - missing.len()) as u64);
        self.metrics.misses.inc_by(missing.len() as u64);
        // Takes the loading marks away again, also when the fetch fails or is cancelled.
        let marks = Marks {
            cache,
            keys: missing.iter().map(|key| Key::new(rows.row(*key as usize).as_ref())).collect(),
        };
        if !stale.is_empty() {
            self.refresh(cache.clone(), take(keys, &stale)?, generation);
        }
        if !missing.is_empty() {
            let found = self.ask(&take(keys, &missing)?).await?;
            let chunk = Arc::new(found.rows.clone());
            for (at, key) in missing.iter().enumerate() {
                let answer = Answer::new(chunk.clone(), found.of(at));
                answers[*key as usize] = Some(chunks.place(&answer));
                cache.put(rows.row(*key as usize).as_ref(), answer, generation);
            }
        }
        drop(marks);
        drop(done);
        let mut left = Vec::new();
        for (key, mut other) in waiting {
            let _ = other.changed().await;
            match cache.get(rows.row(key).as_ref()) {
                Some(answer) => answers[key] = Some(chunks.place(&answer)),
                None => left.push(key as u32),
            }
        }
        if !left.is_empty() {
            // Whoever fetched these gave up: ask on our own account.
            let found = self.ask(&take(keys, &left)?).await?;
            let chunk = Arc::new(found.rows.clone());
            for (at, key) in left.iter().enumerate() {
                let answer = Answer::new(chunk.clone(), found.of(at));
                answers[*key as usize] = Some(chunks.place(&answer));
                cache.put(rows.row(*key as usize).as_ref(), answer, generation);
            }
        }
        self.report_size(cache);
        assemble(self.store.schema(), &chunks, &answers)
    }

    /// Asks again for answers that are given meanwhile. When that fails, whoever comes next tries
    /// again.
    fn refresh(&self, cache: Arc<Cache>, keys: RecordBatch, generation: u64) {
        let store = self.store.clone();
        let timeout = self.policy.timeout;
        let metrics = self.pipeline_metrics.clone();
        let name = self.name.clone();
        tokio::spawn(async move {
            let Ok(rows) = cache.converter.convert_columns(keys.columns()) else { return };
            let asked = AssertUnwindSafe(tokio::time::timeout(timeout, store.get_many(&keys)));
            let found = match asked.catch_unwind().await {
                Ok(Ok(Ok(found))) => found,
                failed => {
                    let kind = match failed {
                        Ok(Ok(Err(error))) => error.kind(),
                        Ok(_) => "timeout",
                        Err(_) => "panic",
                    };
                    metrics.error(&name, kind, 1);
                    return rows.iter().for_each(|key| cache.not_refreshed(key.as_ref()));
                }
            };
            let chunk = Arc::new(found.rows.clone());
            for (at, key) in rows.iter().enumerate() {
                let answer = Answer::new(chunk.clone(), found.of(at));
                cache.put(key.as_ref(), answer, generation);
            }
        });
    }

    fn report_size(&self, cache: &Cache) {
        let entries: usize = cache.shards.iter().map(|s| s.lock().order.len()).sum();
        self.metrics.entries.set(entries as i64);
        let sample = cache.shards[0].lock();
        let bytes: usize = sample.order.iter().take(32).map(|k| k.bytes().len() * 2 + 160).sum();
        let each = if sample.order.is_empty() { 0 } else { bytes / sample.order.len().min(32) };
        self.metrics.bytes.set((each * entries) as i64);
    }
}

#[async_trait]
impl Lookup for Guarded {
    fn schema(&self) -> SchemaRef {
        self.store.schema()
    }

    async fn get_many(&self, keys: &RecordBatch) -> Result<Found> {
        let timer = Timer::start(&self.pipeline_metrics.lookup);
        let found = match &self.cache {
            Some(cache) => self.cached(cache, keys).await?,
            None => {
                self.metrics.misses.inc_by(keys.num_rows() as u64);
                self.ask(keys).await?
            }
        };
        timer.stop();
        Ok(found)
    }

    fn served(&self, rows: u64, found: u64) {
        self.metrics.rows.inc_by(rows);
        self.metrics.found.inc_by(found);
    }
}

impl Answer {
    fn new(chunk: Arc<RecordBatch>, rows: Range<usize>) -> Self {
        let rows = rows.start as u32..rows.end as u32;
        Self { chunk, rows, since: Instant::now(), used: false, refreshing: false }
    }
}

impl Failures {
    /// Why one of these keys has failed just now.
    fn of(&self, keys: &RecordBatch) -> Result<Option<Failure>> {
        let mut known = self.keys.lock();
        known.retain(|_, failure| failure.since.elapsed() < FAILED_FOR);
        if known.is_empty() {
            return Ok(None);
        }
        let rows = convert(&self.converter, keys)?;
        Ok(rows.iter().find_map(|key| known.get(key.as_ref()).cloned()))
    }

    fn note(&self, keys: &RecordBatch, kind: &'static str, reason: &str) -> Result<()> {
        let failure = Failure { since: Instant::now(), kind, reason: reason.to_owned() };
        let rows = convert(&self.converter, keys)?;
        self.keys.lock().extend(rows.iter().map(|key| (key.as_ref().into(), failure.clone())));
        Ok(())
    }
}

fn converter(key_types: &[DataType]) -> Result<RowConverter> {
    let fields = key_types.iter().map(|t| SortField::new(t.clone())).collect();
    RowConverter::new(fields)
        .map_err(|e| Error::stop("lookup_key", "a key of this type cannot be looked up").because(e))
}

fn convert(converter: &RowConverter, keys: &RecordBatch) -> Result<Rows> {
    converter
        .convert_columns(keys.columns())
        .map_err(|e| Error::stop("lookup_key", "encoding a key").because(e))
}

impl Cache {
    fn shard(&self, key: &[u8]) -> &Mutex<Shard> {
        &self.shards[self.shard_of(key)]
    }

    fn shard_of(&self, key: &[u8]) -> usize {
        self.hasher.hash_one(key) as usize % SHARDS
    }

    /// The keys by their shards, so that a batch takes each lock once.
    fn by_shard(&self, rows: &Rows) -> ByShard {
        let shards: Vec<usize> = rows.iter().map(|key| self.shard_of(key.as_ref())).collect();
        let mut ends = [0; SHARDS];
        shards.iter().for_each(|shard| ends[*shard] += 1);
        let mut sum = 0;
        let mut next = ends.map(|count| {
            sum += count;
            sum - count
        });
        let mut keys = vec![0; shards.len()];
        for (key, shard) in shards.into_iter().enumerate() {
            keys[next[shard]] = key as u32;
            next[shard] += 1;
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

    fn get(&self, key: &[u8]) -> Option<Answer> {
        let shard = self.shard(key).lock();
        let answer = shard.answers.get(key)?;
        self.may_serve(answer, Instant::now()).then(|| answer.clone())
    }

    /// Keeps an answer of the store as it was in this generation.
    fn put(&self, key: &[u8], answer: Answer, generation: u64) {
        let mut shard = self.shard(key).lock();
        // Under the lock: a change that comes later clears this shard later.
        if self.generation.load(Ordering::Acquire) != generation {
            return;
        }
        if shard.answers.insert(Key::new(key), answer).is_none() {
            shard.order.push_back(Key::new(key));
        }
        let room = (self.options.entries_max / SHARDS).max(1);
        while shard.order.len() > room {
            let Some(oldest) = shard.order.pop_front() else { break };
            match shard.answers.get_mut(oldest.bytes()) {
                Some(answer) if answer.used => {
                    answer.used = false;
                    shard.order.push_back(oldest);
                }
                _ => {
                    shard.answers.remove(oldest.bytes());
                }
            }
        }
    }

    fn not_refreshed(&self, key: &[u8]) {
        if let Some(answer) = self.shard(key).lock().answers.get_mut(key) {
            answer.refreshing = false;
        }
    }

    /// Forgets everything when the store's content was replaced.
    fn follow(&self, generation: u64) {
        if self.generation.swap(generation, Ordering::AcqRel) != generation {
            for shard in &self.shards {
                let mut shard = shard.lock();
                shard.answers.clear();
                shard.order.clear();
            }
        }
    }
}

impl ByShard {
    fn iter(&self) -> impl Iterator<Item = (usize, &[u32])> {
        let mut from = 0;
        self.ends
            .iter()
            .enumerate()
            .map(move |(shard, end)| (shard, &self.keys[std::mem::replace(&mut from, *end)..*end]))
    }
}

impl Chunks {
    /// Where an answer's rows are. Chunks are few and shared by all threads: only the first answer
    /// from one counts its references up.
    fn place(&mut self, answer: &Answer) -> Place {
        if answer.rows.is_empty() {
            return Place { chunk: 0, rows: 0..0 };
        }
        let chunk =
            *self.place_of.entry(Arc::as_ptr(&answer.chunk) as usize).or_insert_with(|| {
                self.list.push(answer.chunk.clone());
                self.list.len() as u32 - 1
            });
        Place { chunk, rows: answer.rows.clone() }
    }
}

impl Key {
    fn new(bytes: &[u8]) -> Self {
        let mut short = [0; KEY_IN_PLACE];
        match short.get_mut(..bytes.len()) {
            Some(start) => {
                start.copy_from_slice(bytes);
                Key::Short(bytes.len() as u8, short)
            }
            None => Key::Long(bytes.into()),
        }
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            Key::Short(len, bytes) => &bytes[..usize::from(*len)],
            Key::Long(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Key {
    #[inline]
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Key {}

/// Keys that somebody is fetching, until this is dropped.
struct Marks<'a> {
    cache: &'a Cache,
    keys: Vec<Key>,
}

impl Drop for Marks<'_> {
    fn drop(&mut self) {
        for key in &self.keys {
            self.cache.shard(key.bytes()).lock().loading.remove(key.bytes());
        }
    }
}

fn take(keys: &RecordBatch, rows: &[u32]) -> Result<RecordBatch> {
    if rows.len() == keys.num_rows() {
        return Ok(keys.clone());
    }
    arrow_select::take::take_record_batch(keys, &UInt32Array::from(rows.to_vec()))
        .map_err(|e| Error::stop("lookup_key", "picking keys").because(e))
}

/// One batch of all the answers' rows, in key order.
fn assemble(schema: SchemaRef, chunks: &Chunks, answers: &[Option<Place>]) -> Result<Found> {
    let mut picked = Vec::with_capacity(answers.len());
    let mut ends = Vec::with_capacity(answers.len());
    for answer in answers {
        if let Some(Place { chunk, rows }) = answer {
            picked.extend(rows.clone().map(|row| (*chunk as usize, row as usize)));
        }
        ends.push(picked.len() as u32);
    }
    let chunks: Vec<&RecordBatch> = chunks.list.iter().map(|chunk| &**chunk).collect();
    let rows = match chunks.as_slice() {
        [] => RecordBatch::new_empty(schema),
        [one] => {
            let rows: UInt32Array = picked.iter().map(|(_, row)| *row as u32).collect();
            arrow_select::take::take_record_batch(one, &rows)
                .map_err(|e| Error::stop("lookup", "picking rows").because(e))?
        }
        many => arrow_select::interleave::interleave_record_batch(many, &picked)
            .map_err(|e| Error::stop("lookup", "picking rows").because(e))?,
    };
    Ok(Found { rows, ends })
}
