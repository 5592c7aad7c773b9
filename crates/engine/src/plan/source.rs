//! What a source's records are: its partitions and columns, and which of these are used.

use super::{Planner, nearest, schema_of};
use crate::registries::SchemaRegistry;
use crate::{positions, references};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use millstream_config::{DecodeSpec, Input, PipelineSpec, SourceFrom};
use millstream_core::{Disposition, SchemaKind};
use millstream_formats::text::{TextDecoder, TextOptions};
use millstream_formats::{avro, json_schema, protobuf};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The schema that rows are given in.
pub(super) struct ReaderSchema {
    pub text: String,
    /// What it refers to; Avro's are written out in the text.
    pub references: Vec<(String, Arc<str>)>,
}

impl Planner<'_> {
    /// Partitions, all columns, and the reader schema where the format has one.
    pub(super) async fn source(
        &mut self,
        spec: &PipelineSpec,
    ) -> Option<(u32, SchemaRef, Option<ReaderSchema>)> {
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
            SourceFrom::Kafka(from) => self.kafka_source(spec, &from.kafka).await,
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
                let (subject, file) = (&options.subject, &options.schema_file);
                let reader = self.reader_schema(spec, SchemaKind::Avro, subject, file).await?;
                (self.columns(avro::arrow_schema(&reader.text))?, Some(reader))
            }
            DecodeSpec::Protobuf(options) => {
                let (subject, file) = (&options.subject, &options.schema_file);
                let reader = self.reader_schema(spec, SchemaKind::Protobuf, subject, file).await?;
                let message = options.message.as_deref();
                let columns =
                    protobuf::arrow_schema(&reader.text, &reader.references, message, None);
                (self.columns(columns)?, Some(reader))
            }
            DecodeSpec::JsonSchema(options) => {
                let (subject, file) = (&options.subject, &options.schema_file);
                let reader = self.reader_schema(spec, SchemaKind::Json, subject, file).await?;
                let columns = json_schema::arrow_schema(&reader.text, &reader.references);
                (self.columns(columns)?, Some(reader))
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

    fn columns(&mut self, columns: millstream_core::Result<SchemaRef>) -> Option<SchemaRef> {
        match columns {
            Ok(columns) => Some(columns),
            Err(error) => {
                self.mistake("/source/format", error.chain(), None);
                None
            }
        }
    }

    /// The text of a schema file, and of the files that it imports.
    pub(super) fn schema_files(
        &mut self,
        kind: SchemaKind,
        place: &str,
        path: &Path,
    ) -> Option<ReaderSchema> {
        let text = self.schema_file(place, path)?;
        let mut references: Vec<(String, Arc<str>)> = Vec::new();
        if kind != SchemaKind::Protobuf {
            return Some(ReaderSchema { text, references });
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut due = vec![protobuf::imports(&text)];
        while let Some(imports) = due.pop() {
            let imports = match imports {
                Ok(imports) => imports,
                Err(error) => {
                    self.mistake(place, error.chain(), None);
                    return None;
                }
            };
            for name in imports {
                if references.iter().all(|(known, _)| *known != name) {
                    let text = self.schema_file(place, &folder.join(&name))?;
                    due.push(protobuf::imports(&text));
                    references.push((name, text.into()));
                }
            }
        }
        Some(ReaderSchema { text, references })
    }

    /// The schema of a file, or the newest of a subject.
    async fn reader_schema(
        &mut self,
        spec: &PipelineSpec,
        kind: SchemaKind,
        subject: &Option<String>,
        file: &Option<PathBuf>,
    ) -> Option<ReaderSchema> {
        if let Some(path) = file {
            let place = format!("/source/format/{}/schema_file", format_word(kind));
            return self.schema_files(kind, &place, path);
        }
        let subject = subject.clone().unwrap_or_else(|| format!("{}-value", spec.source.name()));
        if self.catalog.is_untold_topic(&spec.source.name()) {
            return None;
        }
        let registry = self.registry(spec.source_registry(), "/source")?;
        self.schema_of_subject(kind, &registry, &subject, "/source/format").await
    }

    /// The newest schema of a subject.
    pub(super) async fn schema_of_subject(
        &mut self,
        kind: SchemaKind,
        registry: &SchemaRegistry,
        subject: &str,
        place: &str,
    ) -> Option<ReaderSchema> {
        let found = match self.catalog.schema(registry, subject).await {
            Ok(Some(schema)) if schema.kind != kind => {
                let (found, wanted) = (kind_name(schema.kind), kind_name(kind));
                let message = format!("subject `{subject}` has {found} schemas, not {wanted} ones");
                let hint = "write the format that the subject is of, or another `subject`";
                self.mistake(place, message, Some(hint.into()));
                return None;
            }
            Ok(Some(schema)) if kind == SchemaKind::Avro => references::inline(&schema)
                .map(|text| Some(ReaderSchema { text, references: Vec::new() })),
            Ok(Some(schema)) => Ok(Some(ReaderSchema {
                text: schema.text.to_string(),
                references: schema.references.clone(),
            })),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        match found {
            Ok(Some(schema)) => Some(schema),
            Ok(None) => {
                let hint = format!("{}, or name a `schema_file`", registry.by_hand(subject));
                let message = format!("{} has no subject `{subject}`", registry.called());
                self.mistake(place, message, Some(hint));
                None
            }
            Err(error) => {
                let hint = "start it, or look whether `registry` names it";
                let is_down = error.disposition() == Disposition::Retry;
                self.refusal(place, &error, is_down.then(|| hint.into()));
                None
            }
        }
    }

    /// The source's columns that the steps and sinks on it use, or of Avro and Protobuf records the
    /// paths of the fields; `None` when all are.
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
                DecodeSpec::Avro(_) | DecodeSpec::Protobuf(_) => query.input_paths(),
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

/// The format of a kind of schema, as a file names it.
pub(super) fn format_word(kind: SchemaKind) -> &'static str {
    match kind {
        SchemaKind::Avro => "avro",
        SchemaKind::Json => "json_schema",
        SchemaKind::Protobuf => "protobuf",
    }
}

pub fn kind_name(kind: SchemaKind) -> &'static str {
    match kind {
        SchemaKind::Avro => "Avro",
        SchemaKind::Json => "JSON",
        SchemaKind::Protobuf => "Protobuf",
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
