//! What can go wrong in the tables, and what each error asks of its caller.

use millstream_core::Disposition;
use std::io;
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the tables in {} are in use by another process; stop it, or ask it through its socket",
        dir.display()
    )]
    Locked { dir: PathBuf },
    #[error(
        "{} was written by a newer version (format {found}; this one knows up to {known}); use that version",
        dir.display()
    )]
    NewerFormat { dir: PathBuf, found: u32, known: u32 },
    #[error("there are no tables in {}", dir.display())]
    NotThere { dir: PathBuf },
    #[error("the tables were opened only to be read")]
    ReadOnly,
    /// Nothing was written; the same call may succeed when there is space again.
    #[error(
        "the disk that holds {} has {free} bytes left and {wanted} must stay free; make room, writing then goes on",
        dir.display()
    )]
    DiskFull { dir: PathBuf, free: u64, wanted: u64 },
    /// A write to the journal failed: what it holds beyond the last commit is unknown.
    #[error("an earlier write to the tables failed; they must be reopened")]
    Failed,
    /// This handle belongs to a database that was closed or reopened since.
    #[error("the tables were reopened; go on from the last commit with a new handle")]
    Reopened,
    #[error("{doing}")]
    Storage { doing: &'static str, source: fjall::Error },
    #[error("{doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("the stored data is damaged: {0}")]
    Damaged(String),
    /// What was asked for cannot be done with this table: a sentence for the one who wrote it.
    #[error("{0}")]
    Refused(String),
    #[error("the table `{0}` was dropped")]
    Dropped(String),
    #[error(
        "pipeline `{pipeline}`: partition {partition} is committed up to {committed}, so {asked} would go back; reset the offsets if that is meant"
    )]
    Backwards { pipeline: String, partition: u32, committed: i64, asked: i64 },
    #[error(
        "pipeline `{pipeline}` has its offsets from `{was}` and now reads `{is}`; reset the offsets if that is meant"
    )]
    SourceChanged { pipeline: String, was: String, is: String },
    #[error("pipeline `{0}` has no source bound to its offsets")]
    Unbound(String),
}

impl Error {
    pub fn disposition(&self) -> Disposition {
        match self {
            Error::DiskFull { .. } => Disposition::Retry,
            Error::Io { source, .. } if source.kind() == io::ErrorKind::Interrupted => {
                Disposition::Retry
            }
            _ => Disposition::Stop,
        }
    }

    /// A short stable word for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Locked { .. } => "locked",
            Error::NewerFormat { .. } => "newer_format",
            Error::NotThere { .. } => "not_there",
            Error::ReadOnly => "read_only",
            Error::DiskFull { .. } => "disk_full",
            Error::Failed => "failed",
            Error::Reopened => "reopened",
            Error::Storage { source, .. } if is_full(source) => "disk_full",
            Error::Storage { .. } => "storage",
            Error::Io { .. } => "io",
            Error::Damaged(_) => "damaged",
            Error::Refused(_) => "refused",
            Error::Dropped(_) => "dropped",
            Error::Backwards { .. } => "offset_backwards",
            Error::SourceChanged { .. } => "source_changed",
            Error::Unbound(_) => "unbound",
        }
    }

    /// True when only `Database::reopen` (or a new process) helps.
    pub fn needs_reopen(&self) -> bool {
        matches!(self, Error::Failed | Error::Storage { .. })
    }

    pub(crate) fn refused(sentence: impl Into<String>) -> Self {
        Error::Refused(sentence.into())
    }
}

impl From<Error> for millstream_core::Error {
    fn from(error: Error) -> Self {
        let (disposition, kind) = (error.disposition(), error.kind());
        let message = error.to_string();
        let core = millstream_core::Error::new(disposition, kind, message);
        match error {
            Error::Storage { source, .. } => core.because(source),
            Error::Io { source, .. } => core.because(source),
            _ => core,
        }
    }
}

pub(crate) trait Doing<T> {
    /// Says what was being done when fjall failed.
    fn doing(self, doing: &'static str) -> Result<T>;
}

impl<T> Doing<T> for fjall::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T> {
        self.map_err(|source| match source {
            fjall::Error::Poisoned => Error::Failed,
            source => Error::Storage { doing, source },
        })
    }
}

pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}

fn is_full(error: &fjall::Error) -> bool {
    let io = match error {
        fjall::Error::Io(error) => error,
        fjall::Error::Storage(fjall::LsmError::Io(error)) => error,
        _ => return false,
    };
    matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
