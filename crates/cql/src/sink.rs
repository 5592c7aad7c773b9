//! Rows into a table, by prepared statements.
//!
//! ```text
//!  batch ─► statements ─► rounds: no key twice ─► units: one partition each ─► requests, some at a time
//!           a bad row is    equal key and time:                                  retried; a unit that is
//!           refused         the later row wins                                    refused is split
//! ```
//!
//! A batch's `write` ends when all of it is stored: then it is durable as the consistency says. A key
//! is never written twice at a time, and the driver stamps each request later than the one before.

use crate::cluster::{Cluster, Execution};
use crate::encode::{Encoded, Layout, Marker, Statement, micros_of};
use crate::error;
use crate::lookup::{Table, quoted};
use crate::pace::{Pace, Turn};
use crate::prepared::Prepared;
use crate::write::Writer;
use arrow_schema::{DataType, Schema};
use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use millstream_core::{Batch, Disposition, Error, Receipt, Result, Sink};
use scylla::statement::SerialConsistency;
use scylla::statement::batch::{Batch as CqlBatch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Insert,
    /// What is there already stays as it is.
    InsertIfNotExists(SerialConsistency),
    Update,
    Delete,
}

/// What a null in a row does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nulls {
    /// The column keeps what it has.
    Unset,
    /// It is deleted, which leaves a tombstone.
    Delete,
}

/// How long a row lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ttl {
    /// As the table says.
    Table,
    Seconds(u32),
    /// A column with seconds.
    Column(String),
}

#[derive(Debug, Clone)]
pub struct CqlSinkOptions {
    pub keyspace: String,
    pub table: String,
    pub operation: Operation,
    /// Columns of the rows and of the table; those of the same name unless given.
    pub columns: Option<Vec<(String, String)>>,
    pub ttl: Ttl,
    /// The column with the time of the write.
    pub timestamp: Option<String>,
    pub nulls: Nulls,
    /// Rows of one partition in one request.
    pub batch_rows: usize,
    pub batch_bytes: usize,
    /// Requests under way at most, of all partitions together.
    pub concurrency: usize,
    /// How often a request is tried again before its batch is.
    pub retries: u32,
    pub execution: Execution,
}

/// A table bound to the columns of the rows; gives each partition task its sink.
pub struct CqlTable {
    cluster: Arc<Cluster>,
    options: CqlSinkOptions,
    layout: Layout,
    prepared: Prepared,
    pace: Pace,
    /// Whether a request may be sent twice.
    idempotent: bool,
}

impl CqlTable {
    /// The error of a wrong mapping is a sentence for the user.
    pub async fn open(
        cluster: Arc<Cluster>,
        options: CqlSinkOptions,
        rows: &Schema,
    ) -> Result<Arc<CqlTable>> {
        let table = Table::of(&cluster, &options.keyspace, &options.table)?;
        let plan = Plan::new(&table, &options, rows);
        let (statement, layout) = plan.map_err(|why| Error::stop("sink", why))?;
        let counters = layout.operation == Operation::Update && table.has_counters();
        let serial = match options.operation {
            Operation::InsertIfNotExists(serial) => Some(serial),
            _ => None,
        };
        let idempotent = !counters && serial.is_none();
        let what = format!("writing {}.{}", options.keyspace, options.table);
        let set = move |prepared: &mut PreparedStatement| {
            prepared.set_is_idempotent(idempotent);
            if let Some(serial) = serial {
                prepared.set_serial_consistency(Some(serial));
            }
        };
        let prepared = Prepared::new(&cluster, statement, what, &options.execution, set).await?;
        let pace = Pace::new(options.concurrency);
        Ok(Arc::new(CqlTable { cluster, options, layout, prepared, pace, idempotent }))
    }

    pub fn sink(self: &Arc<Self>) -> Box<dyn Sink> {
        Box::new(CqlSink(self.clone()))
    }

    /// How many requests may be under way now.
    pub fn requests_at_once(&self) -> usize {
        self.pace.limit()
    }

    fn what(&self) -> String {
        format!("writing {}.{}", self.options.keyspace, self.options.table)
    }

