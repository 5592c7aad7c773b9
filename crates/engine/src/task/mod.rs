//! The partition task: the one loop that owns a source partition from fetch to commit.
//!
//! ```text
//!  fetch ─► decode ─► working: look-ups and SQL, in order ─► sinks ─► outstanding: durable? ─► commit
//!             inline      bounded in batches and bytes        in order       in order
//! ```
//!
//! Everything runs in this task; nothing is handed to another but I/O.

mod worked;
mod write;

use crate::brake::Brake;
use crate::budget::Share;
use crate::commit::{Owner, Session};
use crate::dead_letters::{LetterWriter, Verdict};
use crate::flow::Flowed;
use crate::gate::{GIVEN_UP, Ticket};
use crate::metrics::Timer;
use crate::pipeline::Pipeline;
use crate::status::{PartitionState, PartitionStatus};
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use millstream_connectors::file::OVERSIZED_HEADER;
use millstream_core::{
    Beginning, Checkpoint, Counts, Decoded, Decoder, Disposition, Error, Partition,
    PartitionReader, Place, Records, Rejection, Result, Run, Sink, Start, fault,
};
use std::collections::{BTreeMap, HashSet};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use worked::Worked;

/// A task gives way to others at least this often.
const YIELD_EVERY: Duration = Duration::from_millis(2);

/// A sink that takes longer than this for a batch holds its partition up.
const HELD_UP_AFTER: Duration = Duration::from_millis(10);

/// What takes longer than this is said to be waited for.
const SAID_AFTER: Duration = Duration::from_secs(1);

/// Why there is a decoder.
const DECODER: &str = "only the one who prepares it takes it, and gives it back";

/// How a partition task came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The source has no more and never will.
    Finished,
    /// It was asked to stop; what was in flight is done and committed.
    Drained,
}

/// What a partition knows of the panics it has had; it outlives the task that panicked.
#[derive(Debug, Default)]
pub struct Suspects {
    pub current: Arc<Current>,
    /// Below this offset records are worked on one by one.
    pub careful_upto: i64,
    /// Records that panicked alone, and what they said.
    pub condemned: BTreeMap<i64, String>,
}

/// The offsets of the batch that is being worked on right now: its first, and the one after its last.
#[derive(Debug, Default)]
pub struct Current {
    pub first: AtomicI64,
    pub next: AtomicI64,
}

impl Current {
    fn set(&self, first: i64, next: i64) {
        self.first.store(first, Ordering::Relaxed);
        self.next.store(next, Ordering::Relaxed);
    }

    fn get(&self) -> (i64, i64) {
        (self.first.load(Ordering::Relaxed), self.next.load(Ordering::Relaxed))
    }
}

pub struct Task<'a> {
    pub pipeline: &'a Arc<Pipeline>,
    pub partition: u32,
    pub status: &'a Arc<PartitionStatus>,
    pub suspects: &'a mut Suspects,
    pub stop: CancellationToken,
    pub brake: &'a mut Brake,
    /// What it may commit in; see [`Session`].
    pub session: Session,
}

/// A batch that was fetched and decoded, on its way.
struct Working {
    batch: InFlight,
    flowed: Flowed,
    /// Its place in the pipeline's transaction, where there are some.
    ticket: Option<Ticket>,
}

struct InFlight {
    records: Arc<Records>,
    run: Run,
    since: Instant,
    /// Records without a value that the decoder passed over.
    tombstones: u64,
}

struct Settled {
    batch: InFlight,
    counts: Counts,
    ticket: Option<Ticket>,
}

/// The task's state while it runs.
struct Loop<'a> {
    task: Task<'a>,
    /// Taken while it fetches what it needs, so that what was written is settled meanwhile.
    decoder: Option<Box<dyn Decoder>>,
    sinks: Vec<Box<dyn Sink>>,
    letters: LetterWriter,
    place: Partition,
    checkpoint: Checkpoint,
    rows_in_flight: usize,
    /// The bytes under way, as a part of the pipeline's.
    share: Share,
    working: Worked<'a>,
    outstanding: FuturesOrdered<BoxFuture<'static, Result<Settled>>>,
    /// The last batch had to wait for a sink.
    held_up: bool,
    /// A batch that was written turned out not to be durable: nothing after it may be counted.
    lost: bool,
}

