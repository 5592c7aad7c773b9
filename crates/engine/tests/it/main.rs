//! Pipelines run whole, in this process, on a data directory of their own.

mod demo;
mod harness;
