//! The requests of a batch: sent at the table's pace, each answer awaited, tried again, and split where
//! a row is refused.

use super::{CqlSinkOptions, CqlTable, Sent};
use crate::cluster::Cluster;
use crate::direct::{Answer, Answers, Statement, Ways};
use crate::encode::{self, Encoded};
use crate::error;
use crate::pace::Turn;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use millstream_core::{Disposition, Error, Result};
use scylla::statement::batch::{Batch as CqlBatch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Larger rows might cost the connection that others are under way on.
const DIRECT_BYTES_MAX: usize = 1 << 20;

type Rejected = Vec<(u32, String)>;

/// A round of a batch that is being sent.
struct Round<'a> {
    table: &'a CqlTable,
    encoded: &'a Encoded,
    statements: &'a [encode::Statement],
    ways: Option<&'a Ways>,
    answers: Arc<Answers>,
    /// What is under way directly, by its first statement; and how many that are.
    under_way: Vec<Option<(Vec<usize>, Turn<'a>)>>,
    direct: usize,
    /// What the driver stores.
    others: FuturesUnordered<BoxFuture<'a, Result<Rejected>>>,
}

impl CqlTable {
    /// Sends all rounds; after an error nothing of them is under way any more.
    pub(super) async fn send(&self, mut encoded: Encoded) -> Result<Sent> {
        self.prepared.look_again().await?;
        let mut sent = Sent { rejected: std::mem::take(&mut encoded.rejected), rows: 0, bytes: 0 };
        let ways = self.ways().await;
        for statements in &encoded.rounds {
            let round = Round {
                table: self,
                encoded: &encoded,
                statements,
                ways: ways.as_ref(),
                answers: Arc::default(),
                under_way: statements.iter().map(|_| None).collect(),
                direct: 0,
                others: FuturesUnordered::new(),
            };
            let refused = round.send().await?;
            let rows = statements.iter().map(|statement| statement.rows().len() as u64);
            sent.rows += rows.sum::<u64>() - refused.len() as u64;
            sent.bytes += statements.iter().map(|statement| statement.bytes() as u64).sum::<u64>();
            sent.rejected.extend(refused);
        }
        Ok(sent)
    }

    /// Where statements may go directly.
    async fn ways(&self) -> Option<Ways> {
        if !self.idempotent || self.options.execution.speculative_after.is_some() {
            return None;
        }
        let prepared = self.prepared.get().await.ok()?;
        let Cluster { direct, routing, session, .. } = &*self.cluster;
        Some(Ways::new(direct.clone(), routing.clone(), session.get_cluster_state(), prepared))
    }
}

impl<'a> Round<'a> {
    /// Gives what is refused. Every answer is awaited: nothing of a batch is under way when it is
    /// given again.
    async fn send(mut self) -> Result<Rejected> {
        let CqlTable { pace, options, layout, .. } = self.table;
        let (rows_max, bytes_max) = (options.batch_rows, options.batch_bytes);
        let units = layout.units(self.encoded, self.statements, rows_max, bytes_max);
        let mut units = units.into_iter().peekable();
        let mut line = std::pin::pin!(pace.line().fuse());
        let (mut place, mut spare) = (None, None);
        let (mut rejected, mut failed) = (Vec::new(), None);
        loop {
            // A request comes to be only when it may be sent.
            let now = Instant::now();
            while place.is_some()
                && units.peek().is_some()
                && let Some(turn) = spare.take().or_else(|| pace.try_turn())
                && let Some(unit) = units.next()
            {
                self.begin(unit, turn, now);
            }
            let more = units.peek().is_some();
            if !more {
                place = None;
            }
            tokio::select! {
                biased;
                () = self.answers.some(), if self.direct > 0 => self.answered(),
                Some(stored) = self.others.next() => match stored {
                    Ok(refused) => rejected.extend(refused),
                    Err(error) => failed = Some(error),
                },
                now = &mut line, if more && place.is_none() => place = Some(now),
                turn = pace.turn(), if place.is_some() => spare = Some(turn),
                else => break,
            }
        }
        failed.map_or(Ok(rejected), Err)
    }

    fn begin(&mut self, unit: Vec<usize>, turn: Turn<'a>, now: Instant) {
        match unit[..] {
            [first, ..] if self.directly(&unit, now) => {
                self.under_way[first] = Some((unit, turn));
                self.direct += 1;
            }
            _ => self.store(unit, turn, None),
        }
    }

    /// Sends statements of one partition on a connection of ours. False: nothing was sent.
    fn directly(&self, unit: &[usize], now: Instant) -> bool {
        let (Some(ways), [first, ..]) = (self.ways, unit) else { return false };
        let (table, statement) = (self.table, |at: &usize| &self.statements[*at]);
        let bytes = unit.iter().map(|at| statement(at).bytes()).sum::<usize>();
        // What is forgotten may be of a table that was another.
        if bytes > DIRECT_BYTES_MAX || !table.prepared.is_current(&ways.prepared) {
            return false;
        }
        let CqlSinkOptions { keyspace, table: name, execution, .. } = &table.options;
        let connection = ways.connection(|state| {
            let key = self.encoded.some_values(statement(first), table.layout.partition.clone());
            state.compute_token(keyspace, name, &key).ok()
        });
        let Some(connection) = connection else { return false };
        let times = (now, now + execution.timeout);
        let what = Statement {
            id: ways.prepared.get_id(),
            consistency: execution.consistency,
            timestamp: table.cluster.direct.stamp(),
            markers: self.encoded.width(),
        };
        let values = |at: &usize| self.encoded.values(statement(at));
        connection.send(&self.answers, *first as u32, times, |stream, out| match unit {
            [alone] => what.execute(out, stream, |out| values(alone).put(out)),
            many => {
                let count = many.len();
                what.batch(out, stream, count, |at, out| values(&many[at]).put(out));
            }
        })
    }

    /// What did not end well directly the driver does again.
    fn answered(&mut self) {
        let mut stored = 0;
        for (at, answer) in self.answers.take() {
            let Some((unit, turn)) = self.under_way[at as usize].take() else { continue };
            self.direct -= 1;
            match answer {
                Answer::Stored => {
                    turn.went_well();
                    stored += 1;
                }
                answer => self.store(unit, turn, self.failed(answer)),
            }
        }
        self.table.stored_directly.fetch_add(stored, Ordering::Relaxed);
    }

    /// None where the driver may do better, with another node or another statement.
    fn failed(&self, answer: Answer) -> Option<Error> {
        match answer {
            Answer::Late => {
                let (what, patience) = (self.table.what(), self.table.options.execution.timeout);
                Some(Error::retry("timeout", format!("{what}: no answer within {patience:?}")))
            }
            Answer::Busy => {
                self.table.pace.slow_down();
                None
            }
            Answer::Stored | Answer::Refused | Answer::Lost => None,
        }
    }

    /// `failed` is how it went before, if that is known.
    fn store(&self, unit: Vec<usize>, turn: Turn<'a>, failed: Option<Error>) {
        let asking = Asking { table: self.table, encoded: self.encoded, round: self.statements };
        self.others.push(asking.store(unit, turn, failed).boxed());
    }
}

/// Requests by the driver.
#[derive(Clone, Copy)]
struct Asking<'a> {
    table: &'a CqlTable,
    encoded: &'a Encoded,
    round: &'a [encode::Statement],
}

