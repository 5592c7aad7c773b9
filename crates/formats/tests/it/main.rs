//! The formats from the outside: against vectors, an independent implementation, and nonsense.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

mod encode;
mod evolve;
mod framing;
mod fuzz;
mod hostile;
mod json_schema;
mod oracle;
mod protobuf;
mod support;
mod texts;
mod vectors;
