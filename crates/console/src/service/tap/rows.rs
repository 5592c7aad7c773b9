//! Turns records into rows: by schema id, by what the value looks like, or as asked for.

use super::super::rows::{base64, objects, text};
use crate::answers::{self, Tapped};
use crate::protocol::RowFormat;
use crate::{Error, Result};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use millstream_core::{Batch, Decoder, Disposition, Records, SchemaKind};
use millstream_engine::SchemaRegistry;
use millstream_formats::avro::{self, AvroDecoder, AvroOptions, AvroText, Framing};
use millstream_formats::json::{JsonDecoder, JsonOptions};
use millstream_formats::json_schema::{JsonSchemaDecoder, JsonSchemaOptions};
use millstream_formats::protobuf::{self, ProtobufDecoder, ProtobufOptions};
use millstream_formats::text::{TextDecoder, TextOptions};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

const RECORD_BYTES_MAX: usize = 128 << 20;

/// Keeps a decoder and the plan of the condition for each shape that was met.
pub struct Rows {
    registry: SchemaRegistry,
    format: RowFormat,
    filter: Option<String>,
    framed: HashMap<u32, Writer>,
    json: Option<Shaped>,
    text: Option<Shaped>,
    /// What the condition could not be asked of.
    pub not_shown: Tapped,
}

/// What is known of a schema id.
enum Writer {
    Columns(Box<Shaped>),
    /// It refers to other schemas: shown record by record, without columns to ask about.
    Records(AvroText),
    /// There is no such schema, or it cannot be read; the text says why.
    Unknown(String),
}

struct Shaped {
    decoder: Box<dyn Decoder>,
    schema: SchemaRef,
    filter: Option<millstream_sql::Step>,
}

/// How a value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Behind the id of a schema.
    Framed(u32),
    Json,
    Text,
    Raw,
}

impl Rows {
    pub fn new(registry: SchemaRegistry, format: RowFormat, filter: Option<String>) -> Self {
        Self {
            registry,
            format,
            filter,
            framed: HashMap::new(),
            json: None,
            text: None,
            not_shown: Tapped::default(),
        }
    }

    /// Finds what is wrong with the condition before there is a row: its syntax, and its columns
    /// where a topic without records has a schema for them.
    pub async fn check_condition(&mut self, empty_topic: Option<&str>) -> Result<()> {
        let Some(condition) = &self.filter else { return Ok(()) };
        millstream_sql::check_syntax(&sql_of(condition)).map_err(refused)?;
        let avro = matches!(self.format, RowFormat::Auto | RowFormat::Avro);
        let Some(topic) = empty_topic.filter(|_| avro) else { return Ok(()) };
        if let Some(schema) = self.registry.latest(&format!("{topic}-value")).await?
            && schema.kind == SchemaKind::Avro
            && schema.references.is_empty()
            && let Ok(columns) = avro::arrow_schema(&schema.text)
        {
            plan(condition, &columns)?;
        }
        Ok(())
    }

    pub async fn of(&mut self, partition: u32, records: &Records) -> Result<Vec<answers::Record>> {
        let mut rows = Vec::with_capacity(records.len());
        let mut from = 0;
        while from < records.len() {
            let kind = self.kind(records.value(from));
            let mut to = from + 1;
            while to < records.len() && self.kind(records.value(to)) == kind {
                to += 1;
            }
            let run = records.slice_rows(from, to);
            self.run(kind, partition, &run, &mut rows).await?;
            from = to;
        }
        Ok(rows)
    }

    fn kind(&self, value: Option<&[u8]>) -> Kind {
        let Some(value) = value else { return Kind::Raw };
        let framed = match value {
            [0, a, b, c, d, ..] => Some(u32::from_be_bytes([*a, *b, *c, *d])),
            _ => None,
        };
        match (self.format, framed) {
            (RowFormat::Raw, _) => Kind::Raw,
            (RowFormat::Avro | RowFormat::Auto, Some(id)) => Kind::Framed(id),
            (RowFormat::Avro, None) => Kind::Raw,
            (RowFormat::Text, _) => Kind::Text,
            (RowFormat::Json, _) => Kind::Json,
            (RowFormat::Auto, None) => match value.trim_ascii_start().first() {
                Some(b'{') => Kind::Json,
                _ => Kind::Text,
            },
        }
    }