impl<'a> Task<'a> {
    /// Runs from the partition's last commit until the source ends, the token stops it, or
    /// something fails. After an error nothing that was in flight is acknowledged.
    pub async fn run(mut self) -> Result<End> {
        let Some(to) = &self.pipeline.exactly_once else { return self.work().await };
        let gate = to.gate.clone();
        let stop = self.stop.clone();
        let _member = tokio::select! {
            biased;
            member = gate.join() => member?,
            () = stop.cancelled() => return Ok(End::Drained),
        };
        // While it is a member the session is not over.
        self.session = self.pipeline.committer.session();
        tokio::select! {
            biased;
            why = gate.broken() => Err(Error::retry(GIVEN_UP, format!("its transaction is given up: {why}"))),
            ended = self.work() => ended,
        }
    }

    async fn work(self) -> Result<End> {
        let pipeline = self.pipeline;
        // What an earlier task of this partition has offered counts.
        pipeline.committer.flush().await;
        let from = match pipeline.start_of(self.partition)? {
            Start::Offset(offset) => offset,
            Start::Earliest => pipeline.source.beginning(self.partition).await?,
            Start::Latest => self.begin_at_latest().await?,
        };
        let mut reader = pipeline.source.reader(self.partition, Start::Offset(from)).await?;
        self.status.begin(from);
        self.brake.back_to(from);
        let mut sinks =
            pipeline.sinks.iter().map(|sink| (sink.open)()).collect::<Result<Vec<_>>>()?;
        let place = pipeline.source.place_of(self.partition);
        let identity = pipeline.source.identity_of(self.partition);
        let beginning = Beginning { place: place.clone(), identity, from };
        sinks.iter_mut().for_each(|sink| sink.begin(&beginning));
        let gate = pipeline.exactly_once.as_ref().map(|to| to.gate.clone());
        let mut state = Loop {
            decoder: Some((pipeline.decoder)()?),
            letters: pipeline.letter_writer(place.clone()),
            place,
            task: self,
            sinks,
            checkpoint: Checkpoint::new(from),
            rows_in_flight: 0,
            share: pipeline.budget.share(),
            working: Worked::new(gate.clone()),
            outstanding: FuturesOrdered::new(),
            held_up: false,
            lost: false,
        };
        let ended = state.run(reader.as_mut()).await;
        // A transaction that this has broken takes back what was written, and who waited here would be
        // told of that, not of the error.
        if ended.is_err() && !gate.is_some_and(|gate| gate.is_broken()) {
            state.settle_what_was_written().await;
        }
        state.forget_in_flight();
        let finished = ended?;
        // What this task offered must be durable before it says that it is done.
        pipeline.committer.flush().await;
        Ok(if finished { End::Finished } else { End::Drained })
    }

    /// Where the source ends now, committed: a task that comes after this one, before anything else
    /// was committed, must not begin at a later end.
    async fn begin_at_latest(&self) -> Result<i64> {
        let latest = self.pipeline.source.offset_of(self.partition, Place::Latest).await?;
        self.offer(latest);
        self.pipeline.committer.flush().await;
        Ok(latest)
    }

    fn offer(&self, upto: i64) {
        let pipeline = self.pipeline;
        pipeline.committer.offer(
            self.session,
            Owner { pipeline: pipeline.name.clone(), partition: self.partition },
            upto,
            pipeline.source_topic.clone(),
            self.status.metrics.clone(),
            pipeline.metrics.clone(),
        );
    }
}

/// Ready when all of them take a batch.
fn poll_takes(sinks: &mut [Box<dyn Sink>], context: &mut Context<'_>) -> Poll<()> {
    match sinks.iter_mut().all(|sink| sink.poll_takes(context).is_ready()) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    }
}

