//! Pipelines run whole, in this process, on a data directory of their own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod branches;
mod budget;
mod demo;
mod groups;
mod harness;
mod json_schema;
mod kafka;
mod letters;
mod lookups;
mod offsets;
mod order;
mod panics;
mod parallel;
mod pruning;
mod reopen;
mod sinks;
mod tables;
