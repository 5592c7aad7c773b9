//! JSON whose schema is a JSON Schema, framed as Confluent's serializers do or bare.
//!
//! ```text
//! JSON Schema (draft-07 or 2020-12) and what it refers to
//!   └─► millstream_schemas::json ($ref, $id) ─► facts (allOf merged) ─► shape   columns and checks
//!         ├─► read    JSON text into columns, checked on the way
//!         └─► write   columns into JSON text, row by row
//! columns without a schema ─► derive
//! ```
//!
//! | JSON Schema | column |
//! |---|---|
//! | `integer` | Int64; Int32 with the format `int32` |
//! | `number` | Float64; Float32 with the format `float` |
//! | `boolean`, `null` | Boolean, Null |
//! | `string` | text |
//! | … of format `date-time`, `date` | a timestamp in microseconds (UTC), a date |
//! | … of format `date-time-local`, `time-local` | a timestamp without zone, a time of day |
//! | … of format `byte`, or `contentEncoding: base64` | bytes |
//! | … of format `uuid`; `enum`, `const` | text, checked |
//! | … of format `decimal` with `precision` and `scale` | a decimal |
//! | `object` with `properties` | a struct; what is not required may be null |
//! | `object` with `additionalProperties: {…}` alone | a map |
//! | `array` with `items` | a list |
//! | `type: [x, null]`, `oneOf` or `anyOf` with null | x, which may be null |
//! | anything else, and what contains itself | JSON text |
//!
//! A property that is required and absent takes its `default`; without one the record is refused.
//! One that is absent and not required is null. Formats, enums and types are checked; lengths,
//! ranges, patterns and numbers of items are not.

mod decoder;
mod derive;
mod encoder;
mod facts;
mod read;
mod shape;
mod write;

pub use crate::avro::Framing;
pub use decoder::{JsonSchemaDecoder, JsonSchemaOptions};
pub use derive::json_schema_for;
pub use encoder::JsonSchemaEncoder;

use arrow_schema::SchemaRef;
use millstream_core::{Error, Result};
use std::sync::Arc;

/// Schemas that another one refers to, under the names that it uses for them.
pub type References = Vec<(String, Arc<str>)>;

/// The properties of a schema as Arrow columns: what the SQL planner sees.
pub fn arrow_schema(text: &str, references: &References) -> Result<SchemaRef> {
    let wrong = |why: String| Error::stop("schema", format!("JSON schema: {why}"));
    let fields = shape::rows(text, references).map_err(wrong)?;
    Ok(Arc::new(arrow_schema::Schema::new(shape::arrow_fields(&fields))))
}
