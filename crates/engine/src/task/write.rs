//! The second half of a partition task: a worked batch into the sinks and the dead letters, and what
//! happens when all of it is durable.

use super::{Backoff, HELD_UP_AFTER, Loop, Settled, Working};
use crate::dead_letters::Verdict;
use crate::metrics::Timer;
use crate::pipeline::Pipeline;
use futures::StreamExt;
use futures::future::{BoxFuture, try_join_all};
use millstream_core::{
    Ack, Batch, Checkpoint, Disposition, Error, Receipt, Records, Rejection, Result, Run, fault,
};
use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a task that failed waits for what it had written before.
const SETTLE_FOR: Duration = Duration::from_secs(5);

/// Seeded bugs that commit a batch before it is done.
const EARLY: [&str; 3] = ["commit_before_ack", "ack_after_one_sink", "commit_before_dead_letter"];

impl<'a> Loop<'a> {
    /// Gives a worked batch to the sinks and the dead letters, in order.
    pub(super) async fn write(&mut self, worked: Working) -> Result<()> {
        let Working { batch, flowed, ticket } = worked;
        let pipeline: &'a Arc<Pipeline> = self.task.pipeline;
        self.suspect(&batch.records);
        let (ack, settlement) = Ack::open(batch.records.len());
        let mut verdicts = flowed.verdicts;
        let mut receipts = Vec::new();
        let rows_in = batch.records.len() as u64;
        self.commit_early_if("commit_before_ack", batch.run).await;
        self.held_up = false;
        let checked = self.task.brake.check(rows_in, dead_rows(&verdicts));
        checked.map_err(|why| braked(&why, &verdicts))?;
        let dead: Vec<Rejection> = verdicts.iter().map(Rejection::from).collect();
        for sink in &mut self.sinks {
            sink.stems_from(&batch.records, &dead);
        }
        for (at, rows) in flowed.outputs.iter().enumerate() {
            if rows.is_empty() {
                continue;
            }
            let since = Instant::now();
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
                        let (seconds, share) = (sink.seconds.clone(), ack.share());
                        receipts.push(async move {
                            receipt.durable.await?;
                            seconds.observe(since.elapsed().as_secs_f64());
                            share.done();
                            Ok::<_, Error>(())
                        });
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
            self.held_up |= since.elapsed() >= HELD_UP_AFTER;
            if at == 0 {
                self.commit_early_if("ack_after_one_sink", batch.run).await;
            }
            fault::point("engine.sink_written");
        }
        // Rows that a sink has refused count too.
        let next = batch.records.next_offset();
        let admitted = self.task.brake.admit(next, rows_in, dead_rows(&verdicts));
        admitted.map_err(|why| braked(&why, &verdicts))?;
        if !verdicts.is_empty() {
            self.commit_early_if("commit_before_dead_letter", batch.run).await;
            fault::point("dead_letters.due");
        }
        let letters = self.write_letters(&batch.records, &mut verdicts, &ack).await?;
        self.outstanding.push_back(Box::pin(async move {
            try_join_all(receipts).await?;
            if let Some(letters) = letters {
                letters.await?;
            }
            ack.done();
            let counts = settlement.wait().await.ok_or_else(|| {
                Error::retry("lost", "a share of the acknowledgement was dropped")
            })?;
            Ok(Settled { batch, counts, ticket })
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
        let pipeline: &'a Arc<Pipeline> = self.task.pipeline;
        let mut waiting = pipeline.waits.waiting("dead letters");
        loop {
            match self.letters.append(records, verdicts) {
                Ok(durable) => {
                    waiting.done();
                    return Ok(Some(durable));
                }
                Err(error) if error.disposition() == Disposition::Retry => {
                    pipeline.metrics.retry("dead_letters", error.kind());
                    waiting.set(&error.chain());
                    self.settle_while(backoff.wait()).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes to one sink, holding the partition while it cannot take rows now. A batch that it
    /// refuses is halved until the rows to blame stand alone; the parts come in the rows' order.
    async fn write_to(&mut self, at: usize, rows: Batch) -> Result<Vec<(Batch, Result<Receipt>)>> {
        let pipeline: &'a Arc<Pipeline> = self.task.pipeline;
        let name = &pipeline.sinks[at].name;
        let mut waiting = pipeline.waits.waiting(name);
        let mut parts = Vec::new();
        let mut due = vec![rows];
        let mut backoff = Backoff::new();
        while let Some(rows) = due.pop() {
            let written = {
                let (working, suspects) = (&mut self.working, &self.task.suspects);
                let mut writing = self.sinks[at].write(&rows);
                let suspect = suspects.current.clone();
                let (first, next) = suspect.get();
                // Batches that are driven meanwhile set themselves.
                let writing = poll_fn(|context| {
                    suspect.set(first, next);
                    writing.as_mut().poll(context)
                });
                tokio::select! {
                    biased;
                    written = writing => written,
                    never = working.drive() => match never {},
                }
            };
            match written {
                Err(error) if error.disposition() == Disposition::Retry => {
                    pipeline.metrics.retry(name, error.kind());
                    waiting.set(&format!("{name}: {}", error.chain()));
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
                    waiting.done();
                    backoff = Backoff::new();
                    parts.push((rows, ended));
                }
            }
        }
        Ok(parts)
    }

    /// Waits, and meanwhile settles what was written before and goes on with what comes after.
    async fn settle_while(&mut self, wait: impl Future<Output = ()>) -> Result<()> {
        let (first, next) = self.task.suspects.current.get();
        let mut wait = std::pin::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => break,
                Some(settled) = self.outstanding.next() => self.settle(settled)?,
                never = self.working.drive() => match never {},
            }
        }
        self.task.suspects.current.set(first, next);
        Ok(())
    }

    /// After an error: what was written before it need not be written again.
    pub(super) async fn settle_what_was_written(&mut self) {
        self.flush();
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
    pub(super) fn settle(&mut self, settled: Result<Settled>) -> Result<()> {
        let Settled { batch, counts, ticket } = settled.inspect_err(|_| self.lost = true)?;
        let metrics = &self.task.pipeline.metrics;
        metrics.rows_in.inc_by(counts.rows);
        metrics.rows_out.inc_by(counts.out);
        metrics.rows_filtered.inc_by(counts.filtered);
        metrics.rows_dead.inc_by(counts.dead);
        metrics.rows_tombstones.inc_by(batch.tombstones);
        metrics.end_to_end.observe(batch.since.elapsed().as_secs_f64());
        self.rows_in_flight -= batch.records.len();
        self.share.release(batch.records.bytes());
        fault::point("engine.settled");
        let committed_early = EARLY.iter().any(|bug| fault::bug(bug));
        if !committed_early && self.checkpoint.finish(batch.run) {
            self.commit();
            let upto = self.checkpoint.upto();
            self.sinks.iter_mut().for_each(|sink| sink.settled(upto));
        }
        if let Some(ticket) = ticket {
            ticket.done();
        }
        Ok(())
    }

    /// Tells the sinks that what they have is waited for.
    pub(super) fn flush(&mut self) {
        self.sinks.iter_mut().for_each(|sink| sink.flush());
    }

    fn commit(&self) {
        let upto = self.checkpoint.upto();
        self.task.status.committed(upto);
        self.task.offer(upto);
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
    pub(super) fn acknowledge_everything(&mut self) {
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

/// The reasons of dead letters may hold what rows hold: they are not for the log.
fn braked(why: &str, verdicts: &[Verdict]) -> Error {
    let last =
        verdicts.last().map(|last| format!("; the last is `{}` at {}", last.kind, last.step));
    Error::stop("max_dead_ratio", format!("{why}{}", last.unwrap_or_default()))
}
