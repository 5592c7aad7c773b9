//! The embedded log for any Kafka client: its protocol on a socket.
//!
//! One broker, which leads every partition. A produce request is acknowledged when its batches are
//! synced, whatever `acks` says; batches go from the socket to the log and back as they are. What is
//! kept beside the log (committed offsets, ids of producers) is in [`store`].
//!
//! ```text
//! connection ─► dispatch ─► produce, fetch, offsets ─► millstream-log
//!                  │    └─► topics, metadata, configs
//!                  └──────► groups ─► store
//! ```
//!
//! Transactions and access control lists are not there, and say so in the protocol's words.

mod broker;
mod cluster;
mod configs;
mod connection;
mod dispatch;
mod error;
mod failures;
mod fetch;
mod groups;
mod list_offsets;
mod options;
mod out;
mod produce;
mod sasl;
mod shape;
pub mod stats;
mod store;
mod tls;
mod topics;
mod transactions;
mod users;
mod wire;

pub use broker::Broker;
pub use error::{Error, Result};
pub use options::{GroupOptions, Limits, Options, TlsOptions};
pub use users::Users;

/// For the fuzzer: a frame to a decoded request, as a connection does it.
#[doc(hidden)]
pub fn decode_for_tests(frame: bytes::Bytes) -> bool {
    dispatch::decode_only(frame)
}
