//! Protobuf, framed as Confluent's serializers do or bare.
//!
//! ```text
//! .proto text, or a descriptor in base64
//!   └─► parse, descriptor ─► schema (names resolved)
//!         ├─► shape   the Arrow columns that a reader's message means
//!         ├─► plan    a writer's message against a shape, by field number, done once
//!         │     └─► read    bytes into columns, record by record
//!         ├─► json    messages that contain themselves, as JSON text
//!         └─► write   columns into bytes, row by row
//!               └─► text    what is text in a column: JSON, keys, names of enums
//! ```
//!
//! | Protobuf | column |
//! |---|---|
//! | `int32` `sint32` `sfixed32` | Int32 |
//! | `uint32` `fixed32` `int64` `sint64` `sfixed64` | Int64 |
//! | `uint64` `fixed64` | Decimal(20, 0) |
//! | an enum | its name; an unknown number as text |
//! | a message | a struct; null when it is absent |
//! | `repeated` | a list, never null |
//! | `map` | a map; keys that are no text are written as text |
//! | `oneof` | each member a column, at most one of them not null |
//! | `Timestamp` | a timestamp in microseconds, UTC; what is finer is cut off |
//! | `Duration` | an interval |
//! | a wrapper such as `Int64Value` | its value, or null |
//! | `Struct`, `Value`, `ListValue`, a message that contains itself | JSON text |
//!
//! A field without presence that is absent has its zero value, as Protobuf says; one with presence
//! (`optional`, `oneof`, messages, proto2) is null. Declared defaults of proto2 are not applied.

mod decoder;
mod descriptor;
mod encoder;
mod json;
mod parse;
mod plan;
mod read;
mod schema;
mod shape;
mod text;
mod wire;
mod write;

pub use decoder::{Framing, ProtobufDecoder, ProtobufOptions};
pub use encoder::ProtobufEncoder;

use arrow_schema::SchemaRef;
use millstream_core::{Error, Result};
use schema::Schema;
use std::sync::Arc;

/// A message's fields as Arrow columns: what the SQL planner sees. `references` are the imported
/// files under their names; `message` is the first of the file unless given. With `columns`, those
/// that a decoder gives with [`ProtobufOptions::columns`].
pub fn arrow_schema(
    proto: &str,
    references: &[(String, Arc<str>)],
    message: Option<&str>,
    columns: Option<&[String]>,
) -> Result<SchemaRef> {
    let wrong = |why: String| Error::stop("schema", format!("protobuf schema: {why}"));
    let schema = Schema::parse(proto, references).map_err(wrong)?;
    let message = schema.named(message).map_err(wrong)?;
    let fields = shape::fields(&schema, message, columns).map_err(wrong)?;
    Ok(Arc::new(arrow_schema::Schema::new(fields)))
}

/// The files that a schema imports itself and that are not built in, under the names that it gives
/// them.
pub fn imports(proto: &str) -> Result<Vec<String>> {
    schema::imports(proto).map_err(|why| Error::stop("schema", format!("protobuf schema: {why}")))
}

/// The full name of a message, of the file's first unless given.
pub fn message_name(
    proto: &str,
    references: &[(String, Arc<str>)],
    message: Option<&str>,
) -> Result<String> {
    let wrong = |why: String| Error::stop("schema", format!("protobuf schema: {why}"));
    let schema = Schema::parse(proto, references).map_err(wrong)?;
    let message = schema.named(message).map_err(wrong)?;
    Ok(schema.messages[message].name.clone())
}
