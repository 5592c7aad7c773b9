//! Embedded tables and checkpoints: rows by key with a time-to-live and last write wins by an
//! explicit timestamp, and the offsets that pipelines have committed, in one fjall database.
//!
//! ```text
//! RecordBatch ─► columns ─► key + row ─► version (timestamp, delete or row, expiry) ─┐
//!                                                                                    ├─► one journal
//! Offsets::commit ─► positions + generation ─────────────────────────────────────────┘      │
//!                                                                                  one fsync ┘
//! ```
//!
//! **One journal.** Rows and offsets go through the same fjall journal in the order they were
//! handed over. A journal that is cut short loses a suffix, so an offset that survives implies that
//! every row written before its commit survives too. The [generation](OpenReport::journal_cut)
//! kept beside the database tells when that happened.
//!
//! **No read before write.** Every write is a version of its own under `key ++ timestamp`; which
//! one counts is decided when the row is read and when versions are compacted or swept.
//!
//! All calls block: reads for as long as a block takes to load, writes for a memtable insert (and
//! longer when fjall slows writers down to let its compaction catch up), commits for one fsync.

mod builder;
mod catalog;
mod columns;
mod database;
mod error;
mod generation;
mod key;
mod lookup;
mod offsets;
mod options;
mod read;
mod rewrite;
mod row;
mod store;
mod sweep;
mod table;
mod version;

pub use catalog::TableSpec;
pub use columns::canonical;
pub use database::Database;
pub use error::{Error, Result};
pub use generation::{JournalCut, OpenReport};
pub use lookup::TableLookup;
pub use offsets::{Commit, Committed, Offsets, Source};
pub use options::{Clock, Faults, Options};
pub use read::{Rows, Scan};
pub use store::Stats;
pub use sweep::Swept;
pub use table::{Table, Written};
