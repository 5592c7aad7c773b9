//! SQL on batches, from the text to the rows.

mod expressions;
mod lookups;
mod mistakes;
mod select;
mod support;
mod verdicts;
