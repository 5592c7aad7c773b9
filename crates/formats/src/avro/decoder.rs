//! Avro records into columns.
//!
//! Each writer's schema gets a plan of its own, and all plans fill the same columns: a schema id
//! that changes from one record to the next costs a look-up, and rows stay in offset order.

use super::cursor::{Cursor, DEPTH_MAX};
use super::plan::{self, Record};
use super::read::{self, Schemas as Pair};
use super::schema::Schema;
use super::shape::{self, Shape};
use crate::frame::{id_frame, unframe};
use crate::run::{Refusal, Rows};
use crate::writers::{Unusable, Writers, incompatible, must_be};
use arrow_schema::{DataType, SchemaRef};
use async_trait::async_trait;
use millstream_core::{
    Decoded, Decoder, Error, Records, RegisteredSchema, Result, SchemaKind, Schemas,
};
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
    reader: Schema,
    shape: Shape,
    rows: Rows,
    writers: Writers<Writer>,
    /// The writer of bare records.
    bare: Option<Writer>,
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
        let bare = match options.framing {
            Framing::Confluent => None,
            Framing::Bare => {
                let schema = match &options.writer_schema {
                    Some(text) => Schema::parse(text, [])
                        .map_err(|why| Error::stop("schema", format!("writer schema: {why}")))?,
                    None => reader.clone(),
                };
                let writer = Writer::new(schema, &reader, &shape)
                    .map_err(|why| incompatible("the writer schema", &why))?;
                Some(writer)
            }
        };
        let writers = Writers::new(schemas);
        Ok(AvroDecoder { options, reader, shape, rows, writers, bare })
    }
}

impl Writer {
    fn new(schema: Schema, reader: &Schema, shape: &Shape) -> Result<Writer, String> {
        let plan = plan::rows(&schema, reader, shape)?;
        Ok(Writer { schema, plan })
    }

    fn registered(
        registered: &RegisteredSchema,
        reader: &Schema,
        shape: &Shape,
    ) -> Result<Writer, Unusable> {
        must_be(SchemaKind::Avro, registered)?;
        let references = registered.references.iter().map(|(_, text)| &**text);
        let schema = Schema::parse(&registered.text, references).map_err(Unusable::Unreadable)?;
        let ignored = plan::fields_ignored(&schema, reader);
        let writer = Writer::new(schema, reader, shape).map_err(Unusable::Incompatible)?;
        if !ignored.is_empty() {
            tracing::info!(
                schema = registered.id,
                fields = ignored.join(", "),
                "fields that the reader schema does not have are ignored until a reload"
            );
        }
        Ok(writer)
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
        let Self { writers, reader, shape, .. } = self;
        writers.prepare(records, |schema| Writer::registered(schema, reader, shape)).await
    }

    fn decode(&mut self, records: &Records) -> Result<Decoded> {
        let Self { options, reader, rows, writers, bare, .. } = self;
        let mut last: Option<([u8; 5], &Writer)> = None;
        rows.decode_rows(records, options.record_bytes_max, |row, value, columns, strict| {
            let (writer, body) = match bare {
                Some(writer) => (&*writer, value),
                None => match (id_frame(value, records.has_headers(row)), last) {
                    (Some(frame), Some((same, writer))) if *frame == same => {
                        (writer, &value[frame.len()..])
                    }
                    (frame, _) => {
                        let framed = unframe(value, records.get(row).headers)?;
                        let writer = writers.get(framed.schema)?;
                        framed.nothing_beside()?;
                        last = frame.map(|frame| (*frame, writer));
                        (writer, framed.body)
                    }
                },
            };
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
