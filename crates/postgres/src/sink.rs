//! Rows into a table, a transaction a batch.
//!
//! ```text
//!  batch ─► without what is stored ─► cells ─► BEGIN, position, rows ─► COMMIT ─► durable
//!             millstream_positions    a bad row is refused     sent, not waited for
//! ```
//!
//! While a commit is on its way the next batch is worked on; it is sent when the commit is answered,
//! so that batches of a partition are stored in their order. A commit whose answer is lost is unknown:
//! the partition goes back, and the position says whether it was made.

use crate::encode::encode;
use crate::plan::{Conflict, Mode, Operation, Plan, Wish};
use crate::positions::{Known, Ledger};
use crate::server::{Lease, Server};
use crate::session::Failure;
use crate::table::Table;
use crate::transaction::{self, Begun};
use arrow_schema::{Schema, SchemaRef};
use async_trait::async_trait;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use millstream_core::{Batch, Beginning, Disposition, Error, Receipt, Records, Rejection};
use millstream_core::{Result, Sink, fault};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// In how many transactions of a partition old dead records are forgotten once.
const TIDY_EVERY: u64 = 64;

#[derive(Debug, Clone)]
pub struct PgSinkOptions {
    pub schema: Option<String>,
    pub table: String,
    pub mode: Mode,
    pub operation: Operation,
    pub conflict: Conflict,
    /// The columns of a unique index; the primary key unless given.
    pub key: Option<Vec<String>>,
    /// Columns of the rows and of the table; those of the same name unless given.
    pub columns: Option<Vec<(String, String)>>,
    /// Keeps the source's positions beside the table: each row is stored once.
    pub positions: Option<Positions>,
}

/// Whose positions they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Positions {
    pub pipeline: String,
    pub sink: String,
}

/// A table bound to the columns of the rows; gives each partition task its sink.
pub struct PgTable {
    server: Arc<Server>,
    options: PgSinkOptions,
    rows: SchemaRef,
    plan: Mutex<Arc<Plan>>,
    ledger: Option<Ledger>,
}

impl PgSinkOptions {
    fn plan(&self, table: &Table, rows: &Schema) -> Result<Plan, String> {
        let wish = Wish {
            mode: self.mode,
            operation: self.operation,
            conflict: self.conflict,
            key: self.key.as_deref(),
            columns: self.columns.as_deref(),
        };
        Plan::new(table, &wish, rows)
    }

    /// Whether these rows can be written to the table; the error is a sentence for the user.
    pub fn check(&self, table: &Table, rows: &Schema) -> Result<(), String> {
        self.plan(table, rows).map(drop)
    }
}

impl PgTable {
    pub async fn open(
        server: Arc<Server>,
        options: PgSinkOptions,
        rows: &SchemaRef,
    ) -> Result<Arc<PgTable>> {
        let lease = server.lease().await?;
        let table = Table::described(lease.session(), options.schema.as_deref(), &options.table);
        let table = table.await?;
        let plan = options.plan(&table, rows).map_err(|why| Error::stop("sink", why))?;
        let ledger =
            options.positions.as_ref().map(|own| Ledger::new(&table, &own.pipeline, &own.sink));
        if let Some(ledger) = &ledger {
            ledger.make(lease.session()).await?;
        }
        lease.give_back();
        let plan = Mutex::new(Arc::new(plan));
        Ok(Arc::new(PgTable { server, options, rows: rows.clone(), plan, ledger }))
    }

    pub fn sink(self: &Arc<Self>) -> Box<dyn Sink> {
        Box::new(PgSink {
            table: self.clone(),
            progress: None,
            committing: None,
            lost: None,
            turn: 0,
        })
    }

    fn what(&self) -> String {
        match &self.options.schema {
            Some(schema) => format!("writing {schema}.{}", self.options.table),
            None => format!("writing {}", self.options.table),
        }
    }

    /// Looks at the table again: it is not what the statements were made for.
    async fn replan(&self, because: Error) -> Result<Error> {
        let (schema, name) = (self.options.schema.as_deref(), &self.options.table);
        let table = Table::of(&self.server, schema, name).await?;
        let plan = self.options.plan(&table, &self.rows);
        // It may become again what it was: until then rows wait.
        let plan = plan.map_err(|why| {
            let what = self.what();
            let told = format!("{what}: the table changed, mend it or start again: {why}");
            Error::retry("table_changed", told)
        })?;
        if let Some(ledger) = &self.ledger {
            let lease = self.server.lease().await?;
            ledger.make(lease.session()).await?;
            lease.give_back();
        }
        let mut known = self.plan.lock();
        if plan.is_like(&known) && because.disposition() == Disposition::Reject {
            return Err(Error::stop("sink", because.chain()));
        }
        *known = Arc::new(plan);
        // Whatever the server called it: the statements are made anew.
        Ok(Error::retry("table_changed", because.to_string()))
    }
}