impl<'a> Loop<'a> {
    /// True when the source came to its end.
    async fn run(&mut self, reader: &mut dyn PartitionReader) -> Result<bool> {
        let pipeline: &'a Arc<Pipeline> = self.task.pipeline;
        let stop = self.task.stop.clone();
        let mut reading = true;
        let mut finished = false;
        let mut yielded = Instant::now();
        loop {
            if yielded.elapsed() >= YIELD_EVERY {
                tokio::task::yield_now().await;
                yielded = Instant::now();
            }
            self.report(reader);
            let room = reading && self.has_room();
            // Who has nothing under way needs no turn, and would keep one while it waits.
            let may_fetch = self.share.may_fetch()
                || room
                    && poll_fn(|context| self.share.poll_turn(context)).now_or_never().is_some();
            // Where a sink is slow, what was worked on waits anyway. Fetched only when nothing does, a
            // window would be filled and emptied in turns, and its look-ups would come in bursts.
            let takes = |context: &mut Context<'_>| poll_takes(&mut self.sinks, context);
            if room
                && may_fetch
                && self.held_up
                && !stop.is_cancelled()
                && poll_fn(takes).now_or_never().is_some()
                && let Some(records) = reader.next().now_or_never()
            {
                self.task.status.waits(false);
                finished = !self.take(records?).await?;
                reading = !finished;
                continue;
            }
            let fetches = room && may_fetch;
            if !fetches && self.working.len() == 0 && !self.outstanding.is_empty() {
                self.flush();
            }
            let had_more = reader.end_offset() > self.task.status.position();
            let status = self.task.status;
            let (sinks, mut next) = (&mut self.sinks, reader.next());
            let mut since = None;
            let fetched = poll_fn(move |context| {
                if poll_takes(sinks, context).is_pending() {
                    status.waits(false);
                    return Poll::Pending;
                }
                let since = *since.get_or_insert_with(Instant::now);
                let fetched = next.as_mut().poll(context);
                status.waits(fetched.is_pending());
                fetched.map(|records| (records, since.elapsed()))
            });
            tokio::select! {
                biased;
                Some(settled) = self.outstanding.next() => self.settle(settled)?,
                Some(worked) = self.working.next() => self.write(worked?).await?,
                () = stop.cancelled(), if reading => {
                    reading = false;
                    self.task.status.set(PartitionState::Draining);
                    if fault::bug("lose_last_batch_at_shutdown") {
                        if let Some(Ok(Some(last))) = reader.next().now_or_never() {
                            self.task.status.advance(last.next_offset());
                        }
                        self.acknowledge_everything();
                        return Ok(false);
                    }
                }
                () = poll_fn(|context| self.share.poll_turn(context)), if room && !may_fetch => {}
                () = status.asked_to_finish(), if !self.outstanding.is_empty() => {
                    if self.working.len() == 0 && reader.end_offset() <= status.position() {
                        self.flush();
                    }
                }
                (records, took) = fetched, if fetches => {
                    let records = records?;
                    if had_more && records.is_some() {
                        pipeline.metrics.fetch.observe(took.as_secs_f64());
                    }
                    finished = !self.take(records).await?;
                    reading = !finished;
                }
                else => return Ok(finished),
            }
        }
    }

    fn has_room(&self) -> bool {
        let in_flight = self.working.len() + self.outstanding.len();
        let limits = &self.task.pipeline.limits;
        if self.is_careful() {
            return in_flight == 0;
        }
        in_flight < limits.in_flight_batches && self.share.bytes() < limits.in_flight_bytes
    }

    fn is_careful(&self) -> bool {
        self.task.status.position() < self.task.suspects.careful_upto
    }

    /// False when the source has no more.
    async fn take(&mut self, records: Option<Records>) -> Result<bool> {
        let Some(records) = records else { return Ok(false) };
        self.accept(records).await?;
        Ok(true)
    }

