//! Cassandra and ScyllaDB: rows looked up by key, and rows written.
//!
//! ```text
//!  Cluster: one session of the driver       nodes, TLS and password as their files say now
//!     └─ CqlLookup   keys ─► groups by replica ─► SELECT .. IN ? ─► cells ─► columns
//!
//!  types: CQL to Arrow      read: cells into columns      write: values into cells
//! ```
//!
//! The driver does connections, routing and retries; bytes go between its frames and Arrow columns
//! without a value in between.

mod cluster;
mod error;
mod lookup;
mod read;
mod route;
mod tls;
mod types;
mod write;

pub use cluster::{Cluster, ClusterOptions, Consistency, Execution, Hidden, TlsOptions};
pub use lookup::{CqlLookup, CqlLookupOptions, GROUP_MAX, Rows, Table};
