//! Where rows go.

use crate::{Batch, Result};
use async_trait::async_trait;
use futures::future::BoxFuture;

/// Takes batches in order and says when each is durable. One of these belongs to one partition task.
///
/// `write` accepts a batch (it waits while the sink has no room) and gives a receipt; several
/// receipts may be outstanding. Batches reach the store in the order they were accepted.
#[async_trait]
pub trait Sink: Send {
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
