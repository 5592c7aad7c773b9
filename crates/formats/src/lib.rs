//! Bytes to columns and back: Avro, JSON, CSV and text lines in; Avro and JSON out.
//!
//! Every decoder here fills the same growable [`columns`], one record at a time. A record that
//! turns out bad half way is taken back from every column, so that it costs itself and nothing
//! else.
//!
//! ```text
//! avro::plan ─► avro::read ─┐
//! json (serde) ─────────────┼─► columns::Column ─► RecordBatch ─► avro::write, json
//! csv, text ─► values ──────┘
//! ```

pub mod avro;
mod columns;
pub mod csv;
mod frame;
pub mod json;
pub mod json_schema;
pub mod protobuf;
mod run;
pub mod text;
mod values;
mod writers;

pub use run::skipping_tombstones;