    /// Sends all rounds; after an error nothing of them is under way any more.
    async fn send(&self, mut encoded: Encoded) -> Result<Sent> {
        self.prepared.look_again().await?;
        let mut sent = Sent { rejected: std::mem::take(&mut encoded.rejected), rows: 0, bytes: 0 };
        let encoded = &encoded;
        for round in &encoded.rounds {
            let (rows_max, bytes_max) = (self.options.batch_rows, self.options.batch_bytes);
            let units = self.layout.units(encoded, round, rows_max, bytes_max);
            sent.rows += round.iter().map(|statement| statement.rows().len() as u64).sum::<u64>();
            sent.bytes += round.iter().map(|statement| statement.bytes() as u64).sum::<u64>();
            let mut units = units.into_iter().peekable();
            let mut stored = FuturesUnordered::new();
            let mut line = std::pin::pin!(self.pace.line().fuse());
            let mut place = None;
            // Every answer is awaited: nothing of a batch is under way when it is given again.
            let mut failed = None;
            loop {
                // A request comes to be only when it may be sent.
                while place.is_some()
                    && units.peek().is_some()
                    && let Some(turn) = self.pace.try_turn()
                    && let Some(unit) = units.next()
                {
                    stored.push(self.store(encoded, round, unit, turn));
                }
                let more = units.peek().is_some();
                if !more {
                    place = None;
                }
                let answer = tokio::select! {
                    biased;
                    Some(answer) = stored.next() => answer,
                    now = &mut line, if more && place.is_none() => {
                        place = Some(now);
                        continue;
                    }
                    turn = self.pace.turn(), if place.is_some() => {
                        if let Some(unit) = units.next() {
                            stored.push(self.store(encoded, round, unit, turn));
                        }
                        continue;
                    }
                    else => break,
                };
                match answer {
                    Ok(refused) => {
                        sent.rows -= refused.len() as u64;
                        sent.rejected.extend(refused);
                    }
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(sent)
    }

    /// Stores these statements; what the store refuses is told row by row.
    async fn store(
        &self,
        encoded: &Encoded,
        round: &[Statement],
        unit: Vec<usize>,
        turn: Turn<'_>,
    ) -> Result<Vec<(u32, String)>> {
        let refused = match self.patiently(encoded, round, &unit, turn).await {
            Ok(()) => return Ok(Vec::new()),
            Err(error) if error.disposition() == Disposition::Reject => error,
            Err(error) => return Err(error),
        };
        if let [alone] = unit[..] {
            let why = refused.chain();
            return Ok(round[alone].rows().map(|row| (row, why.clone())).collect());
        }
        self.halves(encoded, round, unit).await
    }

    fn halves<'a>(
        &'a self,
        encoded: &'a Encoded,
        round: &'a [Statement],
        unit: Vec<usize>,
    ) -> BoxFuture<'a, Result<Vec<(u32, String)>>> {
        async move {
            let (first, second) = unit.split_at(unit.len() / 2);
            let turn = self.pace.turn().await;
            let mut rejected = self.store(encoded, round, first.to_vec(), turn).await?;
            let turn = self.pace.turn().await;
            rejected.extend(self.store(encoded, round, second.to_vec(), turn).await?);
            Ok(rejected)
        }
        .boxed()
    }

    /// Tries again what may come right by itself.
    async fn patiently(
        &self,
        encoded: &Encoded,
        round: &[Statement],
        unit: &[usize],
        mut turn: Turn<'_>,
    ) -> Result<()> {
        let mut left = self.options.retries;
        loop {
            let error = match self.request(encoded, round, unit).await {
                Ok(()) => {
                    turn.went_well();
                    return Ok(());
                }
                Err(error) => error,
            };
            if matches!(error.kind(), "overloaded" | "timeout" | "unavailable") {
                self.pace.slow_down();
            }
            if matches!(error.kind(), "no_table" | "unprepared") {
                // One that was made again needs another statement.
                self.prepared.forget();
            }
            if error.disposition() == Disposition::Reject {
                // Perhaps it is the table that is wrong, not the row.
                self.prepared.look_now().await?;
            }
            if error.disposition() != Disposition::Retry || left == 0 {
                return Err(error);
            }
            // Who pauses keeps its turn: the store has trouble.
            let done = self.options.retries - left;
            tokio::time::sleep(pause(done)).await;
            left -= 1;
            drop(turn);
            turn = self.pace.turn().await;
        }
    }

    async fn request(&self, encoded: &Encoded, round: &[Statement], unit: &[usize]) -> Result<()> {
        let prepared = self.prepared.get().await?;
        let session = &self.cluster.session;
        let sent = if let [alone] = unit {
            session.execute_unpaged(&prepared, encoded.values(&round[*alone])).await
        } else {
            let mut batch = CqlBatch::new(BatchType::Unlogged);
            batch.set_is_idempotent(self.idempotent);
            batch.set_execution_profile_handle(prepared.get_execution_profile_handle().cloned());
            for _ in unit {
                batch.append_statement(PreparedStatement::clone(&prepared));
            }
            let values: Vec<_> = unit.iter().map(|at| encoded.values(&round[*at])).collect();
            session.batch(&batch, values).await
        };
        sent.map(drop).map_err(|error| error::of_execution(error, &self.what()))
    }
}

/// Longer after each attempt.
pub(crate) fn pause(attempts: u32) -> Duration {
    Duration::from_millis(20 << attempts.min(6)).min(Duration::from_secs(1))
}

struct CqlSink(Arc<CqlTable>);

#[async_trait]
impl Sink for CqlSink {
    async fn write(&mut self, batch: &Batch) -> Result<Receipt> {
        let table = self.0.clone();
        let encoded = table.layout.encode(&batch.rows);
        // Sent where the driver's tasks run: else each answer would wake another thread. Hundreds of
        // requests are one task here: one that may go on only for so long polls most of them for nothing.
        let io = table.cluster.io.clone();
        let mut sending =
            Sending(io.spawn(tokio::task::unconstrained(async move { table.send(encoded).await })));
        let mut sent = match (&mut sending.0).await {
            Ok(sent) => sent?,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(ended) => return Err(Error::retry("cql", self.0.what()).because(ended)),
            },
        };
        sent.rejected.sort_unstable_by_key(|(row, _)| *row);
        let Sent { rejected, rows, bytes } = sent;
        Ok(Receipt { rejected, rows, bytes, durable: async { Ok(()) }.boxed() })
    }
}