    async fn run(
        &mut self,
        kind: Kind,
        partition: u32,
        records: &Records,
        rows: &mut Vec<answers::Record>,
    ) -> Result<()> {
        let filtered = self.filter.is_some();
        let shaped = match kind {
            Kind::Framed(id) => match self.by_id(id).await? {
                Writer::Columns(shaped) => shaped,
                Writer::Records(_) | Writer::Unknown(_) if filtered => {
                    self.not_shown.undecoded += records.len() as u64;
                    return Ok(());
                }
                Writer::Records(text) => {
                    for row in 0..records.len() {
                        let plain = plain(kind, partition, records, row);
                        rows.push(one_by_one(text, records.value(row).unwrap_or_default(), plain));
                    }
                    return Ok(());
                }
                Writer::Unknown(why) => {
                    rows.extend((0..records.len()).map(|row| answers::Record {
                        undecoded: Some(why.clone()),
                        ..plain(Kind::Raw, partition, records, row)
                    }));
                    return Ok(());
                }
            },
            Kind::Json if filtered => self.as_json(records)?,
            Kind::Text if filtered => self.as_text()?,
            // A condition on columns holds for no record that has none.
            Kind::Raw if filtered => {
                self.not_shown.undecoded += records.len() as u64;
                return Ok(());
            }
            Kind::Json | Kind::Text | Kind::Raw => {
                rows.extend((0..records.len()).map(|row| plain(kind, partition, records, row)));
                return Ok(());
            }
        };
        shaped.decoder.prepare(records).await?;
        let decoded = shaped.decoder.decode(records)?;
        let undecoded = if filtered { decoded.rejected.len() as u64 } else { 0 };
        for rejected in decoded.rejected.iter().filter(|_| !filtered) {
            let row = rejected.source_row as usize;
            rows.push(answers::Record {
                undecoded: Some(rejected.reason.clone()),
                ..plain(Kind::Raw, partition, records, row)
            });
        }
        let mut failed = Vec::new();
        let Batch { rows: columns, origin } = match &shaped.filter {
            Some(step) => {
                let ran = step.run(decoded.batch).await?;
                failed = ran.rejected;
                ran.batch
            }
            None => decoded.batch,
        };
        self.not_shown.undecoded += undecoded;
        self.not_shown.failed += failed.len() as u64;
        if self.not_shown.failure.is_none() {
            self.not_shown.failure = failed.into_iter().next().map(|rejected| rejected.reason);
        }
        for (row, value) in objects(&columns)?.into_iter().enumerate() {
            let source = origin.of(row) as usize;
            rows.push(answers::Record { value, ..plain(kind, partition, records, source) });
        }
        Ok(())
    }

    async fn by_id(&mut self, id: u32) -> Result<&mut Writer> {
        if !self.framed.contains_key(&id) {
            let writer = self.writer(id).await?;
            self.framed.insert(id, writer);
        }
        self.framed.get_mut(&id).ok_or_else(|| Error::failure("a schema vanished"))
    }

    async fn writer(&mut self, id: u32) -> Result<Writer> {
        let schemas = self.registry.schemas();
        let schema = match schemas.by_id(id).await {
            Ok(schema) => schema,
            // Other values may have a schema that is there; a registry that is down has none.
            Err(error) if error.disposition() == Disposition::Reject => {
                return Ok(Writer::Unknown(error.chain()));
            }
            Err(error) => return Err(error.into()),
        };
        let (text, references) = (schema.text.to_string(), schema.references.clone());
        if schema.kind == SchemaKind::Avro && !references.is_empty() {
            let references = references.iter().map(|(_, text)| &**text);
            return Ok(match AvroText::new(&schema.text, references) {
                Ok(text) => Writer::Records(text),
                Err(error) => Writer::Unknown(error.chain()),
            });
        }
        let decoder: millstream_core::Result<Box<dyn Decoder>> = match schema.kind {
            SchemaKind::Avro => {
                let options = AvroOptions {
                    framing: Framing::Confluent,
                    writer_schema: None,
                    reader_schema: text,
                    columns: None,
                    record_bytes_max: RECORD_BYTES_MAX,
                };
                AvroDecoder::new(options, schemas).map(|decoder| Box::new(decoder) as _)
            }
            SchemaKind::Json => {
                let options = JsonSchemaOptions {
                    framing: Framing::Confluent,
                    reader_schema: text,
                    references,
                    columns: None,
                    record_bytes_max: RECORD_BYTES_MAX,
                };
                JsonSchemaDecoder::new(options, schemas).map(|decoder| Box::new(decoder) as _)
            }
            SchemaKind::Protobuf => {
                let options = ProtobufOptions {
                    framing: protobuf::Framing::Confluent,
                    reader_schema: text,
                    references,
                    message: None,
                    columns: None,
                    record_bytes_max: RECORD_BYTES_MAX,
                };
                ProtobufDecoder::new(options, schemas).map(|decoder| Box::new(decoder) as _)
            }
        };
        Ok(match decoder {
            Ok(decoder) => Writer::Columns(Box::new(self.shaped(decoder)?)),
            Err(error) => Writer::Unknown(error.chain()),
        })
    }

