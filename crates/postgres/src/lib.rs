//! PostgreSQL: rows looked up by key, and rows written.
//!
//! ```text
//!  Server: how to connect          TLS and password as their files say now
//!     ├─ PgLookup   keys ─► some at a time ─► SELECT .. = ANY($1) ─► cells ─► columns
//!     └─ PgTable    rows ─► cells ─► COPY or arrays ─► INSERT .. SELECT ─┐ one transaction
//!                   positions ─► millstream_positions ───────────────────┘
//!
//!  types: PostgreSQL to Arrow      read: cells into columns      write: values into cells
//! ```
//!
//! The driver does the protocol; bytes go between its messages and Arrow columns without a value in
//! between.

mod encode;
mod error;
mod lookup;
mod numeric;
mod plan;
mod positions;
mod read;
mod server;
mod session;
mod sink;
mod table;
mod tls;
mod transaction;
mod types;
mod write;

pub use lookup::{PgLookup, PgLookupOptions};
pub use millstream_tls::TlsOptions;
pub use plan::{Conflict, Mode, Operation};
pub use server::{Server, ServerOptions};
pub use sink::{PgSinkOptions, PgTable, Positions};
pub use table::Table;
