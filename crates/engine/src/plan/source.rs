//! What a source's records are: its partitions and columns, and which of these are used.

use super::{Planner, nearest, schema_of};
use crate::positions;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use millstream_config::{AvroDecode, DecodeSpec, Input, PipelineSpec, SourceFrom};
use millstream_formats::avro;
use millstream_formats::text::{TextDecoder, TextOptions};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Planner<'_> {
    /// Partitions, all columns, and the reader schema of an Avro source.
    pub(super) async fn source(
        &mut self,
        spec: &PipelineSpec,
    ) -> Option<(u32, SchemaRef, Option<String>)> {
        let partitions = match &spec.source.from {
            SourceFrom::Topic(from) => match self.catalog.topic(&from.topic) {
                Some(partitions) => partitions,
                None if self.catalog.is_untold_topic(&from.topic) => 1,
                None => {
                    let hint = nearest(&from.topic, self.catalog.topic_names()).unwrap_or_else(|| {
                        format!(
                            "make it with `millstream topics create {} --partitions 1`, or run the \
                             pipeline that writes it in the same command",
                            from.topic
                        )
                    });
                    let message = format!("there is no topic `{}`", from.topic);
                    self.mistake("/source/topic", message, Some(hint));
                    return None;
                }
            },
            SourceFrom::Kafka(from) => self.kafka_source(spec, &from.kafka).await?,
            SourceFrom::File(from) => {
                let path = self.file.resolve(&from.file);
                if let Err(error) = millstream_connectors::file::open(&path) {
                    self.mistake("/source/file", error, None);
                    return None;
                }
                1
            }
        };
        let (columns, reader) = match &spec.source.format {
            DecodeSpec::Avro(options) => {
                let text = self.reader_schema(spec, options).await?;
                match avro::arrow_schema(&text) {
                    Ok(columns) => (columns, Some(text)),
                    Err(error) => {
                        self.mistake("/source/format", error.chain(), None);
                        return None;
                    }
                }
            }
            DecodeSpec::Json(options) => match &options.columns {
                Some(columns) => (schema_of(columns), None),
                None => (one_column("value"), None),
            },
            DecodeSpec::Csv(options) => (schema_of(&options.columns), None),
            DecodeSpec::Text(options) => {
                let columns = match &options.pattern {
                    Some(pattern) => {
                        let typed = options.columns.as_ref().map(schema_of);
                        let options = TextOptions { record_bytes_max: usize::MAX };
                        let columns = groups_of(pattern, typed.as_deref());
                        if let Err(error) = TextDecoder::new(pattern, columns.clone(), options) {
                            self.mistake("/source/format/text/pattern", error.chain(), None);
                            return None;
                        }
                        columns
                    }
                    None => one_column("line"),
                };
                (columns, None)
            }
        };
        Some((partitions, columns, reader))
    }

    async fn reader_schema(&mut self, spec: &PipelineSpec, options: &AvroDecode) -> Option<String> {
        if let Some(path) = &options.schema_file {
            return self.schema_file("/source/format/avro/schema_file", path);
        }
        let subject =
            options.subject.clone().unwrap_or_else(|| format!("{}-value", spec.source.name()));
        if self.catalog.is_untold_topic(&spec.source.name()) {
            return None;
        }
        match self.catalog.subject(&subject).await {
            Ok(Some(schema)) => Some(schema),
            Ok(None) => {
                let hint = format!(
                    "register it with `millstream schemas register {subject} FILE`, or name a \
                     `schema_file`"
                );
                let message = format!("the registry has no subject `{subject}`");
                self.mistake("/source/format", message, Some(hint));
                None
            }
            Err(error) => {
                self.mistake("/source/format", error.chain(), None);
                None
            }
        }
    }

    /// The source's columns that the steps and sinks on it use, or of Avro records the paths of the
    /// fields; `None` when all are.
    pub(super) fn used_columns(
        &mut self,
        spec: &PipelineSpec,
        whole: &SchemaRef,
        positions: &[&'static str],
        lookups: &BTreeMap<String, SchemaRef>,
    ) -> Option<Vec<String>> {
        let input = positions::schema_with(whole, positions);
        if (0..spec.sinks.len()).any(|at| spec.input_of_sink(at) == Input::Source) {
            return None;
        }
        let mut used = Vec::new();
        for (at, step) in spec.steps.iter().enumerate() {
            if spec.input_of_step(at) != Input::Source {
                continue;
            }
            // A mistake is reported by the real planning that follows.
            let query = millstream_sql::plan(&step.sql, &input, lookups).ok()?;
            used.extend(match &spec.source.format {
                DecodeSpec::Avro(_) => query.input_paths(),
                _ => query.input_columns(),
            });
        }
        used.sort();
        used.dedup();
        let names = || whole.fields().iter().map(|f| f.name());
        let mut columns: Vec<String> = names().flat_map(|name| paths_of(&used, name)).collect();
        if columns.is_empty() {
            // A row has to have something to be counted by.
            columns.extend(whole.fields().first().map(|f| f.name().clone()));
        }
        (!columns.iter().eq(names())).then_some(columns)
    }
}

/// A column that is used, or the paths of what is used of it.
fn paths_of(used: &[String], name: &String) -> Vec<String> {
    if used.contains(name) {
        return vec![name.clone()];
    }
    let within = |path: &&String| path.strip_prefix(name).is_some_and(|p| p.starts_with('.'));
    used.iter().filter(within).cloned().collect()
}

/// A column for each named group of a pattern: text, where no type is given. A type that is given
/// for no group is kept, for the decoder to refuse.
fn groups_of(pattern: &str, typed: Option<&Schema>) -> SchemaRef {
    let names: Vec<String> = regex::Regex::new(pattern)
        .map(|compiled| compiled.capture_names().flatten().map(str::to_owned).collect())
        .unwrap_or_default();
    let mut fields: Vec<Field> = names
        .iter()
        .map(|name| match typed.and_then(|typed| typed.field_with_name(name).ok()) {
            Some(field) => field.clone(),
            None => Field::new(name, DataType::Utf8, true),
        })
        .collect();
    let stray = typed.into_iter().flat_map(|typed| typed.fields().iter());
    fields.extend(
        stray.filter(|field| !names.contains(field.name())).map(|field| field.as_ref().clone()),
    );
    Arc::new(Schema::new(fields))
}

fn one_column(name: &str) -> SchemaRef {
    let field = Field::new(name, DataType::Utf8, true);
    Arc::new(Schema::new(vec![field]))
}

pub(super) fn cut_to(whole: &Schema, columns: &[String]) -> SchemaRef {
    let fields = whole.fields().iter().filter(|f| columns.contains(f.name())).cloned();
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
