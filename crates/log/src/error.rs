//! What can go wrong with the log, and what each case asks its caller to do.

use millstream_core::Disposition;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Cheap to clone: one failed sync answers every append that waited for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Bytes that were known to be synced are not what was written. They are never served.
    #[error(transparent)]
    Damage(Arc<Damage>),
    /// A position that this log never gave out.
    #[error(
        "offset {offset} of {topic}/{partition} is beyond the log's end {end}: the log lost \
         records or the position belongs to another log; restore the data directory or reset the \
         position on purpose"
    )]
    Beyond { topic: Arc<str>, partition: u32, offset: i64, end: i64 },
    #[error("the disk that holds {} is full", path.display())]
    DiskFull { path: PathBuf, source: Arc<io::Error> },
    #[error("{doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: Arc<io::Error> },
    /// Nothing written since the last good sync is acknowledged; the next append repairs the tail.
    #[error("records written to {} could not be made durable", path.display())]
    SyncFailed { path: PathBuf, source: Arc<io::Error> },
    #[error("the log in {} is in use by another process", dir.display())]
    Locked { dir: PathBuf },
    #[error(
        "the log in {} has format {found}, this program knows formats up to {known}: it was \
         written by a newer version; use that one", dir.display()
    )]
    NewerFormat { dir: PathBuf, found: u32, known: u32 },
    #[error("{} is not a log: {what}", dir.display())]
    NotALog { dir: PathBuf, what: String },
    #[error("topic `{0}` exists already")]
    TopicExists(String),
    #[error("there is no topic `{0}`")]
    NoTopic(String),
    #[error("`{name}` cannot be a topic's name: {what}")]
    TopicName { name: String, what: &'static str },
    #[error("topic option `{option}` cannot be {value}: {what}")]
    TopicOption { option: &'static str, value: u64, what: &'static str },
    #[error("topic `{0}` was deleted")]
    Deleted(Arc<str>),
    #[error("the log is closed")]
    Closed,
    #[error("the log is open for reading only")]
    ReadOnly,
    #[error("a batch of {bytes} bytes is over the limit of {max} bytes")]
    TooLarge { bytes: usize, max: usize },
    /// A producer that numbers its batches left one out, or sent an old one again.
    #[error(
        "producer {producer} sent sequence {found} where {expected} follows what the log has of it"
    )]
    Sequence { producer: i64, found: i32, expected: i32 },
    /// A newer producer took this one's place.
    #[error("producer {producer} has epoch {found}, the log knows epoch {known} of it")]
    ProducerEpoch { producer: i64, found: i16, known: i16 },
    #[error("these bytes are not a record batch")]
    Batch(#[from] crate::codec::Invalid),
}

/// Where the log is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} is damaged at byte {position} (offset {offset}): {what}; restore it from a copy, or delete \
     the topic", segment.display()
)]
pub struct Damage {
    /// The file.
    pub segment: PathBuf,
    pub position: u64,
    /// The offset of the first record that cannot be read.
    pub offset: i64,
    pub what: String,
}

impl Error {
    pub fn disposition(&self) -> Disposition {
        match self {
            Error::DiskFull { .. } | Error::Io { .. } | Error::SyncFailed { .. } => {
                Disposition::Retry
            }
            Error::TooLarge { .. }
            | Error::Batch(_)
            | Error::Sequence { .. }
            | Error::ProducerEpoch { .. } => Disposition::Reject,
            _ => Disposition::Stop,
        }
    }

    /// A short stable word for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Damage(_) => "damage",
            Error::Beyond { .. } => "beyond_end",
            Error::DiskFull { .. } => "disk_full",
            Error::Io { .. } => "io",
            Error::SyncFailed { .. } => "sync_failed",
            Error::Locked { .. } => "locked",
            Error::NewerFormat { .. } => "newer_format",
            Error::NotALog { .. } => "not_a_log",
            Error::TopicExists(_) => "topic_exists",
            Error::NoTopic(_) => "no_topic",
            Error::TopicName { .. } => "topic_name",
            Error::TopicOption { .. } => "topic_option",
            Error::Deleted(_) => "topic_deleted",
            Error::Closed => "closed",
            Error::ReadOnly => "read_only",
            Error::TooLarge { .. } => "too_large",
            Error::Sequence { .. } => "sequence",
            Error::ProducerEpoch { .. } => "producer_epoch",
            Error::Batch(_) => "malformed",
        }
    }

    pub fn damage(&self) -> Option<&Damage> {
        match self {
            Error::Damage(damage) => Some(damage),
            _ => None,
        }
    }

    pub(crate) fn io(doing: &'static str, path: &Path, error: io::Error) -> Error {
        let source = Arc::new(error);
        let path = path.to_owned();
        match is_disk_full(&source) {
            true => Error::DiskFull { path, source },
            false => Error::Io { doing, path, source },
        }
    }

    pub(crate) fn sync(path: &Path, error: io::Error) -> Error {
        let source = Arc::new(error);
        let path = path.to_owned();
        match is_disk_full(&source) {
            true => Error::DiskFull { path, source },
            false => Error::SyncFailed { path, source },
        }
    }

    pub(crate) fn damaged(
        segment: &Path,
        position: u64,
        offset: i64,
        what: impl Into<String>,
    ) -> Error {
        let segment = segment.to_owned();
        Error::Damage(Arc::new(Damage { segment, position, offset, what: what.into() }))
    }
}

fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<Error> for millstream_core::Error {
    fn from(error: Error) -> Self {
        let outer =
            millstream_core::Error::new(error.disposition(), error.kind(), error.to_string());
        match std::error::Error::source(&error) {
            Some(_) => outer.because(Cause(error)),
            None => outer,
        }
    }
}

/// The causes of an error whose own words were already said.
#[derive(Debug)]
struct Cause(Error);

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match std::error::Error::source(&self.0) {
            Some(source) => write!(f, "{source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0).and_then(|source| source.source())
    }
}
