//! Cassandra and ScyllaDB: rows looked up by key, and rows written.
//!
//! ```text
//!  Cluster: one session of the driver       nodes, TLS and password as their files say now
//!     ├─ CqlClaim    keys ─► INSERT .. IF NOT EXISTS, in order ─► whose row is there
//!     ├─ CqlLookup   keys ─► groups by replica ─► SELECT .. IN ? ─► cells ─► columns
//!     └─ CqlTable    rows ─► statements ─► one partition a request ─► at a pace
//!
//!  types: CQL to Arrow      read: cells into columns      write: values into cells
//! ```
//!
//! The driver does connections, routing and retries; bytes go between its frames and Arrow columns
//! without a value in between. What a sink writes goes by connections of our own first ([`direct`]).

mod claim;
mod cluster;
mod direct;
mod encode;
mod error;
mod lookup;
mod pace;
mod prepared;
mod read;
mod route;
mod shape;
mod sink;
mod tls;
mod types;
mod write;

pub use claim::{APPLIED, CqlClaim, CqlClaimOptions, STORED, can_be_claimed, claim_columns};
pub use cluster::{Cluster, ClusterOptions, Consistency, Execution, SerialConsistency};
pub use encode::TTL_SECONDS_MAX;
pub use lookup::{CqlLookup, CqlLookupOptions, GROUP_MAX, Rows, Table};
pub use millstream_tls::TlsOptions;
pub use sink::{CqlSinkOptions, CqlTable, Nulls, Operation, Ttl};
