//! Kafka as a source and a sink, in the protocol's own bytes.
//!
//! ```text
//!  Cluster: connections by purpose, metadata           (TLS, SASL)
//!     ├─ Fetcher ─► Feed ─► Reader ─► Records          a long poll a broker; batches decoded by the task
//!     ├─ Membership: classic or KIP-848 ─► Change      and the group's commits
//!     ├─ Producer ◄─ KafkaSink                         batches from Arrow columns, idempotent
//!     └─ KafkaTransactions                             a producer for all sinks, and the commits with it
//! ```
//!
//! Record batches are fetched and produced as bytes: nothing is allocated for a record. Why this is
//! our own client over the messages of `kafka-protocol` is in `docs/decisions/0006-kafka-client.md`.

mod cluster;
mod connection;
mod coordinator;
mod copy;
mod destinations;
mod eras;
mod error;
mod feed;
mod fetcher;
mod group;
mod letters;
mod lost;
mod options;
mod producer;
mod records;
mod sasl;
#[cfg(test)]
mod scripted;
mod sink;
mod source;
mod tls;
mod transactions;
mod trouble;
mod writes;

pub use cluster::Cluster;
pub use copy::{Span, TopicState, copy};
pub use destinations::Destinations;
pub use fetcher::OnLostOffset;
pub use group::{GroupOptions, Protocol, StartAt, Topics};
pub use letters::{KafkaTopic, KafkaWriter};
pub use millstream_tls::TlsOptions;
pub use options::{ClusterOptions, Mechanism, SaslOptions};
pub use sink::{KafkaSink, KafkaSinkOptions, Target};
pub use source::{KafkaSource, KafkaSourceOptions};
pub use transactions::{KafkaTransactions, TransactionOptions};
pub use trouble::Troubles;
