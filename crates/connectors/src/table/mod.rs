//! An embedded table, as sink and lookup.

mod sink;

pub use sink::{TableSink, TableSinkOptions};
