//! Protobuf records into columns.
//!
//! Each writer's schema gets a plan of its own, and all plans fill the same columns: a schema id
//! that changes from one record to the next costs a look-up, and rows stay in offset order.

use super::plan::{self, Message};
use super::schema::Schema;
use super::wire::{Cursor, zigzag};
use super::{read, shape, write};
use crate::frame::{SchemaName, unframe};
use crate::run::{Refusal, Rows};
use crate::writers::{Unusable, Writers, must_be};
use arrow_schema::{Fields, SchemaRef};
use async_trait::async_trait;
use millstream_core::{
    Decoded, Decoder, Error, Records, RegisteredSchema, Result, SchemaKind, Schemas,
};
use std::sync::Arc;

/// What stands before a record's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// A zero byte, the writer's schema id as four bytes, and where in its file the message is
    /// declared; or nothing, and the schema's GUID with that place in the header
    /// `__value_schema_id`.
    Confluent,
    /// Nothing.
    Bare,
}

#[derive(Debug, Clone)]
pub struct ProtobufOptions {
    pub framing: Framing,
    /// The schema that rows are given in: the text of a file, or its descriptor in base64.
    pub reader_schema: String,
    /// The files that it imports, under their names.
    pub references: Vec<(String, Arc<str>)>,
    /// The message that rows are; the file's first unless given.
    pub message: Option<String>,
    /// The columns that are used, or fields of messages in them (`site.name`); the others are
    /// stepped over, not built.
    pub columns: Option<Vec<String>>,
    pub record_bytes_max: usize,
}

/// How deep a message of a frame may be declared.
const INDEX_MAX: u64 = 32;

/// Decodes Protobuf records. See [`Framing`] for what it takes.
pub struct ProtobufDecoder {
    options: ProtobufOptions,
    reader: Schema,
    message: usize,
    rows: Rows,
    writers: Writers<Writer>,
    /// The plan of bare records.
    bare: Option<Message>,
    scratch: read::Scratch,
}

struct Writer {
    schema: Schema,
    /// How the message of the reader's name is read; none when the file has no such one.
    plan: Option<Plan>,
}

struct Plan {
    message: usize,
    /// The bytes that say where it is declared, in each way that encoders write them.
    places: Vec<Vec<u8>>,
    how: Message,
}

impl ProtobufDecoder {
    pub fn new(options: ProtobufOptions, schemas: Arc<dyn Schemas>) -> Result<ProtobufDecoder> {
        let wrong = |why: String| Error::stop("schema", format!("reader schema: {why}"));
        let reader = Schema::parse(&options.reader_schema, &options.references).map_err(wrong)?;
        let message = reader.named(options.message.as_deref()).map_err(wrong)?;
        let fields = shape::fields(&reader, message, options.columns.as_deref()).map_err(wrong)?;
        let rows = Rows::new(Arc::new(arrow_schema::Schema::new(fields.clone())))?;
        let bare = match options.framing {
            Framing::Confluent => None,
            Framing::Bare => {
                let itself = (&reader, message);
                Some(plan::rows(itself, itself, &fields).map_err(wrong)?)
            }
        };
        Ok(ProtobufDecoder {
            options,
            reader,
            message,
            rows,
            writers: Writers::new(schemas),
            bare,
            scratch: read::Scratch::default(),
        })
    }
}

impl Writer {
    fn new(
        registered: &RegisteredSchema,
        (reader, message): (&Schema, usize),
        fields: &Fields,
    ) -> Result<Writer, Unusable> {
        must_be(SchemaKind::Protobuf, registered)?;
        let schema = Schema::parse(&registered.text, &registered.references)
            .map_err(Unusable::Unreadable)?;
        let name = &reader.messages[message].name;
        let found = schema.messages.iter().position(|message| message.name == *name);
        let plan = match found {
            None => None,
            Some(found) => {
                let plan = plan::rows((&schema, found), (reader, message), fields)
                    .map_err(Unusable::Incompatible)?;
                let path = schema.path(found);
                let places = path.as_deref().map_or_else(Vec::new, ways);
                Some(Plan { message: found, places, how: plan })
            }
        };
        Ok(Writer { schema, plan })
    }