/// What is stored of the task's partition.
struct Progress {
    beginning: Beginning,
    /// What the server said, and what was sent since.
    known: Option<Known>,
    /// Below this, rows were sent.
    sent: i64,
    records: Option<Arc<Records>>,
    /// Dead records that no transaction has noted yet.
    dead: BTreeMap<i64, String>,
    /// What is dead below has a letter that is durable.
    settled: i64,
}

type Committing = Shared<BoxFuture<'static, Result<(), String>>>;

struct PgSink {
    table: Arc<PgTable>,
    progress: Option<Progress>,
    committing: Option<Committing>,
    /// A commit whose outcome is unknown: nothing may be written after it.
    lost: Option<String>,
    turn: u64,
}

impl PgSink {
    /// Waits until the last commit is answered. Cancel safe.
    async fn answered(&mut self) -> Result<()> {
        if let Some(committing) = &self.committing {
            let ended = committing.clone().await;
            self.committing = None;
            self.lost = ended.err();
        }
        match &self.lost {
            Some(why) => Err(Error::retry("lost", why.clone())),
            None => Ok(()),
        }
    }

    /// Asks for the position where it is not known.
    async fn learn(&mut self) -> Result<()> {
        let (Some(ledger), Some(progress)) = (&self.table.ledger, &mut self.progress) else {
            return Ok(());
        };
        if progress.known.is_some() {
            return Ok(());
        }
        let lease = self.table.server.lease().await?;
        // They may have been dropped meanwhile.
        ledger.make(lease.session()).await?;
        let known = ledger
            .of(lease.session(), &progress.beginning, progress.sent, progress.settled)
            .await?;
        lease.give_back();
        let (from, place) = (progress.beginning.from, &progress.beginning.place);
        if known.offset < progress.sent && progress.sent > from {
            let told = format!(
                "partition {} of {} was stored up to {} and the server has it up to {}: it lost \
                 what it had confirmed; `millstream offsets reset PIPELINE` can go back",
                place.index, place.source, progress.sent, known.offset
            );
            return Err(Error::stop("position", told));
        }
        if known.offset > from && progress.sent == from {
            tracing::info!(
                "partition {} of {}: records {from} to {} are stored already and are passed over",
                place.index,
                place.source,
                known.offset - 1
            );
        }
        progress.sent = progress.sent.max(known.offset);
        progress.known = Some(known);
        Ok(())
    }

    /// Which rows of a batch are to be written, and those that were dead before.
    fn due(&self, batch: &Batch) -> (Vec<u32>, Vec<(u32, String)>) {
        let rows = 0..batch.len() as u32;
        let (Some(known), Some(records)) = (
            self.progress.as_ref().and_then(|progress| progress.known.as_ref()),
            self.progress.as_ref().and_then(|progress| progress.records.as_ref()),
        ) else {
            return (rows.collect(), Vec::new());
        };
        let mut due = Vec::with_capacity(batch.len());
        let mut dead = Vec::new();
        for row in rows {
            let offset = records.offset(batch.origin.of(row as usize) as usize);
            if offset >= known.offset || fault::bug("pg_skips_nothing") {
                due.push(row);
            } else if let Some(reason) = known.refused.get(&offset) {
                dead.push((row, reason.clone()));
            }
        }
        (due, dead)
    }

    /// The position after the records that the rows stem from, and the one before.
    fn step(&self) -> Option<(i64, i64)> {
        let progress = self.progress.as_ref()?;
        let known = progress.known.as_ref()?;
        let next = progress.records.as_ref()?.next_offset();
        Some((known.offset, next.max(known.offset)))
    }
}

#[async_trait]
impl Sink for PgSink {
    fn begin(&mut self, beginning: &Beginning) {
        if self.table.ledger.is_some() {
            self.progress = Some(Progress {
                beginning: beginning.clone(),
                known: None,
                sent: beginning.from,
                records: None,
                dead: BTreeMap::new(),
                settled: beginning.from,
            });
        }
    }

    fn stems_from(&mut self, records: &Arc<Records>, dead: &[Rejection]) {
        let Some(progress) = &mut self.progress else { return };
        let noted =
            dead.iter().map(|dead| (records.offset(dead.source_row as usize), dead.reason.clone()));
        progress.dead.extend(noted);
        progress.records = Some(records.clone());
    }

    fn settled(&mut self, upto: i64) {
        let Some(progress) = &mut self.progress else { return };
        progress.settled = upto;
        progress.dead = progress.dead.split_off(&upto);
    }

