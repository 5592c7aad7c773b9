//! Avro records into columns.
//!
//! Each writer's schema gets a plan of its own, and all plans fill the same columns: a schema id
//! that changes from one record to the next costs a look-up, and rows stay in offset order.

use super::cursor::{Cursor, DEPTH_MAX};
use super::plan::{self, Record};
use super::read::{self, Schemas as Pair};
use super::schema::Schema;
use super::shape::{self, Shape};
use crate::frame::{SchemaName, unframe};
use crate::run::{Refusal, Rows};
use arrow_schema::{DataType, SchemaRef};
use async_trait::async_trait;
use millstream_core::{
    Decoded, Decoder, Disposition, Error, Records, RegisteredSchema, Result, SchemaKind, Schemas,
};
use std::collections::HashMap;
use std::sync::Arc;

/// What stands before a record's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// A zero byte and the writer's schema id as four bytes, the highest first; or nothing, and the
    /// schema's GUID in the header `__value_schema_id`.
    Confluent,
    /// Nothing.
    Bare,
}

#[derive(Debug, Clone)]
pub struct AvroOptions {
    pub framing: Framing,
    /// The schema that rows are given in, with everything it refers to written out.
    pub reader_schema: String,
    /// The columns that are used, or fields of records in them (`site.name`); the others are stepped
    /// over, not built.
    pub columns: Option<Vec<String>>,
    /// The schema of bare records, where it is not the reader's.
    pub writer_schema: Option<String>,
    pub record_bytes_max: usize,
}

/// Decodes Avro records. See [`Framing`] for what it takes.
pub struct AvroDecoder {
    options: AvroOptions,
    schemas: Arc<dyn Schemas>,
    reader: Schema,
    shape: Shape,
    rows: Rows,
    /// One entry a writer; bare records have one.
    writers: Vec<Writer>,
    by_name: HashMap<SchemaName, usize>,
    /// Those that the registry did not know when this run was prepared, and why.
    unknown: HashMap<SchemaName, String>,
}

struct Writer {
    schema: Schema,
    plan: Record,
}

impl AvroDecoder {
    pub fn new(options: AvroOptions, schemas: Arc<dyn Schemas>) -> Result<AvroDecoder> {
        let wrong = |why: String| Error::stop("schema", format!("reader schema: {why}"));
        let reader = Schema::parse(&options.reader_schema, []).map_err(wrong)?;
        let shape = shape::rows(&reader, options.columns.as_deref()).map_err(wrong)?;
        let DataType::Struct(fields) = &shape.data_type else {
            return Err(wrong("rows need a record".into()));
        };
        let rows = Rows::new(Arc::new(arrow_schema::Schema::new(fields.clone())))?;
        let mut decoder = AvroDecoder {
            options,
            schemas,
            reader,
            shape,
            rows,
            writers: Vec::new(),
            by_name: HashMap::new(),
            unknown: HashMap::new(),
        };
        if decoder.options.framing == Framing::Bare {
            let writer = match &decoder.options.writer_schema {
                Some(text) => Schema::parse(text, [])
                    .map_err(|why| Error::stop("schema", format!("writer schema: {why}")))?,
                None => decoder.reader.clone(),
            };
            decoder.add_writer(writer, "the writer schema")?;
        }
        Ok(decoder)
    }

    fn add_writer(&mut self, schema: Schema, name: &str) -> Result<usize> {
        let plan = plan::rows(&schema, &self.reader, &self.shape).map_err(|why| {
            Error::stop(
                "incompatible_schema",
                format!("{name} cannot be read with the reader schema: {why}"),
            )
        })?;
        let ignored = plan::fields_ignored(&schema, &self.reader);
        if !ignored.is_empty() {
            tracing::info!(
                schema = name,
                fields = ignored.join(", "),
                "fields that the reader schema does not have are ignored until a reload"
            );
        }
        self.writers.push(Writer { schema, plan });
        Ok(self.writers.len() - 1)
    }

    async fn fetch(&mut self, name: SchemaName) -> Result<()> {
        let unusable = match name.fetch(&*self.schemas).await {
            Ok(registered) => match parse(&registered) {
                Ok(schema) => {
                    let at = self.add_writer(schema, &name.to_string())?;
                    self.by_name.insert(name, at);
                    return Ok(());
                }
                Err(why) => format!("{name}: {why}"),
            },
            Err(error) if error.disposition() == Disposition::Reject => {
                format!("{name} is unknown: {}", error.chain())
            }
            Err(error) => return Err(error),
        };
        self.unknown.insert(name, unusable);
        Ok(())
    }
}

fn parse(registered: &RegisteredSchema) -> Result<Schema, String> {
    match registered.kind {
        SchemaKind::Avro => {
            let references = registered.references.iter().map(|(_, text)| &**text);
            Schema::parse(&registered.text, references)
        }
        SchemaKind::Json => Err("it is a JSON schema, not an Avro one".into()),
        SchemaKind::Protobuf => Err("it is a Protobuf schema, not an Avro one".into()),
    }
}

#[async_trait]
impl Decoder for AvroDecoder {
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
            if !self.by_name.contains_key(&name) && !self.unknown.contains_key(&name) {
                self.fetch(name).await?;
            }
        }
        Ok(())
    }

    fn decode(&mut self, records: &Records) -> Result<Decoded> {
        let Self { options, reader, rows, writers, by_name, unknown, .. } = self;
        let framed = options.framing == Framing::Confluent;
        let mut last = (None, 0);
        rows.decode_rows(records, options.record_bytes_max, |row, value, columns, strict| {
            let mut body = value;
            let mut at = 0;
            if framed {
                let framed = unframe(value, records.get(row).headers)?;
                body = framed.body;
                let name = framed.schema;
                if last.0 == Some(name) {
                    at = last.1;
                } else {
                    at = *by_name.get(&name).ok_or_else(|| {
                        let why = unknown.get(&name).cloned();
                        Refusal::new(
                            "unknown_schema",
                            why.unwrap_or_else(|| format!("{name} was not fetched")),
                        )
                    })?;
                    last = (Some(name), at);
                }
                framed.nothing_beside()?;
            }
            let writer = &writers[at];
            let mut cursor = Cursor::new(body, strict);
            let pair = Pair { writer: &writer.schema, reader };
            read::record(&writer.plan, pair, columns, &mut cursor)
                .map_err(|fault| Refusal::malformed(fault.sentence()))?;
            match cursor.rest.len() {
                0 => Ok(()),
                left => {
                    let are = if left == 1 { "byte is" } else { "bytes are" };
                    Err(Refusal::malformed(format!("{left} {are} left over after the record")))
                }
            }
        })
    }
}

/// How many levels deep a recursive value may be.
pub const VALUE_DEPTH_MAX: usize = DEPTH_MAX;
