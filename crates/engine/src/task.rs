//! The partition task: the one loop that owns a source partition from fetch to commit.
//!
//! ```text
//!  fetch ─► decode ─► working: look-ups and SQL, in order ─► sinks ─► outstanding: durable? ─► commit
//!             inline      bounded in batches and bytes        in order       in order
//! ```
//!
//! Everything runs in this task; nothing is handed to another but I/O.

use crate::brake::Brake;
use crate::commit::Owner;
use crate::dead_letters::{LetterWriter, Verdict};
use crate::flow::Flowed;
use crate::metrics::Timer;
use crate::pipeline::Pipeline;
use crate::status::{PartitionState, PartitionStatus};
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use millstream_connectors::file::OVERSIZED_HEADER;
use millstream_core::{
    Ack, Batch, Checkpoint, Counts, Decoder, Disposition, Error, PartitionReader, Place, Receipt,
    Records, Rejection, Result, Run, Sink, Start, fault,
};
use std::collections::{BTreeMap, HashSet};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A task gives way to others at least this often.
const YIELD_EVERY: Duration = Duration::from_millis(2);

/// How long a task that failed waits for what it had written before.
const SETTLE_FOR: Duration = Duration::from_secs(5);

/// Seeded bugs that commit a batch before it is done.
const EARLY: [&str; 3] = ["commit_before_ack", "ack_after_one_sink", "commit_before_dead_letter"];

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
}

pub struct Task<'a> {
    pub pipeline: &'a Arc<Pipeline>,
    pub partition: u32,
    pub status: &'a Arc<PartitionStatus>,
    pub suspects: &'a mut Suspects,
    pub stop: CancellationToken,
    pub brake: &'a mut Brake,
}

/// A batch that was fetched and decoded, on its way.
struct Working {
    batch: InFlight,
    flowed: Flowed,
}

struct InFlight {
    records: Arc<Records>,
    run: Run,
    since: Instant,
}

struct Settled {
    batch: InFlight,
    counts: Counts,
}

/// The task's state while it runs.
struct Loop<'a> {
    task: Task<'a>,
    decoder: Box<dyn Decoder>,
    sinks: Vec<Box<dyn Sink>>,
    letters: LetterWriter,
    checkpoint: Checkpoint,
    rows_in_flight: usize,
    bytes_in_flight: usize,
    working: FuturesOrdered<BoxFuture<'a, Result<Working>>>,
    outstanding: FuturesOrdered<BoxFuture<'static, Result<Settled>>>,
    /// A batch that was written turned out not to be durable: nothing after it may be counted.
    lost: bool,
}

