//! What a source gives: one reader for each of its partitions, and where a group shares them out,
//! word of which of them are ours.

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

    /// Where a pipeline begins that has read nothing of the partition yet. An operator who asks for
    /// the earliest place may get an earlier one.
    async fn beginning(&self, partition: u32) -> Result<i64> {
        self.offset_of(partition, Place::Earliest).await
    }

    /// The offset that a place in the partition has now.
    async fn offset_of(&self, partition: u32, place: Place) -> Result<i64>;

    /// Where a partition's rows come from. A source of several topics numbers the partitions of all
    /// of them in one row; these numbers mean nothing to another process.
    fn place_of(&self, partition: u32) -> Partition {
        Partition { source: self.name().into(), index: partition }
    }

    /// What offsets of one partition belong to, for whoever keeps them with what they were made to.
    fn identity_of(&self, partition: u32) -> String {
        let _ = partition;
        self.identity()
    }

    /// The offset at which a partition ends now, where that is known without asking.
    fn end_of(&self, _partition: u32) -> Option<i64> {
        None
    }

    /// The group that shares the partitions out and keeps the commits. `None` where all partitions
    /// are ours and commits are kept in the data directory.
    fn group(&self) -> Option<std::sync::Arc<dyn Group>> {
        None
    }

    /// Sets the offsets of such a group, which must have no members now.
    async fn set_offsets(&self, _offsets: &[(u32, i64)]) -> Result<()> {
        Err(crate::Error::stop("no_group", format!("{} is read by no group", self.name())))
    }
}

/// A member's view of a group that shares a source's partitions out among processes.
///
/// ```text
///            Assigned(p)                  Revoked(p, release)
///   not ours ──────────► ours: read, commit ──────────► finish, commit, release.done()
///      ▲                    │ Lost(p): drop everything, commit nothing     │
///      └────────────────────┴──────────────────────────────────────────────┘
/// ```
///
/// Heartbeats and everything else that keeps the membership go on by themselves, also while nobody
/// calls `next`.
#[async_trait]
pub trait Group: Send + Sync {
    /// What has changed. For one caller, who is told each change once.
    ///
    /// An error with the disposition `Stop` needs the operator; the caller may go on calling.
    /// Cancel safe.
    async fn next(&self) -> Result<Change>;

    /// Whether everything that is ours was told: what is not told yet may have rows to read.
    fn has_told_all(&self) -> bool {
        true
    }

    /// Where an assigned partition begins: at its last commit, or where the options say.
    /// `None` when it is not ours.
    fn start_of(&self, partition: u32) -> Option<i64>;

    /// Commits the offsets of partitions that are ours, and passes over those that are not any
    /// more. Gives what is durable now. An error may be tried again.
    ///
    /// Cancel safe: the commit may or may not have been made.
    async fn commit(&self, offsets: &[(u32, i64)]) -> Result<Vec<(u32, i64)>>;

    /// The same for offsets that an operator has chosen: what was read before says nothing of them.
    async fn set(&self, offsets: &[(u32, i64)]) -> Result<Vec<(u32, i64)>> {
        self.commit(offsets).await
    }

    /// Gives everything back. What was not committed comes again, here or elsewhere.
    async fn leave(&self);
}

/// What a [`Group`] tells its member.
#[derive(Debug)]
pub enum Change {
    /// These are ours from now on.
    Assigned(Vec<u32>),
    /// These are to be given up.
    Revoked(Vec<u32>, Release),
    /// These are somebody else's already: nothing of them may be committed.
    Lost(Vec<u32>),
}

/// Says that revoked partitions are given up. Dropping it says the same.
#[derive(Debug)]
pub struct Release {
    /// After this their commits are refused.
    pub within: std::time::Duration,
    done: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Release {
    /// The receiver resolves when the member has given them up.
    pub fn new(within: std::time::Duration) -> (Self, tokio::sync::oneshot::Receiver<()>) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        (Self { within, done: Some(sender) }, receiver)
    }

    /// Nothing of the partitions is in flight, and their last commits are durable.
    pub fn done(mut self) {
        if let Some(done) = self.done.take() {
            let _ = done.send(());
        }
    }
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
