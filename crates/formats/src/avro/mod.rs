//! Avro, framed as Confluent's serializers do or bare.
//!
//! ```text
//! schema (JSON text, names resolved)
//!   ├─► shape   the Arrow columns that a reader's schema means
//!   ├─► plan    a writer's schema against a shape: resolution, done once
//!   │     └─► read    bytes into columns, record by record
//!   ├─► json    the same bytes as JSON text; JSON as bytes (defaults, recursive columns)
//!   └─► bind    columns against a schema
//!         └─► write   columns into bytes, row by row
//! ```

mod bind;
mod cursor;
mod decoder;
mod derive;
mod encoder;
mod json;
mod plan;
mod read;
mod schema;
mod shape;
mod skip;
mod write;

pub use decoder::{AvroDecoder, AvroOptions, Framing, VALUE_DEPTH_MAX};
pub use derive::avro_schema_for;
pub use encoder::AvroEncoder;

use arrow_schema::SchemaRef;
use millstream_core::{Error, Result};
use schema::Schema;

/// The full reader schema as Arrow columns: what the SQL planner sees.
pub fn arrow_schema(avro_json: &str) -> Result<SchemaRef> {
    Schema::parse(avro_json, [])
        .and_then(|schema| shape::arrow_schema(&schema))
        .map_err(|why| Error::stop("schema", format!("avro schema: {why}")))
}

/// The columns that a decoder gives with [`AvroOptions::columns`].
pub fn arrow_schema_of(avro_json: &str, columns: &[String]) -> Result<SchemaRef> {
    Schema::parse(avro_json, [])
        .and_then(|schema| shape::arrow_schema_of(&schema, columns))
        .map_err(|why| Error::stop("schema", format!("avro schema: {why}")))
}

/// Shows records of one schema as JSON.
#[derive(Debug)]
pub struct AvroText {
    schema: Schema,
}

impl AvroText {
    /// `references` are the schemas that this one refers to, dependencies first.
    pub fn new<'a>(avro_json: &str, references: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let schema = Schema::parse(avro_json, references)
            .map_err(|why| Error::stop("schema", format!("avro schema: {why}")))?;
        Ok(Self { schema })
    }

    /// The record as one line of JSON: bytes in base64, moments in RFC 3339, unions by their value.
    pub fn to_json(&self, record: &[u8]) -> Result<String> {
        let mut text = String::new();
        let mut cursor = cursor::Cursor::new(record, true);
        let root = self.schema.root;
        json::JsonText { writer: &self.schema, reader: &self.schema }
            .write(root, root, &mut cursor, &mut text, 0)
            .map_err(|fault| Error::reject("malformed", fault.sentence()))?;
        match cursor.rest.len() {
            0 => Ok(text),
            left => Err(Error::reject("malformed", format!("{left} bytes are left over"))),
        }
    }
}

/// [`AvroText`] for a single record.
pub fn to_json(record: &[u8], avro_json: &str) -> Result<String> {
    AvroText::new(avro_json, [])?.to_json(record)
}
