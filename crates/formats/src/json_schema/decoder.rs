//! JSON records into the columns of a schema.
//!
//! The reader's schema is fixed; a writer's schema must be known and must not contradict it. What
//! the writer has beyond it is stepped over.

use super::shape::{self, Property};
use super::{References, read};
use crate::avro::Framing;
use crate::frame::{SchemaName, unframe};
use crate::run::{Refusal, Rows};
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use millstream_core::{
    Decoded, Decoder, Disposition, Error, Records, RegisteredSchema, Result, SchemaKind, Schemas,
};
use std::collections::{HashMap, HashSet};
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
    schemas: Arc<dyn Schemas>,
    reader: Vec<Property>,
    rows: Rows,
    /// The writers' schemas that can be read.
    known: HashSet<SchemaName>,
    /// Those that the registry did not know when this run was prepared, and why.
    unknown: HashMap<SchemaName, String>,
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
        let (known, unknown) = Default::default();
        Ok(JsonSchemaDecoder { options, schemas, reader, rows, known, unknown })
    }

    async fn fetch(&mut self, name: SchemaName) -> Result<()> {
        let registered = match name.fetch(&*self.schemas).await {
            Ok(registered) => registered,
            Err(error) if error.disposition() == Disposition::Reject => {
                let why = format!("{name} is unknown: {}", error.chain());
                self.unknown.insert(name, why);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let writer = match properties(&registered) {
            Ok(writer) => writer,
            Err(why) => {
                self.unknown.insert(name, format!("{name}: {why}"));
                return Ok(());
            }
        };
        if let Some(why) = shape::conflict(&self.reader, &writer) {
            return Err(Error::stop(
                "incompatible_schema",
                format!("{name} cannot be read with the reader schema: {why}"),
            ));
        }
        self.known.insert(name);
        Ok(())
    }
}

fn properties(registered: &RegisteredSchema) -> Result<Vec<Property>, String> {
    match registered.kind {
        SchemaKind::Json => shape::rows(&registered.text, &registered.references),
        SchemaKind::Avro => Err("it is an Avro schema, not a JSON one".into()),
        SchemaKind::Protobuf => Err("it is a Protobuf schema, not a JSON one".into()),
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
        // Asked for again each time: someone may have registered it meanwhile.
        self.unknown.clear();
        let mut last = None;
        for record in records.iter() {
            let framed = record.value.map(|value| unframe(value, record.headers));
            let Some(Ok(framed)) = framed else { continue };
            let name = framed.schema;
            if last == Some(name) {
                continue;
            }
            last = Some(name);
            if !self.known.contains(&name) && !self.unknown.contains_key(&name) {
                self.fetch(name).await?;
            }
        }
        Ok(())
    }

    fn decode(&mut self, records: &Records) -> Result<Decoded> {
        let Self { options, reader, rows, known, unknown, .. } = self;
        let framed = options.framing == Framing::Confluent;
        let mut last = None;
        rows.decode_rows(records, options.record_bytes_max, |row, value, columns, _| {
            let mut body = value;
            if framed {
                let framed = unframe(value, records.get(row).headers)?;
                body = framed.body;
                let name = framed.schema;
                if last != Some(name) {
                    if !known.contains(&name) {
                        let why = unknown.get(&name).cloned();
                        let why = why.unwrap_or_else(|| format!("{name} was not fetched"));
                        return Err(Refusal::new("unknown_schema", why));
                    }
                    last = Some(name);
                }
                framed.nothing_beside()?;
            }
            read::record(reader, columns, body).map_err(Refusal::malformed)
        })
    }
}