    /// The plan of the message that is declared where these bytes say, and what follows them.
    #[inline]
    fn planned<'a>(
        &self,
        bytes: &'a [u8],
        id: SchemaName,
        wanted: &str,
    ) -> Result<(&Message, &'a [u8]), Refusal> {
        if let Some(plan) = &self.plan {
            let left = plan.places.iter().find_map(|place| bytes.strip_prefix(place.as_slice()));
            if let Some(left) = left {
                return Ok((&plan.how, left));
            }
        }
        self.planned_oddly(bytes, id, wanted)
    }

    /// The same, of another message or written in another way than encoders do.
    #[cold]
    fn planned_oddly<'a>(
        &self,
        bytes: &'a [u8],
        id: SchemaName,
        wanted: &str,
    ) -> Result<(&Message, &'a [u8]), Refusal> {
        let (path, left) = index(bytes)?;
        let found = self.schema.at(&path);
        match &self.plan {
            Some(plan) if found == Some(plan.message) => Ok((&plan.how, left)),
            _ => Err(other_message(&self.schema, id, found, wanted)),
        }
    }
}

/// How encoders say where a message is declared.
fn ways(path: &[usize]) -> Vec<Vec<u8>> {
    let mut long = Vec::new();
    write::places(path, &mut long);
    match path {
        [0] => vec![vec![0], long],
        _ => vec![long],
    }
}

#[async_trait]
impl Decoder for ProtobufDecoder {
    fn schema(&self) -> SchemaRef {
        self.rows.schema().clone()
    }

    async fn prepare(&mut self, records: &Records) -> Result<()> {
        if self.options.framing == Framing::Bare {
            return Ok(());
        }
        let Self { writers, reader, message, rows, .. } = self;
        let fields = rows.schema().fields();
        let made = |schema: &_| Writer::new(schema, (reader, *message), fields);
        writers.prepare(records, made).await
    }

    fn decode(&mut self, records: &Records) -> Result<Decoded> {
        let Self { options, reader, message, rows, writers, bare, scratch } = self;
        let name = &reader.messages[*message].name;
        rows.decode_rows(records, options.record_bytes_max, |row, value, columns, strict| {
            let (plan, schema, body) = match bare {
                Some(plan) => (&*plan, &*reader, value),
                None => {
                    let framed = unframe(value, records.get(row).headers)?;
                    let id = framed.schema;
                    let writer = writers.get(id)?;
                    let at = framed.beside.unwrap_or(framed.body);
                    let (plan, left) = writer.planned(at, id, name)?;
                    let body = match framed.beside {
                        None => left,
                        Some(_) if left.is_empty() => framed.body,
                        Some(_) => {
                            return Err(Refusal::malformed(
                                "header `__value_schema_id` goes on after the message index",
                            ));
                        }
                    };
                    (plan, &writer.schema, body)
                }
            };
            read::record(plan, schema, body, columns, strict, scratch)
                .map_err(|fault| Refusal::malformed(fault.sentence()))
        })
    }
}

/// Where the message is declared: how many places follow and then the places, as zigzag varints. A
/// single zero is short for the file's first message.
fn index(bytes: &[u8]) -> Result<(Vec<usize>, &[u8]), Refusal> {
    let wrong = || Refusal::malformed("the message index before the record does not read");
    let mut cursor = Cursor::new(bytes);
    let mut number = || cursor.varint().map(zigzag).map_err(|_| wrong());
    let count = number()?;
    let path = match u64::try_from(count) {
        Ok(0) => vec![0],
        Ok(count @ 1..=INDEX_MAX) => {
            let places = (0..count).map(|_| usize::try_from(number()?).map_err(|_| wrong()));
            places.collect::<Result<_, Refusal>>()?
        }
        _ => return Err(wrong()),
    };
    Ok((path, cursor.rest))
}

#[cold]
fn other_message(schema: &Schema, id: SchemaName, found: Option<usize>, wanted: &str) -> Refusal {
    match found {
        Some(found) => Refusal::new(
            "other_message",
            format!("the record is a `{}`, not a `{wanted}`", schema.messages[found].name),
        ),
        None => Refusal::malformed(format!("{id} has no message at the record's index")),
    }
}