    async fn write(&mut self, batch: &Batch) -> Result<Receipt> {
        if self.lost.is_some() {
            self.answered().await?;
        }
        self.learn().await?;
        let (due, mut rejected) = self.due(batch);
        let plan = self.table.plan.lock().clone();
        let encoded = encode(&plan, &batch.rows, &due);
        rejected.extend(encoded.rejected.iter().cloned());
        self.answered().await?;
        if encoded.rows.is_empty() {
            self.note_dead(batch, &rejected);
            let durable = async { Ok(()) }.boxed();
            return Ok(Receipt { rejected, rows: 0, bytes: 0, durable });
        }
        let lease = self.table.server.lease().await?;
        let refused = match self.transact(&lease, &plan, &encoded, batch, &rejected).await {
            Ok(refused) => refused,
            Err(failed) => {
                // Closed, the connection takes everything back.
                drop(lease);
                return Err(self.failed(failed).await);
            }
        };
        let rows = (encoded.rows.len() - refused.len()) as u64;
        rejected.extend(refused);
        rejected.sort_by_key(|(row, _)| *row);
        if let Some((_, to)) = self.step()
            && let Some(progress) = &mut self.progress
        {
            progress.dead.clear();
            progress.sent = to;
            progress.known = progress.known.take().map(|known| Known { offset: to, ..known });
        }
        self.turn += 1;
        let durable = self.commit(lease);
        Ok(Receipt { rejected, rows, bytes: encoded.len() as u64, durable })
    }
}

/// Why a transaction was not made.
enum Failed {
    Server(Failure),
    /// Somebody else has moved the position.
    Moved,
    /// The table is not what the statements were made for.
    Changed,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Failed::Server(failure)
    }
}

impl PgSink {
    /// Everything of a batch's transaction but its commit; gives the rows that the server refuses.
    async fn transact(
        &mut self,
        lease: &Lease,
        plan: &Plan,
        encoded: &crate::encode::Encoded,
        batch: &Batch,
        rejected: &[(u32, String)],
    ) -> Result<Vec<(u32, String)>, Failed> {
        let session = lease.session();
        transaction::prepare_stage(session, plan).await?;
        let step = self.step();
        let first = match (&self.table.ledger, &self.progress, step) {
            (Some(ledger), Some(progress), Some((from, to))) => {
                ledger.advance(&progress.beginning, from, to)
            }
            _ => String::new(),
        };
        match transaction::begin(session, plan, &first).await? {
            Begun::Well => {}
            Begun::Moved => return Err(Failed::Moved),
            Begun::Changed => return Err(Failed::Changed),
        }
        fault::point("postgres.begun");
        let refused = transaction::store(session, plan, encoded, &self.table.what()).await?;
        self.note_dead(batch, rejected);
        self.note_dead(batch, &refused);
        if let (Some(ledger), Some(progress)) = (&self.table.ledger, &self.progress)
            && !fault::bug("pg_forgets_dead")
        {
            ledger.refuse(session, &progress.beginning, &progress.dead).await?;
            if self.turn.is_multiple_of(TIDY_EVERY) {
                let forget = ledger.forget(&progress.beginning, progress.settled);
                session.script(&forget).await?;
            }
        }
        fault::point("postgres.stored");
        Ok(refused)
    }

    /// Rows that become dead letters, which need not be durable when a later position is.
    fn note_dead(&mut self, batch: &Batch, rejected: &[(u32, String)]) {
        let Some(progress) = &mut self.progress else { return };
        let Some(records) = &progress.records else { return };
        for (row, reason) in rejected {
            let offset = records.offset(batch.origin.of(*row as usize) as usize);
            progress.dead.insert(offset, reason.clone());
        }
    }

    async fn failed(&mut self, failed: Failed) -> Error {
        if let Some(progress) = &mut self.progress {
            // The next attempt asks where it stands.
            progress.known = None;
        }
        match failed {
            Failed::Moved => {
                let told = format!("{}: the position was moved by another", self.table.what());
                Error::retry("moved", told)
            }
            Failed::Changed => {
                let told = format!("{}: its columns are not what they were", self.table.what());
                let changed = Error::retry("table_changed", told);
                self.table.replan(changed).await.unwrap_or_else(|other| other)
            }
            Failed::Server(failure) => {
                let error = failure.of(&self.table.what());
                match failure.is_stale() {
                    true => self.table.replan(error).await.unwrap_or_else(|other| other),
                    false => error,
                }
            }
        }
    }

    /// Sends the commit, and goes on without its answer.
    fn commit(&mut self, lease: Lease) -> BoxFuture<'static, Result<()>> {
        let what = format!("{}: committing", self.table.what());
        let answered = self.table.server.io().spawn(async move {
            let committed = lease.session().script("COMMIT").await;
            fault::point("postgres.committed");
            match committed {
                Ok(_) => {
                    lease.give_back();
                    Ok(())
                }
                Err(failure) => Err(failure.of(&what).chain()),
            }
        });
        let committing =
            async move { answered.await.unwrap_or_else(|panic| Err(panic.to_string())) };
        let committing = committing.boxed().shared();
        self.committing = Some(committing.clone());
        committing.map(|ended| ended.map_err(|why| Error::retry("lost", why))).boxed()
    }
}
