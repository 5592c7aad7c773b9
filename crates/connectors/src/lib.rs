//! The things outside the engine that rows come from, are looked up in and go to: one module each.
//!
//! | module | source | lookup | sink |
//! |---|---|---|---|
//! | `topic` | a topic of the embedded log | | the same |
//! | `table` | | an embedded table | the same |
//! | `kafka` | topics of a Kafka cluster, as a member of a group | | a topic of one |
//! | `file` | lines of a file | rows of a CSV, JSON Lines or Parquet file | |
//! | `discard` | | | nowhere, counted |
//! | `stdout` | | | the standard output |
//!
//! A connector knows no engine: it implements the traits of `millstream-core`.

mod discard;
pub mod file;
mod home;
pub mod kafka;
mod record_columns;
pub mod stdout;
pub mod table;
pub mod topic;

pub use discard::DiscardSink;
pub use home::{Home, HomeOptions};
pub use record_columns::RecordColumns;
