//! Where rows go.

use crate::{Batch, Partition, Records, Rejection, Result};
use async_trait::async_trait;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What a partition task reads, and from where on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    pub place: Partition,
    /// What offsets of the partition belong to: those of another identity mean nothing.
    pub identity: String,
    /// Every row below this offset is done.
    pub from: i64,
}

/// Takes batches in order and says when each is durable. One of these belongs to one partition task.
///
/// `write` accepts a batch (it waits while the sink has no room) and gives a receipt; several
/// receipts may be outstanding. Batches reach the store in the order they were accepted.
///
/// A sink that keeps the source's position with what it stores learns it so:
///
/// ```text
///  begin(from) ─► stems_from(records) ─► write(batch), its parts ─► stems_from(records) ─► …
///                                     flush() and settled(upto) at any time between
/// ```
#[async_trait]
pub trait Sink: Send {
    /// Told once, before anything else. Not told where rows are written that an operator sends
    /// again: their offsets say nothing of what is stored.
    fn begin(&mut self, beginning: &Beginning) {
        let _ = beginning;
    }

    /// The records that the rows of the writes to come stem from: the origin of a row counts in
    /// them. Told in the order of offsets, also where no row of the records comes to this sink.
    ///
    /// `dead` are those that become dead letters instead, which need not be durable yet. Worked on
    /// again after a crash, such a record may turn to rows: that they are below a position that was
    /// stored does not say that they were.
    fn stems_from(&mut self, records: &Arc<Records>, dead: &[Rejection]) {
        let _ = (records, dead);
    }

    /// Nothing more comes until what was accepted is durable: the source has ended, the partition is
    /// given up, or as much is under way as may be. A sink that collects rows finishes what it has.
    fn flush(&mut self) {}

    /// Every record below this offset is done: its rows are durable in all sinks, or it is durable in
    /// the dead letters.
    fn settled(&mut self, upto: i64) {
        let _ = upto;
    }

    /// Pending while what was accepted is little and not on its way yet: more had better come in one
    /// batch, later. Asked before rows are fetched, so that they wait in the source and gather there.
    /// What is accepted must go on its way without more.
    fn poll_takes(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let _ = context;
        Poll::Ready(())
    }

    /// After an error nothing of this batch was accepted, and the same batch may be given again.
    ///
    /// Not cancel safe: a batch whose `write` was cancelled is *unknown* and must not be
    /// acknowledged.
    async fn write(&mut self, batch: &Batch) -> Result<Receipt>;
}

pub struct Receipt {
    /// Rows of the batch (not source rows) that the sink can never take, and why.
    pub rejected: Vec<(u32, String)>,
    /// Rows and bytes handed to the store.
    pub rows: u64,
    pub bytes: u64,
    /// Resolves when all of them are durable. An error leaves their state unknown: the batch is
    /// not acknowledged, and the partition goes back to its last commit.
    pub durable: BoxFuture<'static, Result<()>>,
}
