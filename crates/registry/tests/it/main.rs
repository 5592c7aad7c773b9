//! The registry from outside: over HTTP, through its own handle, and on disk.

#![expect(clippy::unwrap_used, reason = "what does not unwrap fails its test")]

mod client;
mod compat;
mod fuzz;
mod json_compat;
mod persist;
mod protobuf_compat;
mod python;
mod rest;
mod schema;
mod server;
mod settings;
mod verdicts;
