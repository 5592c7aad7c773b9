//! What stands between a JOIN and its store: a cache with single flight, retries, and what to do
//! when the store stays away. (Keys are already distinct: the SQL sees to that, batch by batch.)
//!
//! ```text
//! keys ─► cache: known? ─► wait for another's answer, or ask the store ─► segments ─► rows, in key order
//!           16 shards        single flight            retries, failures     memory
//! ```

mod answers;
mod cache;
mod changes;
mod failures;
mod guarded;
mod keys;
mod segments;
mod table;

pub use changes::KeyColumns;
pub use guarded::Guarded;
pub use table::TableStore;

use std::time::Duration;

/// How a lookup behaves; from the pipeline file.
#[derive(Debug, Clone)]
pub struct Policy {
    pub cache: Option<CacheOptions>,
    /// Rows become dead letters after `retries`, instead of holding the partition.
    pub dead_letter: bool,
    pub retries: u32,
    /// Of a whole call, unless the store bounds its requests itself.
    pub timeout: Option<Duration>,
}

#[derive(Debug, Clone)]
pub struct CacheOptions {
    pub entries_max: usize,
    /// Rows, keys and what keeps them in order, all together.
    pub bytes_max: usize,
    pub ttl: Duration,
    /// How long a miss is remembered.
    pub negative_ttl: Duration,
    /// How long beyond its time an answer may still be given while a new one is fetched.
    pub stale: Duration,
}
