//! MongoDB: documents looked up by key, and documents written.
//!
//! ```text
//!  Cluster: one client of the driver     servers, TLS and password as their files say now
//!     ├─ MongoLookup      keys ─► groups ─► find with $in ─► documents ─► columns
//!     └─ MongoCollection  rows ─► statements ─► insert, update or delete, many in one command
//!
//!  types: what columns may be    read: documents into columns    write: columns into documents
//! ```
//!
//! The driver does connections, discovery and logins; bytes go between its messages and Arrow columns
//! without a document in between.

mod cluster;
mod decimal;
mod encode;
mod error;
mod find;
mod key;
mod lookup;
mod read;
mod sample;
mod sink;
mod store;
mod template;
mod text;
mod tls;
mod types;
mod write;

pub use cluster::{Acknowledged, Cluster, ClusterOptions, ReadFrom, WriteConcern};
pub use lookup::{MongoLookup, MongoLookupOptions, Rows, held_against, takes_key};
pub use millstream_tls::TlsOptions;
pub use sample::{Sampled, sample};
pub use sink::{MongoCollection, MongoSinkOptions, Nulls, Operation};
pub use template::Template;
pub use types::{ColumnType, Columns, Stored, schema};
