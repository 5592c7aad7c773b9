//! SQL on batches, from the text to the rows.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod expressions;
mod fuzz;
mod lookups;
mod mistakes;
mod select;
mod support;
mod verdicts;
