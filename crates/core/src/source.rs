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

/// A topic, a file: something that has partitions to read.
#[async_trait]
pub trait Source: Send + Sync {
    /// The name in positions, metrics and dead letters.
    fn name(&self) -> &str;

    /// What stored offsets belong to. When it differs from the identity they were committed with,
    /// the source is another one and the offsets mean nothing.
    fn identity(&self) -> String;

    fn partitions(&self) -> u32;

    /// A reader of one partition. Offsets that the source cannot have (beyond its end) are an
    /// error, never a silent reset.
    async fn reader(&self, partition: u32, start: Start) -> Result<Box<dyn PartitionReader>>;

    /// The offset that a place in the partition has now.
    async fn offset_of(&self, partition: u32, place: Place) -> Result<i64>;
}

/// A place in a partition that an operator can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Earliest,
    Latest,
    /// The first record at or after this time, in milliseconds since 1970.
    Time(i64),
    Offset(i64),
}
