//! From the options of a file to its connectors.

pub mod cql;
pub(crate) mod credential;
pub mod kafka;
pub mod mongo;
pub mod postgres;
mod tls;
pub mod web;
