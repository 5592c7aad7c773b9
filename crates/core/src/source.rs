//! What a source gives: one reader for each of its partitions.

use crate::{Records, Result};
use async_trait::async_trait;

/// Where a partition's rows come from, for positions, metrics and dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Partition {
    /// The topic's or file's name.
    pub source: std::sync::Arc<str>,
    pub index: u32,
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Latest,
    Offset(i64),
}

/// Reads one partition in offset order.
///
/// ```text
///   committed        handed out by next()
///       ▼                    ▼
///  ─────┼─────────┬──────────┼──────────────►  offsets
///       └ a new reader starts here
/// ```
#[async_trait]
pub trait PartitionReader: Send {
    /// The next records, at most a batch of them; waits until there are some. `None` when the
    /// source has come to its end and will never have more.
    ///
    /// Cancel safe: records are handed out whole or not at all.
    async fn next(&mut self) -> Result<Option<Records>>;

    /// The offset after the last record that is there to read now; for the lag.
    fn end_offset(&self) -> i64;
}
