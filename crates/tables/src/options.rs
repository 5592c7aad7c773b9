//! How a database is opened: how much memory it may use, and whose clock it reads.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

const MIB: u64 = 1024 * 1024;

/// The defaults keep a busy database below 100 MiB of memory.
#[derive(Debug, Clone)]
pub struct Options {
    /// Blocks of tables that are kept in memory for reads.
    pub cache_bytes: u64,
    /// A table's newest rows are kept in memory up to this, then written out.
    pub memtable_bytes: u64,
    /// What all tables together keep in memory before the largest is written out early.
    pub write_buffer_bytes: u64,
    /// Journal files kept before tables that hold the oldest back are written out. At least 64 MiB.
    pub journal_bytes: u64,
    /// Threads that write out and compact.
    pub workers: usize,
    /// With less free space on the disk than this, writes are refused until there is more again.
    /// A disk that runs full under the database would make a reopen necessary instead.
    pub free_bytes_min: u64,
    pub clock: Clock,
    pub faults: Faults,
}

/// What a test makes go wrong.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    syncs: Arc<AtomicU32>,
}

/// Microseconds since 1970. Injected, so that a test moves the time and a seed replays a failure.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 16 * MIB,
            memtable_bytes: 8 * MIB,
            write_buffer_bytes: 32 * MIB,
            journal_bytes: 128 * MIB,
            workers: 2,
            free_bytes_min: 64 * MIB,
            clock: Clock::system(),
            faults: Faults::default(),
        }
    }
}

impl Faults {
    /// The next sync of the journal fails, and so do those after it up to this many.
    pub fn fail_syncs(&self, count: u32) {
        self.syncs.store(count, Ordering::Relaxed);
    }

    pub(crate) fn sync(&self) -> std::io::Result<()> {
        if millstream_core::fault::journal_fails() {
            return Err(std::io::Error::other("the journal is made to fail"));
        }
        let left = |left: u32| left.checked_sub(1);
        match self.syncs.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left) {
            Ok(_) => Err(std::io::Error::other("a test lets this sync fail")),
            Err(_) => Ok(()),
        }
    }
}

impl Clock {
    pub fn new(now_us: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now_us))
    }

    pub fn system() -> Self {
        Self::new(|| match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            // A clock before 1970: the order of writes is then that of their arrival.
            Err(_) => 0,
        })
    }

    pub fn now_us(&self) -> i64 {
        (self.0)()
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.now_us().div_euclid(1000)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