    /// Takes fetched records in: all together, or one by one where a panic is being looked for.
    async fn accept(&mut self, records: Records) -> Result<()> {
        self.task.pipeline.metrics.rows_skipped.inc_by(records.skipped());
        if !self.is_careful() {
            return self.decode(records).await.map(drop);
        }
        for row in 0..records.len() {
            let record = records.slice_rows(row, row + 1);
            let condemned = self.task.suspects.condemned.get(&records.offset(row)).cloned();
            let is_under_way = match condemned {
                Some(panic) => {
                    self.condemn(record, format!("processing it panics: {panic}"));
                    true
                }
                None => self.decode(record).await?,
            };
            // What comes after a record that stays undone would be written, and not committed.
            if !is_under_way {
                return Ok(());
            }
            while let Some(worked) = self.working.next().await {
                self.write(worked?).await?;
            }
            self.flush();
            while let Some(settled) = self.outstanding.next().await {
                self.settle(settled)?;
            }
        }
        Ok(())
    }

    fn open(&mut self, records: Records) -> InFlight {
        let records = Arc::new(records);
        let run = self.checkpoint.open(records.next_offset());
        self.task.status.advance(records.next_offset());
        self.rows_in_flight += records.len();
        self.share.add(records.bytes());
        self.suspect(&records);
        InFlight { since: records.arrived(), records, run, tombstones: 0 }
    }

    /// Sends one record to the dead letters without touching it.
    fn condemn(&mut self, record: Records, reason: String) {
        let pipeline: &'a Arc<Pipeline> = self.task.pipeline;
        let batch = self.open(record);
        let step = pipeline.decode_step.clone();
        let verdicts = vec![Verdict { source_row: 0, step, kind: "panic", reason }];
        self.working.push_back(Box::pin(async move {
            Ok(Working { batch, flowed: Flowed { outputs: Vec::new(), verdicts }, ticket: None })
        }));
    }

    /// Decodes records and sets them on their way. False when it was asked to stop before it could.
    async fn decode(&mut self, records: Records) -> Result<bool> {
        let pipeline: &'a Arc<Pipeline> = self.task.pipeline;
        let mut batch = self.open(records);
        let records = batch.records.clone();
        fault::panic_on(|| records.iter().filter_map(|r| r.value));

        if !self.prepare(&records).await? {
            // Its run stays open: it is read again after the next start.
            return Ok(false);
        }
        self.suspect(&records);
        let timer = Timer::start(&pipeline.metrics.decode);
        let decoder = self.decoder.as_mut().expect(DECODER);
        let mut decoded = decoder.decode(&records)?;
        batch.tombstones = passed_over(&records, &decoded);
        let refused = self.refuse(&records);
        if !refused.is_empty() {
            let rows: Vec<u32> = refused.iter().map(|r| r.source_row).collect();
            let gone: HashSet<u32> = rows.iter().copied().collect();
            decoded.batch = decoded
                .batch
                .without(&rows)
                .map_err(|e| Error::stop("decode", "dropping refused rows").because(e))?;
            decoded.rejected.retain(|r| !gone.contains(&r.source_row));
            decoded.rejected.extend(refused);
        }
        let input = pipeline.positions.add(decoded.batch, &records, &self.place)?;
        timer.stop();

        let rejected = decoded.rejected.into_iter();
        let mut verdicts: Vec<Verdict> =
            rejected.map(|r| (&pipeline.decode_step, r).into()).collect();
        let (first, next) = (records.first_offset().unwrap_or(-1), records.next_offset());
        let current = self.task.suspects.current.clone();
        let mut work = Box::pin(async move {
            let _permit = pipeline.permit().await;
            let mut flowed = pipeline.flow.run(input, &pipeline.metrics).await?;
            verdicts.append(&mut flowed.verdicts);
            flowed.verdicts = verdicts;
            Ok(Working { batch, flowed, ticket: None })
        });
        // Several batches take turns here: a panic must be known by the one whose turn it is.
        self.working.push_back(Box::pin(poll_fn(move |context| {
            current.set(first, next);
            work.as_mut().poll(context)
        })));
        Ok(true)
    }

    /// Fetches what decoding needs, waiting while the registry cannot be asked. False when it was
    /// asked to stop meanwhile.
    async fn prepare(&mut self, records: &Records) -> Result<bool> {
        let partition = self.task.status.called(self.task.pipeline.source.name());
        let what = format!("schema registry, partition {partition}");
        let mut decoder = self.decoder.take().expect(DECODER);
        let prepared = self.prepare_or_wait(&mut *decoder, records, &what).await;
        self.decoder = Some(decoder);
        prepared
    }

