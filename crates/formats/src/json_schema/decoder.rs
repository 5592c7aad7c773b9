//! JSON records into the columns of a schema.
//!
//! The reader's schema is fixed; a writer's schema must be known and must not contradict it. What
//! the writer has beyond it is stepped over.

use super::shape::{self, Property};
use super::{References, read};
use crate::avro::Framing;
use crate::frame::unframe;
use crate::run::{Refusal, Rows};
use crate::writers::{Unusable, Writers, must_be};
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use millstream_core::{
    Decoded, Decoder, Error, Records, RegisteredSchema, Result, SchemaKind, Schemas,
};
use std::sync::Arc;

#[derive(Debug, Clone)]
pub struct JsonSchemaOptions {
    pub framing: Framing,
    /// The schema that rows are given in.
    pub reader_schema: String,
    /// What it refers to.
    pub references: References,
    /// The top-level columns that are used; the others are stepped over, not built.
    pub columns: Option<Vec<String>>,
    pub record_bytes_max: usize,
}

/// Decodes JSON objects that a JSON Schema describes. See [`Framing`] for what stands before them.
pub struct JsonSchemaDecoder {
    options: JsonSchemaOptions,
    reader: Vec<Property>,
    rows: Rows,
    /// The writers' schemas that can be read.
    writers: Writers<()>,
}

impl JsonSchemaDecoder {
    pub fn new(options: JsonSchemaOptions, schemas: Arc<dyn Schemas>) -> Result<JsonSchemaDecoder> {
        let wrong = |why: String| Error::stop("schema", format!("reader schema: {why}"));
        let mut reader = shape::rows(&options.reader_schema, &options.references).map_err(wrong)?;
        if let Some(columns) = &options.columns {
            reader.retain(|property| columns.contains(&property.name));
        }
        let fields = shape::arrow_fields(&reader);
        let rows = Rows::new(Arc::new(arrow_schema::Schema::new(fields)))?;
        Ok(JsonSchemaDecoder { options, reader, rows, writers: Writers::new(schemas) })
    }
}

fn readable(registered: &RegisteredSchema, reader: &[Property]) -> Result<(), Unusable> {
    must_be(SchemaKind::Json, registered)?;
    let writer =
        shape::rows(&registered.text, &registered.references).map_err(Unusable::Unreadable)?;
    match shape::conflict(reader, &writer) {
        Some(why) => Err(Unusable::Incompatible(why)),
        None => Ok(()),
    }
}

#[async_trait]
impl Decoder for JsonSchemaDecoder {
    fn schema(&self) -> SchemaRef {
        self.rows.schema().clone()
    }

    async fn prepare(&mut self, records: &Records) -> Result<()> {
        if self.options.framing == Framing::Bare {
            return Ok(());
        }
        let Self { writers, reader, .. } = self;
        writers.prepare(records, |schema| readable(schema, reader)).await
    }

    fn decode(&mut self, records: &Records) -> Result<Decoded> {
        let Self { options, reader, rows, writers } = self;
        let framed = options.framing == Framing::Confluent;
        let mut last = None;
        rows.decode_rows(records, options.record_bytes_max, |row, value, columns, _| {
            let mut body = value;
            if framed {
                let framed = unframe(value, records.get(row).headers)?;
                body = framed.body;
                let name = framed.schema;
                if last != Some(name) {
                    writers.get(name)?;
                    last = Some(name);
                }
                framed.nothing_beside()?;
            }
            read::record(reader, columns, body).map_err(Refusal::malformed)
        })
    }
}
