//! A lookup with its policy: asked through the cache, tried again while its store is away.

use super::Policy;
use super::answers::Answers;
use super::cache::{Cache, Moment};
use super::changes::{Following, KeyColumns};
use super::failures::Failures;
use super::keys::{Key, convert, converter, pick};
use crate::metrics::{LookupMetrics, PipelineMetrics, Timer};
use crate::waits::Waits;
use arrow_array::RecordBatch;
use arrow_row::Rows;
use arrow_schema::{DataType, SchemaRef};
use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{Disposition, Error, Found, Lookup, Result, Source};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

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
    following: Option<Following>,
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
        let metrics = pipeline_metrics.lookup_of(name);
        let cache = match &policy.cache {
            Some(options) => {
                let converter = converter(key_types)?;
                let generation = store.generation();
                let cache = Cache::new(options.clone(), converter, generation, metrics.clone());
                Some(Arc::new(cache))
            }
            None => None,
        };
        let failures = match policy.dead_letter {
            true => Some(Failures::new(key_types)?),
            false => None,
        };
        Ok(Self {
            name: name.to_owned(),
            store,
            policy,
            cache,
            failures,
            metrics,
            pipeline_metrics,
            waits,
            following: None,
        })
    }

    /// Forgets what records of this source say has changed. Its reading goes on on `io`.
    pub fn follow(&mut self, source: Arc<dyn Source>, key: KeyColumns, io: &Handle) {
        self.following =
            self.cache.as_ref().map(|cache| Following::start(source, key, cache, &self.name, io));
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
        let mut waiting = self.waits.waiting(&self.name);
        loop {
            let answer = within(self.policy.timeout, self.store.get_many(keys)).await;
            let error = match answer {
                Ok(found) => {
                    waiting.done();
                    return Ok(found);
                }
                Err(error) if error.disposition() != Disposition::Retry => return Err(error),
                Err(error) => error,
            };
            attempt += 1;
            self.pipeline_metrics.retry(&self.name, error.kind());
            if self.policy.dead_letter && attempt > self.policy.retries {
                let reason =
                    format!("lookup {} failed {attempt} times: {}", self.name, error.chain());
                if let Some(failures) = &self.failures {
                    failures.note(keys, error.kind(), &reason)?;
                }
                return Err(Error::reject(error.kind(), reason));
            }
            waiting.set(&format!("lookup {}: {}", self.name, error.chain()));
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(Duration::from_secs(5));
        }
    }

    /// The answers, and whether all of them were known.
    async fn cached(&self, cache: &Arc<Cache>, keys: &RecordBatch) -> Result<(Found, bool)> {
        let generation = self.store.generation();
        cache.follow(generation);
        let rows = convert(&cache.converter, keys)?;
        let asked = cache.now(generation);
        let (done, loading) = watch::channel(());
        let (known, marks) = cache.look_up(&rows, &loading);
        let mut answers = known.answers;
        self.metrics.hits.inc_by((rows.num_rows() - known.missing.len()) as u64);
        self.metrics.misses.inc_by(known.missing.len() as u64);
        self.metrics.shared.inc_by(known.waiting.len() as u64);
        self.metrics.stale.inc_by(known.stale.len() as u64);
        let is_known = known.missing.is_empty() && known.waiting.is_empty();
        if !known.stale.is_empty() {
            self.refresh(cache.clone(), pick(keys, &known.stale)?, asked);
        }
        if !known.missing.is_empty() {
            self.fetch(cache, keys, &rows, &known.missing, &mut answers, asked).await?;
        }
        drop(marks);
        drop(done);
        let mut left = Vec::new();
        for (key, mut other) in known.waiting {
            let _ = other.changed().await;
            if !cache.get(rows.row(key as usize).as_ref(), key, &mut answers) {
                left.push(key);
            }
        }
        if !left.is_empty() {
            // Whoever fetched these gave up: ask on our own account.
            let asked = cache.now(generation);
            self.fetch(cache, keys, &rows, &left, &mut answers, asked).await?;
        }
        Ok((answers.assemble(self.store.schema())?, is_known))
    }

    /// Asks the store for some of the keys, and keeps what it says.
    async fn fetch(
        &self,
        cache: &Cache,
        keys: &RecordBatch,
        rows: &Rows,
        wanted: &[u32],
        answers: &mut Answers,
        asked: Moment,
    ) -> Result<()> {
        let found = self.ask(&pick(keys, wanted)?).await?;
        let chunk = Arc::new(found.rows.clone());
        for (at, key) in wanted.iter().enumerate() {
            let rows = found.of(at);
            answers.set(*key, &chunk, rows.start as u32..rows.end as u32);
        }
        let keys = wanted.iter().map(|key| Key::new(rows.row(*key as usize).as_ref())).collect();
        cache.put(keys, &found, asked);
        Ok(())
    }

    /// Asks again for answers that are given meanwhile. When that fails, whoever comes next tries
    /// again.
    fn refresh(&self, cache: Arc<Cache>, keys: RecordBatch, asked: Moment) {
        let store = self.store.clone();
        let timeout = self.policy.timeout;
        let metrics = self.pipeline_metrics.clone();
        let name = self.name.clone();
        tokio::spawn(async move {
            let Ok(rows) = cache.converter.convert_columns(keys.columns()) else { return };
            let answer = AssertUnwindSafe(within(timeout, store.get_many(&keys)));
            let found = match answer.catch_unwind().await {
                Ok(Ok(found)) => found,
                failed => {
                    let kind = match failed {
                        Ok(Err(error)) => error.kind(),
                        _ => "panic",
                    };
                    metrics.error(&name, kind, 1);
                    return rows.iter().for_each(|key| cache.not_refreshed(key.as_ref()));
                }
            };
            let keys = rows.iter().map(|key| Key::new(key.as_ref())).collect();
            cache.put(keys, &found, asked);
        });
    }
}

#[async_trait]
impl Lookup for Guarded {
    fn schema(&self) -> SchemaRef {
        self.store.schema()
    }

    async fn get_many(&self, keys: &RecordBatch) -> Result<Found> {
        let timer = Timer::start(&self.pipeline_metrics.lookup);
        let (found, is_known) = match &self.cache {
            Some(cache) => self.cached(cache, keys).await?,
            None => {
                self.metrics.misses.inc_by(keys.num_rows() as u64);
                (self.ask(keys).await?, false)
            }
        };
        let took = timer.stop();
        let answered = if is_known { &self.metrics.from_cache } else { &self.metrics.from_store };
        answered.observe(took);
        Ok(found)
    }

    fn served(&self, rows: u64, found: u64) {
        self.metrics.rows.inc_by(rows);
        self.metrics.found.inc_by(found);
    }
}

/// A store's answer, if there is one in time.
async fn within<T>(
    timeout: Option<Duration>,
    answer: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(timeout) = timeout else { return answer.await };
    match tokio::time::timeout(timeout, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::retry("timeout", format!("no answer within {timeout:?}"))),
    }
}
