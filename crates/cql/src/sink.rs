//! Rows into a table, by prepared statements.
//!
//! ```text
//!  batch ─► statements ─► rounds: no key twice ─► units: one partition each ─► requests, some at a time
//!           a bad row is    equal key and time:                                  retried; a unit that is
//!           refused         the later row wins                                    refused is split
//! ```
//!
//! A batch's `write` ends when all of it is stored: then it is durable as the consistency says. A key
//! is never written twice at a time, and each request is stamped later than the one before.

mod plan;
mod sending;

pub(crate) use sending::pause;

use crate::cluster::{Cluster, Execution};
use crate::encode::Layout;
use crate::lookup::Table;
use crate::pace::Pace;
use crate::prepared::Prepared;
use arrow_schema::Schema;
use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{Batch, Error, Receipt, Result, Sink};
use scylla::statement::SerialConsistency;
use scylla::statement::prepared::PreparedStatement;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
    stored_directly: AtomicU64,
}

impl CqlTable {
    /// The error of a wrong mapping is a sentence for the user.
    pub async fn open(
        cluster: Arc<Cluster>,
        options: CqlSinkOptions,
        rows: &Schema,
    ) -> Result<Arc<CqlTable>> {
        let table = Table::of(&cluster, &options.keyspace, &options.table)?;
        let plan = plan::plan(&table, &options, rows);
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
        let stored_directly = AtomicU64::new(0);
        let table =
            CqlTable { cluster, options, layout, prepared, pace, idempotent, stored_directly };
        Ok(Arc::new(table))
    }

    pub fn sink(self: &Arc<Self>) -> Box<dyn Sink> {
        Box::new(CqlSink(self.clone()))
    }

    /// How many requests may be under way now.
    pub fn requests_at_once(&self) -> usize {
        self.pace.limit()
    }

    /// How many requests were answered without the driver.
    pub fn stored_directly(&self) -> u64 {
        self.stored_directly.load(Ordering::Relaxed)
    }

    fn what(&self) -> String {
        format!("writing {}.{}", self.options.keyspace, self.options.table)
    }
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
