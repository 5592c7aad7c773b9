//! How an operator asks and steers: the admin service, reached through a Unix socket while `run` is
//! up and called in-process on a stopped data directory, and the HTTP pages for machines.
//!
//! ```text
//! CLI ─► Client ─┬─ millstream.sock ─► socket ─┐
//!                └─ in this process ───────────┴─► Service::handle ─► log, tables, registry, engine
//! Prometheus, Kubernetes, Kafka clients ─► http ─► collectors, health, registry
//! ```

pub mod answers;
mod client;
mod collectors;
mod directory;
mod error;
mod http;
mod protocol;
mod service;
mod socket;

pub use client::{Answer, Client, is_locked, opening};
pub use collectors::Collectors;
pub use directory::{check_directory, holder};
pub use error::{Code, Error, Result};
pub use http::{Http, HttpOptions};
pub use protocol::{
    Access, Elsewhere, Encode, Level, NewRecord, PlanFiles, Position, ReplayChoice, Request,
    RowFormat, SchemaText, TableShape,
};
pub use service::plans::load_files;
pub use service::{Reply, Service};
pub use socket::{SOCKET, Socket};