impl<'a> Asking<'a> {
    /// Stores these statements; what the store refuses is told row by row.
    async fn store(
        self,
        unit: Vec<usize>,
        turn: Turn<'a>,
        failed: Option<Error>,
    ) -> Result<Rejected> {
        let refused = match self.patiently(&unit, turn, failed).await {
            Ok(()) => return Ok(Vec::new()),
            Err(error) if error.disposition() == Disposition::Reject => error,
            Err(error) => return Err(error),
        };
        if let [alone] = unit[..] {
            let why = refused.chain();
            return Ok(self.round[alone].rows().map(|row| (row, why.clone())).collect());
        }
        self.halves(unit).await
    }

    fn halves(self, unit: Vec<usize>) -> BoxFuture<'a, Result<Rejected>> {
        async move {
            let pace = &self.table.pace;
            let (first, second) = unit.split_at(unit.len() / 2);
            let mut rejected = self.store(first.to_vec(), pace.turn().await, None).await?;
            rejected.extend(self.store(second.to_vec(), pace.turn().await, None).await?);
            Ok(rejected)
        }
        .boxed()
    }

    /// Tries again what may come right by itself.
    async fn patiently(
        self,
        unit: &[usize],
        mut turn: Turn<'_>,
        mut failed: Option<Error>,
    ) -> Result<()> {
        let CqlTable { options, prepared, pace, .. } = self.table;
        let mut left = options.retries;
        loop {
            let error = match failed.take() {
                Some(failed) => failed,
                None => match self.request(unit).await {
                    Ok(()) => {
                        turn.went_well();
                        return Ok(());
                    }
                    Err(error) => error,
                },
            };
            if matches!(error.kind(), "overloaded" | "timeout" | "unavailable") {
                pace.slow_down();
            }
            if matches!(error.kind(), "no_table" | "unprepared") {
                // One that was made again needs another statement.
                prepared.forget();
            }
            if error.disposition() == Disposition::Reject {
                // Perhaps it is the table that is wrong, not the row.
                prepared.look_now().await?;
            }
            if error.disposition() != Disposition::Retry || left == 0 {
                return Err(error);
            }
            // Who pauses keeps its turn: the store has trouble.
            tokio::time::sleep(pause(options.retries - left)).await;
            left -= 1;
            drop(turn);
            turn = pace.turn().await;
        }
    }

    async fn request(self, unit: &[usize]) -> Result<()> {
        let CqlTable { cluster, prepared, idempotent, .. } = self.table;
        let prepared = prepared.get().await?;
        let values = |at: usize| self.encoded.values(&self.round[at]);
        let sent = if let [alone] = unit {
            cluster.session.execute_unpaged(&prepared, values(*alone)).await
        } else {
            let mut batch = CqlBatch::new(BatchType::Unlogged);
            batch.set_is_idempotent(*idempotent);
            batch.set_execution_profile_handle(prepared.get_execution_profile_handle().cloned());
            for _ in unit {
                batch.append_statement(PreparedStatement::clone(&prepared));
            }
            let values: Vec<_> = unit.iter().map(|at| values(*at)).collect();
            cluster.session.batch(&batch, values).await
        };
        sent.map(drop).map_err(|error| error::of_execution(error, &self.table.what()))
    }
}

/// Longer after each attempt.
pub(crate) fn pause(attempts: u32) -> Duration {
    Duration::from_millis(20 << attempts.min(6)).min(Duration::from_secs(1))
}
