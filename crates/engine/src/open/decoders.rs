//! Records to columns: a decoder for each partition task.

use crate::plan::{Plan, PlannedSource, schema_of};
use millstream_config::{DecodeSpec, Framing, SourceSpec, Tombstones};
use millstream_core::{Decoder, Schemas};
use millstream_formats::{avro, csv, json, json_schema, protobuf, text};
use std::sync::Arc;

pub type DecoderFactory = Box<dyn Fn() -> millstream_core::Result<Box<dyn Decoder>> + Send + Sync>;

/// Makes decoders for a plan's source.
pub fn decoder(plan: &Plan) -> DecoderFactory {
    let source = &plan.spec.source;
    let schemas = plan.source.registry.schemas();
    let factory = format_factory(source, &plan.source, schemas, plan.decoded.clone());
    match source.tombstones {
        Tombstones::DeadLetter => factory,
        Tombstones::Skip => {
            Box::new(move || Ok(millstream_formats::skipping_tombstones(factory()?)))
        }
    }
}

fn format_factory(
    source: &SourceSpec,
    planned: &PlannedSource,
    schemas: Arc<dyn Schemas>,
    decoded: arrow_schema::SchemaRef,
) -> DecoderFactory {
    let record_bytes_max = source.max_record_bytes.0 as usize;
    let reader_schema = planned.reader_schema.clone().unwrap_or_default();
    let (references, columns) = (planned.references.clone(), planned.columns.clone());
    match source.format.clone() {
        DecodeSpec::Avro(options) => Box::new(move || {
            let reader_schema = reader_schema.clone();
            Ok(Box::new(avro::AvroDecoder::new(
                avro::AvroOptions {
                    framing: framing(options.framing),
                    writer_schema: (options.framing == Framing::Bare)
                        .then(|| reader_schema.clone()),
                    reader_schema,
                    columns: columns.clone(),
                    record_bytes_max,
                },
                schemas.clone(),
            )?))
        }),
        DecodeSpec::Json(options) => Box::new(move || match &options.columns {
            Some(_) => {
                let options = json::JsonOptions { record_bytes_max };
                Ok(Box::new(json::JsonDecoder::new(decoded.clone(), options)?))
            }
            None => whole_text("value", decoded.clone(), record_bytes_max),
        }),
        DecodeSpec::JsonSchema(options) => Box::new(move || {
            let options = json_schema::JsonSchemaOptions {
                framing: framing(options.framing),
                reader_schema: reader_schema.clone(),
                references: references.clone(),
                columns: columns.clone(),
                record_bytes_max,
            };
            Ok(Box::new(json_schema::JsonSchemaDecoder::new(options, schemas.clone())?))
        }),
        DecodeSpec::Protobuf(options) => Box::new(move || {
            let options = protobuf::ProtobufOptions {
                framing: match options.framing {
                    Framing::Confluent => protobuf::Framing::Confluent,
                    Framing::Bare => protobuf::Framing::Bare,
                },
                reader_schema: reader_schema.clone(),
                references: references.clone(),
                message: options.message.clone(),
                columns: columns.clone(),
                record_bytes_max,
            };
            Ok(Box::new(protobuf::ProtobufDecoder::new(options, schemas.clone())?))
        }),
        DecodeSpec::Csv(options) => Box::new(move || {
            let csv_options = csv::CsvOptions {
                delimiter: options.delimiter.0,
                quote: Some(options.quote.0),
                record_bytes_max,
            };
            Ok(Box::new(csv::CsvDecoder::new(schema_of(&options.columns), csv_options)?))
        }),
        DecodeSpec::Text(options) => Box::new(move || match &options.pattern {
            Some(pattern) => {
                let options = text::TextOptions { record_bytes_max };
                Ok(Box::new(text::TextDecoder::new(pattern, decoded.clone(), options)?))
            }
            None => whole_text("line", decoded.clone(), record_bytes_max),
        }),
    }
}

fn framing(framing: Framing) -> avro::Framing {
    match framing {
        Framing::Confluent => avro::Framing::Confluent,
        Framing::Bare => avro::Framing::Bare,
    }
}

/// The record's text as one column.
fn whole_text(
    column: &str,
    columns: arrow_schema::SchemaRef,
    record_bytes_max: usize,
) -> millstream_core::Result<Box<dyn Decoder>> {
    let pattern = format!("(?s)^(?<{column}>.*)$");
    let options = text::TextOptions { record_bytes_max };
    Ok(Box::new(text::TextDecoder::new(&pattern, columns, options)?))
}

pub(super) fn format_name(format: &DecodeSpec) -> &'static str {
    match format {
        DecodeSpec::Avro(_) => "avro",
        DecodeSpec::Protobuf(_) => "protobuf",
        DecodeSpec::Json(_) => "json",
        DecodeSpec::JsonSchema(_) => "json_schema",
        DecodeSpec::Csv(_) => "csv",
        DecodeSpec::Text(_) => "text",
    }
}
