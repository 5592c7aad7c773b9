//! Avro records into columns.
//!
//! Each writer's schema gets a plan of its own, and all plans fill the same columns: a schema id
//! that changes from one record to the next costs a look-up, and rows stay in offset order.

use super::cursor::{Cursor, DEPTH_MAX};
use super::plan::{self, Record};
use super::read::{self, Schemas as Pair};
use super::schema::Schema;
use super::shape::{self, Shape};
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
    /// A zero byte and the writer's schema id as four bytes, the highest first.
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
    by_id: HashMap<u32, usize>,
    /// Ids that the registry did not know when this run was prepared, and why.
    unknown: HashMap<u32, String>,
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
            by_id: HashMap::new(),
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

    async fn fetch(&mut self, id: u32) -> Result<()> {
        let unusable = match self.schemas.by_id(id).await {
            Ok(registered) => match parse(&registered) {
                Ok(schema) => {
                    let at = self.add_writer(schema, &format!("schema id {id}"))?;
                    self.by_id.insert(id, at);
                    return Ok(());
                }
                Err(why) => format!("schema id {id}: {why}"),
            },
            Err(error) if error.disposition() == Disposition::Reject => {
                format!("schema id {id} is unknown: {}", error.chain())
            }
            Err(error) => return Err(error),
        };
        self.unknown.insert(id, unusable);
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
        for row in 0..records.len() {
            let Some(Ok((id, _))) = records.value(row).map(unframe) else { continue };
            if last == Some(id) {
                continue;
            }
            last = Some(id);
            if !self.by_id.contains_key(&id) && !self.unknown.contains_key(&id) {
                self.fetch(id).await?;
            }
        }
        Ok(())
    }

    fn decode(&mut self, records: &Records) -> Result<Decoded> {
        let Self { options, reader, rows, writers, by_id, unknown, .. } = self;
        let framed = options.framing == Framing::Confluent;
        let mut last = (None, 0);
        rows.decode(records, options.record_bytes_max, |value, columns, strict| {
            let mut body = value;
            let mut at = 0;
            if framed {
                let (id, rest) = unframe(value)?;
                body = rest;
                if last.0 == Some(id) {
                    at = last.1;
                } else {
                    at = *by_id.get(&id).ok_or_else(|| {
                        let why = unknown.get(&id).cloned();
                        Refusal::new(
                            "unknown_schema",
                            why.unwrap_or_else(|| format!("schema id {id} was not fetched")),
                        )
                    })?;
                    last = (Some(id), at);
                }
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

/// The schema id of a Confluent frame, and what follows it.
#[inline]
fn unframe(value: &[u8]) -> Result<(u32, &[u8]), Refusal> {
    match value {
        [0, a, b, c, d, rest @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), rest)),
        [0, ..] => Err(Refusal::malformed(format!(
            "{} bytes are too few for a schema id before the record",
            value.len()
        ))),
        [magic, ..] => Err(Refusal::malformed(format!(
            "the first byte is {magic:#04x}, where Confluent framing has 0x00"
        ))),
        [] => Err(Refusal::malformed("the value is empty, where a schema id was expected")),
    }
}

/// How many levels deep a recursive value may be.
pub const VALUE_DEPTH_MAX: usize = DEPTH_MAX;
