//! The embedded log: topics of partitions, each a sequence of records by offset, in files that hold
//! Kafka's own batches.
//!
//! An append is acknowledged after an `fdatasync` that covers it; readers see synced records only,
//! and wait for them without polling. After a crash the log ends where it was synced, or beyond,
//! and what is damaged below that is refused, never served.
//!
//! ```text
//! BatchBuilder ─► EncodedBatch ─► PartitionLog::append ─► page cache ─► group commit ─► Durable
//!                                                                            │
//!                                          Reader::next ◄── Records ◄────────┘
//! ```
//!
//! Nothing is spawned on the caller's runtime: syncs run on the log's own threads.

pub mod codec;
mod directory;
mod error;
pub mod files;
mod index;
mod log;
mod options;
mod partition;
mod partitioner;
mod placed;
mod point;
mod producers;
mod raw_read;
mod reader;
mod recover;
mod retention;
mod seek;
mod segment;
mod stats;
mod syncer;
mod tail;
mod verify;

pub use codec::{BatchBuilder, Codec, EncodedBatch, RawBatch};
pub use directory::check_name as check_topic_name;
pub use error::{Damage, Error, Result};
pub use log::{Log, Topic};
pub use options::{Clock, Options, SyncMode, TopicOptions};
pub use partition::PartitionLog;
pub use partitioner::{murmur2, partition_for};
pub use placed::Placed;
pub use raw_read::Raw;
pub use reader::{READ_BYTES, Reader};
pub use retention::Removed;
pub use stats::{Histogram, Stats};
pub use tail::{Appended, Durable};
pub use verify::{PartitionReport, Report};
