//! The contracts that everything else is written against: what a record, a batch, an
//! acknowledgement and a checkpoint are, and the traits of sources, formats, lookups and sinks.
//!
//! No I/O but of locks and secrets, no vendor, no task is spawned here.
//!
//! ```text
//! PartitionReader ─► Records ─► Decoder ─► Batch ─► SQL, Lookup ─► Batch ─► Sink ─► Receipt
//!                                 └ Rejection ─► dead letter                 └─► Ack ─► Checkpoint
//! ```

mod ack;
mod batch;
mod checkpoint;
mod error;
pub mod fault;
mod format;
pub mod lock;
mod lookup;
mod records;
mod redact;
mod schemas;
mod secret;
mod sink;
mod source;
mod transactions;
pub mod types;

pub use ack::{Ack, Counts, Settlement};
pub use batch::{Batch, Origin, Rejection};
pub use checkpoint::{Checkpoint, Run};
pub use error::{Disposition, Error, Result};
pub use format::{Decoded, Decoder, Encoded, Encoder};
pub use lookup::{Found, Lookup, LookupKey};
pub use records::{Header, Headers, Record, Records, RecordsBuilder};
pub use redact::redact;
pub use schemas::{Guid, RegisteredSchema, SchemaKind, Schemas};
pub use secret::{Credential, Hidden};
pub use sink::{Beginning, Receipt, Sink};
pub use source::{Change, Group, Partition, PartitionReader, Place, Release, Source, Start};
pub use transactions::Transactions;
