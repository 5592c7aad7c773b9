//! The embedded schema registry: Confluent's REST interface over one journal file. [`client`] asks a
//! registry elsewhere.
//!
//! ```text
//! curl, Kafka clients ─► router ─┐
//! pipelines ─► core::Schemas ────┼─► Registry ─► registry.jsonl
//! commands ──────────────────────┘      └─► avro, avro_compat, json_compat, protobuf_compat
//! ```
//!
//! Avro schemas and JSON Schemas are brought into canonical form, Protobuf files are kept as they are;
//! all are held to the subject's compatibility level.

pub mod avro;
pub mod avro_compat;
pub mod client;
mod content;
mod decide;
mod error;
mod http;
mod journal;
mod json;
mod json_compat;
mod level;
mod protobuf_compat;
mod registry;
mod schemas;
mod state;

pub use content::{NewSchema, Reference};
pub use error::{Error, Result};
pub use http::router;
pub use level::{Level, Mode, Version};
pub use registry::{Deleted, Registered, Registry, SubjectVersion};
pub use state::{Config, Schema};