    /// JSON has no schema: the columns are those that were seen so far.
    fn as_json(&mut self, records: &Records) -> Result<&mut Shaped> {
        let mut lines = Vec::new();
        for record in records.iter() {
            let value = record.value.unwrap_or_default();
            if serde_json::from_slice::<serde::de::IgnoredAny>(value).is_ok() {
                lines.extend(value.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
                lines.push(b'\n');
            }
        }
        let seen = arrow_json::reader::infer_json_schema(lines.as_slice(), None)
            .map(|(schema, _)| schema)
            .unwrap_or_else(|_| Schema::empty());
        let known = self.json.as_ref().map(|shaped| shaped.schema.clone());
        let mut schemas = vec![seen];
        schemas.extend(known.iter().map(|schema| schema.as_ref().clone()));
        let wanted = match Schema::try_merge(schemas) {
            Ok(merged) => Arc::new(merged),
            // A column of another type than before: what was seen first holds.
            Err(_) => known.clone().unwrap_or_else(|| Arc::new(Schema::empty())),
        };
        match known {
            Some(known) if known.fields().len() == wanted.fields().len() => {}
            _ => {
                let decoder =
                    JsonDecoder::new(wanted, JsonOptions { record_bytes_max: RECORD_BYTES_MAX })?;
                self.json = Some(self.shaped(Box::new(decoder))?);
            }
        }
        self.json.as_mut().ok_or_else(|| Error::failure("a decoder vanished"))
    }

    fn as_text(&mut self) -> Result<&mut Shaped> {
        if self.text.is_none() {
            let column = Field::new("value", DataType::Utf8, false);
            let columns = Arc::new(Schema::new(vec![column]));
            let options = TextOptions { record_bytes_max: RECORD_BYTES_MAX };
            let decoder = TextDecoder::new("(?s)^(?<value>.*)$", columns, options)?;
            self.text = Some(self.shaped(Box::new(decoder))?);
        }
        self.text.as_mut().ok_or_else(|| Error::failure("a decoder vanished"))
    }

    fn shaped(&self, decoder: Box<dyn Decoder>) -> Result<Shaped> {
        let schema = decoder.schema();
        let filter = match &self.filter {
            Some(condition) => Some(plan(condition, &schema)?),
            None => None,
        };
        Ok(Shaped { decoder, schema, filter })
    }
}

fn plan(condition: &str, schema: &SchemaRef) -> Result<millstream_sql::Step> {
    let query = millstream_sql::plan(&sql_of(condition), schema, &BTreeMap::new());
    Ok(query.map_err(refused)?.bind(Vec::new())?)
}

fn sql_of(condition: &str) -> String {
    format!("SELECT * FROM input WHERE ({condition}\n)")
}

fn refused(errors: Vec<millstream_sql::SqlError>) -> Error {
    let said = errors.into_iter().map(|error| match error.hint {
        Some(hint) => format!("{} ({hint})", error.message),
        None => error.message,
    });
    Error::mistake(format!("the condition: {}", said.collect::<Vec<_>>().join("; ")))
}

fn one_by_one(text: &AvroText, value: &[u8], plain: answers::Record) -> answers::Record {
    const FRAME_BYTES: usize = 5;
    let shown = text.to_json(value.get(FRAME_BYTES..).unwrap_or_default());
    match shown {
        Ok(json) => answers::Record {
            value: serde_json::from_str(&json).unwrap_or(Value::String(json)),
            ..plain
        },
        Err(error) => answers::Record {
            value: Value::String(base64(value)),
            undecoded: Some(error.chain()),
            ..plain
        },
    }
}

/// A record without columns.
fn plain(kind: Kind, partition: u32, records: &Records, row: usize) -> answers::Record {
    let record = records.get(row);
    answers::Record {
        partition,
        offset: record.offset,
        timestamp: record.timestamp,
        key: record.key.map(|key| text(key).0),
        schema_id: match kind {
            Kind::Framed(id) => Some(id),
            _ => None,
        },
        value: match (kind, record.value) {
            (_, None) => Value::Null,
            (Kind::Json, Some(value)) => {
                serde_json::from_slice(value).unwrap_or_else(|_| Value::String(text(value).0))
            }
            (Kind::Raw, Some(value)) => Value::String(base64(value)),
            (Kind::Framed(_) | Kind::Text, Some(value)) => Value::String(text(value).0),
        },
        headers: record
            .headers
            .iter()
            .map(|header| (text(header.key).0, text(header.value.unwrap_or_default()).0))
            .collect(),
        undecoded: None,
    }
}