impl<'a> Task<'a> {
    /// Runs from the partition's last commit until the source ends, the token stops it, or
    /// something fails. After an error nothing that was in flight is acknowledged.
    pub async fn run(self) -> Result<End> {
        let pipeline = self.pipeline;
        // What an earlier task of this partition has offered counts.
        pipeline.committer.flush().await;
        let from = match pipeline.start_of(self.partition) {
            Start::Offset(offset) => offset,
            Start::Earliest => pipeline.source.offset_of(self.partition, Place::Earliest).await?,
            Start::Latest => self.begin_at_latest().await?,
        };
        let mut reader = pipeline.source.reader(self.partition, Start::Offset(from)).await?;
        self.status.begin(from);
        self.brake.back_to(from);
        let sinks = pipeline.sinks.iter().map(|sink| (sink.open)()).collect::<Result<Vec<_>>>()?;
        let mut state = Loop {
            decoder: (pipeline.decoder)()?,
            letters: pipeline.letter_writer(self.partition),
            task: self,
            sinks,
            checkpoint: Checkpoint::new(from),
            rows_in_flight: 0,
            bytes_in_flight: 0,
            working: FuturesOrdered::new(),
            outstanding: FuturesOrdered::new(),
            lost: false,
        };
        let ended = state.run(reader.as_mut()).await;
        if ended.is_err() {
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
            Owner { pipeline: pipeline.name.clone(), partition: self.partition },
            upto,
            pipeline.source_topic.clone(),
            self.status.metrics.clone(),
            pipeline.metrics.clone(),
        );
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
            let room = self.has_room();
            let had_more = reader.end_offset() > self.task.status.position();
            let fetch = Instant::now();
            let status = self.task.status;
            let mut next = reader.next();
            let fetched = poll_fn(move |context| {
                let fetched = next.as_mut().poll(context);
                status.waits(fetched.is_pending());
                fetched
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
                records = fetched, if reading && room => match records? {
                    Some(records) => {
                        if had_more {
                            pipeline.metrics.fetch.observe(fetch.elapsed().as_secs_f64());
                        }
                        self.accept(records).await?;
                    }
                    None => {
                        reading = false;
                        finished = true;
                    }
                },
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
        in_flight < limits.in_flight_batches && self.bytes_in_flight < limits.in_flight_bytes
    }

    fn is_careful(&self) -> bool {
        self.task.status.position() < self.task.suspects.careful_upto
    }

    /// Takes fetched records in: all together, or one by one where a panic is being looked for.
    async fn accept(&mut self, records: Records) -> Result<()> {
        self.task.pipeline.metrics.rows_skipped.inc_by(records.skipped());
        if !self.is_careful() {
            return self.decode(records).await;
        }
        for row in 0..records.len() {
            let record = records.slice_rows(row, row + 1);
            match self.task.suspects.condemned.get(&records.offset(row)) {
                Some(panic) => {
                    let reason = format!("processing it panics: {panic}");
                    self.condemn(record, reason);
                }
                None => self.decode(record).await?,
            }
            while let Some(worked) = self.working.next().await {
                self.write(worked?).await?;
            }
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
        self.bytes_in_flight += records.bytes();
        self.suspect(&records);
        InFlight { records, run, since: Instant::now() }
    }

    /// Sends one record to the dead letters without touching it.
    fn condemn(&mut self, record: Records, reason: String) {
        let pipeline: &'a Arc<Pipeline> = self.task.pipeline;
        let batch = self.open(record);
        let step = pipeline.decode_step.clone();
        let verdicts = vec![Verdict { source_row: 0, step, kind: "panic", reason }];
        self.working.push_back(Box::pin(async move {
            Ok(Working { batch, flowed: Flowed { outputs: Vec::new(), verdicts } })
        }));
    }

    /// Decodes records and sets them on their way.
    async fn decode(&mut self, records: Records) -> Result<()> {
        let pipeline: &'a Arc<Pipeline> = self.task.pipeline;
        let batch = self.open(records);
        let records = batch.records.clone();
        fault::panic_on(|| records.iter().filter_map(|r| r.value));

        self.prepare(&records).await?;
        let timer = Timer::start(&pipeline.metrics.decode);
        let mut decoded = self.decoder.decode(&records)?;
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
        let input = pipeline.positions.add(decoded.batch, &records, self.task.partition)?;
        timer.stop();

        let mut verdicts: Vec<Verdict> = decoded
            .rejected
            .into_iter()
            .map(|r| Verdict {
                source_row: r.source_row,
                step: pipeline.decode_step.clone(),
                kind: r.kind,
                reason: r.reason,
            })
            .collect();
        let (first, next) = (records.first_offset().unwrap_or(-1), records.next_offset());
        let current = self.task.suspects.current.clone();
        let mut work = Box::pin(async move {
            let _permit = pipeline.permit().await;
            let mut flowed = pipeline.flow.run(input, &pipeline.metrics).await?;
            verdicts.append(&mut flowed.verdicts);
            flowed.verdicts = verdicts;
            Ok(Working { batch, flowed })
        });
        // Several batches take turns here: a panic must be known by the one whose turn it is.
        self.working.push_back(Box::pin(poll_fn(move |context| {
            current.set(first, next);
            work.as_mut().poll(context)
        })));
        Ok(())
    }

    /// Fetches what decoding needs, waiting while the registry cannot be asked.
    async fn prepare(&mut self, records: &Records) -> Result<()> {
        let pipeline = self.task.pipeline;
        let mut backoff = Backoff::new();
        loop {
            match self.decoder.prepare(records).await {
                Err(error) if error.disposition() == Disposition::Retry => {
                    pipeline.metrics.retry(&pipeline.decode_step, error.kind());
                    pipeline.waits.set("schema registry", &error.chain());
                    backoff.wait().await;
                }
                other => {
                    pipeline.waits.clear("schema registry");
                    return other;
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

    /// Gives a worked batch to the sinks and the dead letters, in order.
    async fn write(&mut self, worked: Working) -> Result<()> {
        let Working { batch, flowed } = worked;
        let pipeline: &'a Arc<Pipeline> = self.task.pipeline;
        self.suspect(&batch.records);
        let (ack, settlement) = Ack::open(batch.records.len());
        let mut verdicts = flowed.verdicts;
        let mut receipts = Vec::new();
        let rows_in = batch.records.len() as u64;
        self.commit_early_if("commit_before_ack", batch.run).await;
        self.task.brake.check(rows_in, dead_rows(&verdicts)).map_err(braked)?;
        for (at, rows) in flowed.outputs.iter().enumerate() {
            if rows.is_empty() {
                continue;
            }
            let timer = Timer::start(&pipeline.metrics.sink);
            let sink = &pipeline.sinks[at];
            for (rows, written) in self.write_to(at, rows.clone()).await? {
                match written {
                    Ok(receipt) => {
                        let mut refused = HashSet::new();
                        for (row, reason) in receipt.rejected {
                            refused.insert(row);
                            verdicts.push(Verdict {
                                source_row: rows.origin.of(row as usize),
                                step: sink.name.clone(),
                                kind: "unencodable",
                                reason,
                            });
                        }
                        ack.written(
                            (0..rows.len() as u32)
                                .filter(|row| refused.is_empty() || !refused.contains(row))
                                .map(|row| rows.origin.of(row as usize)),
                        );
                        sink.rows.inc_by(receipt.rows);
                        sink.bytes.inc_by(receipt.bytes);
                        receipts.push((receipt.durable, ack.share()));
                    }
                    Err(error) => {
                        let reason = error.chain();
                        verdicts.extend(rows.origin.iter().map(|source_row| Verdict {
                            source_row,
                            step: sink.name.clone(),
                            kind: error.kind(),
                            reason: reason.clone(),
                        }));
                    }
                }
            }
            timer.stop();
            if at == 0 {
                self.commit_early_if("ack_after_one_sink", batch.run).await;
            }
            fault::point("engine.sink_written");
        }
        // Rows that a sink has refused count too.
        let next = batch.records.next_offset();
        self.task.brake.admit(next, rows_in, dead_rows(&verdicts)).map_err(braked)?;
        if !verdicts.is_empty() {
            self.commit_early_if("commit_before_dead_letter", batch.run).await;
            fault::point("dead_letters.due");
        }
        let letters = self.write_letters(&batch.records, &mut verdicts, &ack).await?;
        self.outstanding.push_back(Box::pin(async move {
            for (durable, share) in receipts {
                durable.await?;
                share.done();
            }
            if let Some(letters) = letters {
                letters.await?;
            }
            ack.done();
            let counts = settlement.wait().await.ok_or_else(|| {
                Error::retry("lost", "a share of the acknowledgement was dropped")
            })?;
            Ok(Settled { batch, counts })
        }));
        Ok(())
    }

    async fn write_letters(
        &mut self,
        records: &Records,
        verdicts: &mut Vec<Verdict>,
        ack: &Ack,
    ) -> Result<Option<BoxFuture<'static, Result<()>>>> {
        if verdicts.is_empty() || fault::bug("drop_rejected_row") {
            return Ok(None);
        }
        // One letter a source row: its first reason.
        verdicts.sort_by_key(|v| v.source_row);
        verdicts.dedup_by_key(|v| v.source_row);
        ack.rejected(verdicts.iter().map(|v| v.source_row));
        let mut backoff = Backoff::new();
        loop {
            match self.letters.append(records, verdicts) {
                Ok(durable) => {
                    self.task.pipeline.waits.clear("dead letters");
                    return Ok(Some(durable));
                }
                Err(error) if error.disposition() == Disposition::Retry => {
                    self.task.pipeline.metrics.retry("dead_letters", error.kind());
                    self.task.pipeline.waits.set("dead letters", &error.chain());
                    backoff.wait().await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes to one sink, holding the partition while it cannot take rows now. A batch that it
    /// refuses is halved until the rows to blame stand alone; the parts come in the rows' order.
    async fn write_to(&mut self, at: usize, rows: Batch) -> Result<Vec<(Batch, Result<Receipt>)>> {
        let pipeline = self.task.pipeline;
        let name = &pipeline.sinks[at].name;
        let mut parts = Vec::new();
        let mut due = vec![rows];
        let mut backoff = Backoff::new();
        while let Some(rows) = due.pop() {
            match self.sinks[at].write(&rows).await {
                Err(error) if error.disposition() == Disposition::Retry => {
                    pipeline.metrics.retry(name, error.kind());
                    pipeline.waits.set(name, &format!("{name}: {}", error.chain()));
                    due.push(rows);
                    self.settle_while(backoff.wait()).await?;
                }
                Err(error) if error.disposition() == Disposition::Reject && rows.len() > 1 => {
                    let half = rows.len() / 2;
                    due.push(rows.slice(half, rows.len() - half));
                    due.push(rows.slice(0, half));
                }
                Err(error) if error.disposition() == Disposition::Stop => {
                    pipeline.metrics.error(name, error.kind(), 1);
                    return Err(error);
                }
                ended => {
                    pipeline.waits.clear(name);
                    backoff = Backoff::new();
                    parts.push((rows, ended));
                }
            }
        }
        Ok(parts)
    }

    /// Waits, and settles meanwhile what was written before.
    async fn settle_while(&mut self, wait: impl Future<Output = ()>) -> Result<()> {
        let mut wait = std::pin::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => return Ok(()),
                Some(settled) = self.outstanding.next() => self.settle(settled)?,
            }
        }
    }

    /// After an error: what was written before it need not be written again.
    async fn settle_what_was_written(&mut self) {
        let settled = async {
            while !self.lost
                && let Some(settled) = self.outstanding.next().await
            {
                if self.settle(settled).is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(SETTLE_FOR, settled).await;
    }

    /// A batch is done everywhere: counts it and moves the commit over what is contiguous.
    fn settle(&mut self, settled: Result<Settled>) -> Result<()> {
        let Settled { batch, counts } = settled.inspect_err(|_| self.lost = true)?;
        let metrics = &self.task.pipeline.metrics;
        metrics.rows_in.inc_by(counts.rows);
        metrics.rows_out.inc_by(counts.out);
        metrics.rows_filtered.inc_by(counts.filtered);
        metrics.rows_dead.inc_by(counts.dead);
        metrics.end_to_end.observe(batch.since.elapsed().as_secs_f64());
        self.rows_in_flight -= batch.records.len();
        self.bytes_in_flight -= batch.records.bytes();
        fault::point("engine.settled");
        let committed_early = EARLY.iter().any(|bug| fault::bug(bug));
        if !committed_early && self.checkpoint.finish(batch.run) {
            self.commit();
        }
        Ok(())
    }

    fn commit(&self) {
        let upto = self.checkpoint.upto();
        self.task.status.committed(upto);
        self.task.offer(upto);
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
        status.in_flight(metrics, batches, self.rows_in_flight, self.bytes_in_flight);
    }

    fn forget_in_flight(&self) {
        self.task.status.in_flight(&self.task.pipeline.metrics, 0, 0, 0);
    }

    /// Only a seeded bug does this.
    async fn commit_early_if(&mut self, bug: &str, run: Run) {
        if fault::bug(bug) {
            self.checkpoint.finish(run);
            self.commit();
            self.task.pipeline.committer.flush().await;
        }
    }

    /// Only a seeded bug does this.
    fn acknowledge_everything(&mut self) {
        self.checkpoint = Checkpoint::new(self.task.status.position());
        self.commit();
    }
}

/// How many source rows the verdicts are about.
fn dead_rows(verdicts: &[Verdict]) -> u64 {
    match verdicts {
        [] => 0,
        [_] => 1,
        many => many.iter().map(|v| v.source_row).collect::<HashSet<_>>().len() as u64,
    }
}

fn braked(reason: String) -> Error {
    Error::stop("max_dead_ratio", reason)
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
