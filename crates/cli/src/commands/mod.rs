//! The commands, one a file.

pub mod check;
pub mod completions;
pub mod dead_letters;
pub mod demo;
pub mod explain;
pub mod kafka;
pub mod migrate;
pub mod offsets;
pub mod pipelines;
pub mod produce;
pub mod run;
pub mod schema;
pub mod schemas;
pub mod sentry;
pub mod serve;
pub mod tables;
pub mod tap;
pub mod test;
pub mod topics;