    async fn prepare_or_wait(
        &mut self,
        decoder: &mut dyn Decoder,
        records: &Records,
        what: &str,
    ) -> Result<bool> {
        let pipeline: &'a Arc<Pipeline> = self.task.pipeline;
        let stop = self.task.stop.clone();
        let mut backoff = Backoff::new();
        let mut waiting = pipeline.waits.waiting(what);
        loop {
            let mut preparing = decoder.prepare(records);
            let mut slow = std::pin::pin!(tokio::time::sleep(SAID_AFTER));
            let mut is_slow = false;
            let error = loop {
                tokio::select! {
                    biased;
                    prepared = &mut preparing => match prepared {
                        Err(error) if error.disposition() == Disposition::Retry => break error,
                        other => {
                            waiting.done();
                            return other.map(|()| true);
                        }
                    },
                    () = stop.cancelled() => return Ok(false),
                    () = &mut slow, if !is_slow => {
                        is_slow = true;
                        let partition = self.task.status.called(pipeline.source.name());
                        let waits = format!("partition {partition}: asking for its schemas");
                        waiting.set(&waits);
                    }
                    // Others may wait for it: a transaction ends when all that is in it is settled.
                    Some(settled) = self.outstanding.next() => self.settle(settled)?,
                    never = self.working.drive() => match never {},
                }
            };
            drop(preparing);
            pipeline.metrics.retry(&pipeline.decode_step, error.kind());
            let partition = self.task.partition;
            waiting.set(&format!("partition {partition}: {}", error.chain()));
            let mut pause = std::pin::pin!(backoff.wait());
            // What was read before goes on.
            loop {
                tokio::select! {
                    biased;
                    () = &mut pause => break,
                    () = stop.cancelled() => return Ok(false),
                    Some(settled) = self.outstanding.next() => self.settle(settled)?,
                    Some(worked) = self.working.next() => self.write(worked?).await?,
                }
            }
        }
    }

    /// Records that were too big to be kept whole: what is left of them must not be decoded.
    fn refuse(&self, records: &Records) -> Vec<Rejection> {
        let mut refused = Vec::new();
        if !self.task.pipeline.may_be_oversized {
            return refused;
        }
        for (row, record) in records.iter().enumerate() {
            let source_row = row as u32;
            let header = record.headers.iter().find(|h| h.key == OVERSIZED_HEADER.as_bytes());
            if let Some(header) = header {
                let note = String::from_utf8_lossy(header.value.unwrap_or_default());
                let length = note.split(' ').next().unwrap_or_default().to_owned();
                let reason = format!("{length} bytes are more than max_record_bytes");
                refused.push(Rejection { source_row, kind: "too_large", reason });
            }
        }
        refused
    }

    fn suspect(&self, records: &Records) {
        let first = records.first_offset().unwrap_or(-1);
        self.task.suspects.current.set(first, records.next_offset());
    }

    fn report(&self, reader: &dyn PartitionReader) {
        let status = self.task.status;
        status.end(reader.end_offset());
        let metrics = &self.task.pipeline.metrics;
        let batches = self.working.len() + self.outstanding.len();
        status.in_flight(metrics, batches, self.rows_in_flight, self.share.bytes());
    }

    fn forget_in_flight(&self) {
        self.task.status.in_flight(&self.task.pipeline.metrics, 0, 0, 0);
    }
}

/// How many records without a value have neither a row nor a rejection.
fn passed_over(records: &Records, decoded: &Decoded) -> u64 {
    if decoded.batch.len() + decoded.rejected.len() == records.len() {
        return 0;
    }
    let tombstones = (0..records.len()).filter(|row| records.value(*row).is_none()).count();
    let refused =
        decoded.rejected.iter().filter(|r| records.value(r.source_row as usize).is_none()).count();
    (tombstones - refused) as u64
}

/// Waits that grow to five seconds.
pub struct Backoff(Duration);

impl Backoff {
    pub fn new() -> Self {
        Self(Duration::from_millis(20))
    }

    pub async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(Duration::from_secs(5));
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}
