//! What a log and a topic may be told.

use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::files::{Files, RealFiles};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// When an append is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// After an `fdatasync` that covers it. Appends that arrive while one is under way share the
    /// next. Nothing acknowledged is lost by a crash of the process or of the machine.
    GroupCommit,
    /// At once; dirty partitions are synced every so often. A crash of the process loses nothing.
    /// A power failure or a crash of the kernel loses what was acknowledged within the last `every`
    /// (or longer, where the disk is slow). Readers still see synced records only, so that no
    /// position is ever committed beyond what a power failure leaves; they lag by up to `every`.
    Relaxed { every: Duration },
}

#[derive(Clone)]
pub struct Options {
    pub sync: SyncMode,
    /// Threads that sync partitions at the same time; started when there is something to sync.
    pub sync_threads: usize,
    /// How often the recovery points are brought up to date. What was appended since is read when
    /// the log is opened after a crash.
    pub recovery_every: Duration,
    pub files: Arc<dyn Files>,
    /// The time of an append, which retention counts from.
    pub clock: Clock,
    /// A bug to switch on, as the environment variable `MILLSTREAM_BUG` does: it proves that the
    /// tests would notice. Without effect in release builds.
    #[doc(hidden)]
    pub seeded_bug: Option<&'static str>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sync: SyncMode::GroupCommit,
            sync_threads: 32,
            recovery_every: Duration::from_secs(1),
            files: Arc::new(RealFiles),
            clock: Arc::new(|| {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                since.map_or(0, |since| since.as_millis() as i64)
            }),
            seeded_bug: None,
        }
    }
}

impl Options {
    pub(crate) fn bug(&self, name: &str) -> bool {
        (cfg!(debug_assertions) && self.seeded_bug == Some(name))
            || millstream_core::fault::bug(name)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("sync", &self.sync)
            .field("sync_threads", &self.sync_threads)
            .field("recovery_every", &self.recovery_every)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// What a topic is made with; kept with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicOptions {
    pub partitions: u32,
    /// How writers are asked to pack batches; the log stores what it is given.
    pub codec: Codec,
    /// A partition is kept in files of about this size, and is removed by whole files.
    pub segment_bytes: u64,
    /// Records are kept this long after they were appended (their own timestamps do not count).
    pub retention_ms: Option<u64>,
    /// The oldest segments of a partition are removed while the rest has at least this size.
    pub retention_bytes: Option<u64>,
    /// Retention also removes what a known pipeline has not committed yet.
    pub hard: bool,
}

pub(crate) const PARTITIONS_MAX: u32 = 10_000;
/// Positions in a segment are 32 bits wide in the index.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 1 << 30;

impl Default for TopicOptions {
    fn default() -> Self {
        Self {
            partitions: 1,
            codec: Codec::None,
            segment_bytes: 256 << 20,
            retention_ms: None,
            retention_bytes: None,
            hard: false,
        }
    }
}

impl TopicOptions {
    /// Whether a topic can be made with these.
    pub fn check(&self) -> Result<()> {
        if self.partitions == 0 || self.partitions > PARTITIONS_MAX {
            return Err(Error::TopicOption {
                option: "partitions",
                value: self.partitions.into(),
                what: "a topic has 1 to 10000 partitions",
            });
        }
        if self.segment_bytes == 0 || self.segment_bytes > SEGMENT_BYTES_MAX {
            return Err(Error::TopicOption {
                option: "segment_bytes",
                value: self.segment_bytes,
                what: "a segment has 1 byte to 1 GiB",
            });
        }
        Ok(())
    }
}