/// A batch that is being sent, for as long as somebody waits for it.
struct Sending(JoinHandle<Result<Sent>>);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Sent {
    rejected: Vec<(u32, String)>,
    rows: u64,
    bytes: u64,
}

/// The statement's text, and where its values come from.
struct Plan;

impl Plan {
    #[expect(clippy::new_ret_no_self, reason = "it makes the two parts of a plan")]
    fn new(
        table: &Table,
        options: &CqlSinkOptions,
        rows: &Schema,
    ) -> Result<(String, Layout), String> {
        let named = format!("{}.{}", table.keyspace, table.name);
        let aside = |name: &str| {
            options.timestamp.as_deref() == Some(name)
                || matches!(&options.ttl, Ttl::Column(column) if column == name)
        };
        let columns: Vec<(String, String)> = match &options.columns {
            Some(columns) => columns.clone(),
            // What only says how to write need not be a column of the table.
            None => rows
                .fields()
                .iter()
                .map(|field| field.name())
                .filter(|name| !aside(name) || table.column(name).is_ok())
                .map(|name| (name.clone(), name.clone()))
                .collect(),
        };
        let place = |name: &str| {
            rows.index_of(name).map_err(|_| format!("the rows have no column `{name}`"))
        };
        let mut bound = Vec::new();
        for (from, to) in &columns {
            let cql = table.column(to)?;
            let column = place(from)?;
            let writer = Writer::new(rows.field(column).data_type(), cql)
                .map_err(|why| format!("column `{to}`: {why}"))?;
            if bound.iter().any(|(name, _, _)| *name == to) {
                return Err(format!("`{to}` is written twice"));
            }
            bound.push((to, column, writer));
        }
        let key: Vec<&String> = table.partition_key.iter().chain(&table.clustering).collect();
        let missing = key.iter().find(|name| !bound.iter().any(|(to, ..)| *to == **name));
        if let Some(missing) = missing {
            return Err(format!(
                "the key of `{named}` is {}: the rows have no `{missing}`",
                key.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
            ));
        }
        let values: Vec<_> =
            bound.iter().map(|(to, ..)| *to).filter(|to| !key.contains(to)).collect();
        let conditional = matches!(options.operation, Operation::InsertIfNotExists(_));
        if conditional && options.timestamp.is_some() {
            return Err("`if_not_exists` and `timestamp` cannot be together in CQL".into());
        }
        let mut using = Vec::new();
        let mut extra = Vec::new();
        match &options.ttl {
            Ttl::Column(name) if options.operation != Operation::Delete => {
                let column = place(name)?;
                let data_type = rows.field(column).data_type();
                if !matches!(data_type, DataType::Int32 | DataType::Int64) {
                    let is = millstream_core::types::name(data_type);
                    return Err(format!("`{name}` is {is}: a TTL is a number of seconds"));
                }
                using.push("TTL ?".to_owned());
                extra.push(Marker::Ttl(column));
            }
            Ttl::Seconds(seconds) if options.operation != Operation::Delete => {
                using.push(format!("TTL {seconds}"));
            }
            _ => {}
        }
        let mut stamped = None;
        if let Some(name) = &options.timestamp {
            let column = place(name)?;
            let data_type = rows.field(column).data_type();
            let scale = micros_of(data_type).ok_or_else(|| {
                let is = millstream_core::types::name(data_type);
                format!("`{name}` is {is}: the time of a write is a timestamp or microseconds")
            })?;
            using.push("TIMESTAMP ?".to_owned());
            stamped = Some(extra.len());
            extra.push(Marker::Timestamp(column, scale));
        }
        let using = match using.is_empty() {
            true => String::new(),
            false => format!(" USING {}", using.join(" AND ")),
        };
        let target = format!("{}.{}", quoted(&table.keyspace), quoted(&table.name));
        let by_key = key.iter().map(|name| format!("{} = ?", quoted(name))).collect::<Vec<_>>();
        let by_key = by_key.join(" AND ");
        let set = values.iter().map(|name| {
            let quoted = quoted(name);
            match table.is_counter(name) {
                true => format!("{quoted} = {quoted} + ?"),
                false => format!("{quoted} = ?"),
            }
        });
        // The order of the markers: what follows USING stands last in INSERT, first elsewhere.
        let (text, order): (String, Vec<&String>) = match options.operation {
            Operation::Insert | Operation::InsertIfNotExists(_) => {
                let order: Vec<_> = key.iter().copied().chain(values.iter().copied()).collect();
                let names = order.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
                let marks = vec!["?"; order.len()].join(", ");
                let condition = if conditional { " IF NOT EXISTS" } else { "" };
                let text =
                    format!("INSERT INTO {target} ({names}) VALUES ({marks}){condition}{using}");
                (text, order)
            }
            Operation::Update if values.is_empty() => {
                return Err(format!("there is nothing to update in `{named}` beside its key"));
            }
            Operation::Update => {
                let set = set.collect::<Vec<_>>().join(", ");
                let order = values.iter().copied().chain(key.iter().copied()).collect();
                (format!("UPDATE {target}{using} SET {set} WHERE {by_key}"), order)
            }
            Operation::Delete => {
                (format!("DELETE FROM {target}{using} WHERE {by_key}"), key.clone())
            }
        };
        let is_insert =
            matches!(options.operation, Operation::Insert | Operation::InsertIfNotExists(_));
        let mut markers = Vec::new();
        let before = if is_insert { 0 } else { extra.len() };
        let mut place_of = std::collections::BTreeMap::new();
        for (at, name) in order.iter().enumerate() {
            let found = bound.iter().position(|(to, ..)| to == name);
            let (_, column, writer) = bound.swap_remove(found.ok_or("a column is bound once")?);
            place_of.insert((*name).clone(), before + at);
            markers.push(Marker::Column { column, writer, is_key: key.contains(name) });
        }
        let timestamp = stamped.map(|at| if is_insert { markers.len() + at } else { at });
        match is_insert {
            true => markers.extend(extra),
            false => drop(markers.splice(0..0, extra)),
        }
        // The key's markers stand side by side in every statement, the partition's first.
        let first = key.first().and_then(|name| place_of.get(*name)).copied().unwrap_or(0);
        let layout = Layout {
            markers,
            partition: first..first + table.partition_key.len(),
            key: first..first + key.len(),
            timestamp,
            nulls: options.nulls,
            operation: options.operation,
        };
        Ok((text, layout))
    }
}
