//! What a sink takes: whether the rows' columns fit the table or topic, and the topic's schema.

use super::source::{ReaderSchema, format_word};
use super::{Planner, SinkPlan, TopicSchema};
use crate::catalog::TableShape;
use crate::connectors::kafka;
use arrow_schema::SchemaRef;
use millstream_config::{EncodeSpec, SinkSpec, SinkTo, SubjectStrategy};
use millstream_connectors::table::TableSink;
use millstream_core::{Encoder, SchemaKind};
use millstream_formats::{avro, json_schema, protobuf};
use millstream_registry::client::{Part, Strategy, record_name};
use millstream_tables::TableSpec;
use std::path::Path;

/// Encoders are made in one place, for sinks and for previews.
pub fn encoder(
    schema: Option<&TopicSchema>,
    id: Option<u32>,
    columns: SchemaRef,
) -> millstream_core::Result<Box<dyn Encoder>> {
    Ok(match schema {
        None => Box::new(millstream_formats::json::JsonEncoder::new(columns)?),
        Some(TopicSchema { kind: SchemaKind::Avro, text, .. }) => {
            Box::new(avro::AvroEncoder::new(text, id, columns)?)
        }
        Some(TopicSchema { kind: SchemaKind::Json, text, references, .. }) => {
            Box::new(json_schema::JsonSchemaEncoder::new(text, references, id, columns)?)
        }
        Some(TopicSchema { kind: SchemaKind::Protobuf, text, references, message, .. }) => {
            let message = message.as_deref();
            Box::new(protobuf::ProtobufEncoder::new(text, references, message, id, columns)?)
        }
    })
}

impl Planner<'_> {
    pub(super) async fn sink(
        &mut self,
        at: usize,
        sink: &SinkSpec,
        schema: &SchemaRef,
        source_partitions: u32,
    ) -> Option<SinkPlan> {
        match &sink.to {
            SinkTo::Discard(_) => Some(SinkPlan::Discard),
            SinkTo::Kafka(to) => self.kafka_sink(at, to, schema).await,
            SinkTo::Cql(to) => self.cql_sink(at, &to.cql, schema).await,
            SinkTo::Mongo(to) => self.mongo_sink(at, &to.mongodb, schema).await,
            SinkTo::Postgres(to) => self.postgres_sink(at, &to.postgres, schema).await,
            SinkTo::Http(to) => self.http_sink(at, &to.http, schema),
            SinkTo::Files(to) => self.files_sink(at, &to.files, schema),
            SinkTo::Stdout(to) => self.stdout_sink(at, to.stdout, schema),
            SinkTo::Table(to) => {
                let key: Vec<_> = to.key.iter().chain(&to.clustering).cloned().collect();
                if let Err(message) = TableSink::accepts(schema, &key, to.timestamp.as_deref()) {
                    self.mistake(&format!("/sinks/{at}"), message, None);
                    return None;
                }
                let spec = TableSpec {
                    name: to.table.clone(),
                    columns: schema.clone(),
                    partition_key: to.key.clone(),
                    clustering: to.clustering.clone(),
                    ttl: to.ttl.map(|p| p.0),
                    grace: to.grace.map_or(TableSpec::GRACE, |p| p.0),
                };
                if let Err(error) = self.catalog.home().tables.check_table(&spec) {
                    self.mistake(&format!("/sinks/{at}/table"), error.to_string(), None);
                    return None;
                }
                let shape = TableShape {
                    columns: schema.clone(),
                    partition_key: to.key.clone(),
                    clustering: to.clustering.clone(),
                };
                self.catalog.will_have_table(&to.table, shape);
                Some(SinkPlan::Table(spec))
            }
            SinkTo::Topic(to) => {
                let columns = kafka::topic_columns(to);
                if let Err(message) = columns.accepts(schema) {
                    self.mistake(&format!("/sinks/{at}"), message, None);
                    return None;
                }
                let there = self.catalog.topic(&to.topic);
                if let (Some(there), Some(wanted)) = (there, to.partitions)
                    && there != wanted
                {
                    let message =
                        format!("topic `{}` has {there} partitions, not {wanted}", to.topic);
                    let hint = format!("write `partitions: {there}`, or leave it out");
                    self.mistake(&format!("/sinks/{at}/partitions"), message, Some(hint));
                }
                let partitions = there.or(to.partitions).unwrap_or(source_partitions);
                let values = columns.value_schema(schema);
                let schema = self.topic_schema(at, &to.format, &to.topic, &values).await?;
                self.catalog.will_have_topic(&to.topic, partitions);
                Some(SinkPlan::Topic { topic: to.topic.clone(), partitions, schema })
            }
        }
    }

    /// The schema of a topic's records, if the format has one; the outer `None` after a mistake.
    pub(super) async fn topic_schema(
        &mut self,
        at: usize,
        format: &EncodeSpec,
        topic: &str,
        columns: &SchemaRef,
    ) -> Option<Option<TopicSchema>> {
        let Some(options) = options(format) else { return Some(None) };
        let place = format!("/sinks/{at}/format");
        let file = self.file;
        let registry =
            self.registry(file.spec.sink_registry(at), &format!("/sinks/{at}/registry"))?;
        let takes_newest = options.kind == SchemaKind::Protobuf || !registry.takes_schemas();
        let written = match (options.file, takes_newest) {
            (Some(path), _) => Some(self.sink_schema_file(&options, &place, path)?),
            (None, true) => None,
            (None, false) => Some(ReaderSchema {
                text: made_from_columns(format, topic, columns),
                references: Vec::new(),
            }),
        };
        let subject = self.subject(&options, &place, format, topic, columns, written.as_ref())?;
        let is_there = written.is_none();
        let ReaderSchema { text, references } = match written {
            Some(written) => written,
            None => self.schema_of_subject(options.kind, &registry, &subject, &place).await?,
        };
        let schema = TopicSchema {
            kind: options.kind,
            registry,
            subject,
            text,
            references,
            message: options.message.map(str::to_owned),
            is_there,
        };
        if let Err(error) = encoder(Some(&schema), Some(0), columns.clone()) {
            let hint = is_there.then(|| {
                let subject = &schema.subject;
                format!(
                    "the rows are written with the newest schema of subject `{subject}`: SELECT \
                     its fields, or name a `schema_file`"
                )
            });
            self.mistake(&place, error.chain(), hint);
            return None;
        }
        if !is_there {
            self.accepted(&schema, &place).await;
            let TopicSchema { registry, subject, kind, text, .. } = &schema;
            self.catalog.will_have_subject(registry, subject, *kind, text);
        }
        Some(Some(schema))
    }

    fn sink_schema_file(
        &mut self,
        options: &Options,
        place: &str,
        path: &Path,
    ) -> Option<ReaderSchema> {
        let place = format!("{place}/{}/schema_file", format_word(options.kind));
        let schema = self.schema_files(options.kind, &place, path)?;
        if let Some((name, _)) = schema.references.first() {
            let message = format!("the schema imports `{name}`, which it would have to refer to");
            let hint = "register both, the schema with its references, and leave `schema_file` out";
            self.mistake(&place, message, Some(hint.into()));
            return None;
        }
        Some(schema)
    }

    /// The subject of a sink's schema.
    fn subject(
        &mut self,
        options: &Options,
        place: &str,
        format: &EncodeSpec,
        topic: &str,
        columns: &SchemaRef,
        written: Option<&ReaderSchema>,
    ) -> Option<String> {
        if let Some(subject) = options.subject {
            return Some(subject.to_owned());
        }
        let strategy = match options.strategy {
            SubjectStrategy::Topic => Strategy::Topic,
            SubjectStrategy::Record => Strategy::Record,
            SubjectStrategy::TopicRecord => Strategy::TopicRecord,
        };
        let record = match (options.kind, written) {
            _ if strategy == Strategy::Topic => Some(String::new()),
            (SchemaKind::Protobuf, Some(written)) => {
                protobuf::message_name(&written.text, &written.references, options.message).ok()
            }
            (SchemaKind::Protobuf, None) => options.message.map(str::to_owned),
            (kind, Some(written)) => record_name(kind, &written.text),
            // What the sink would name it is what it looks for.
            (kind, None) => record_name(kind, &made_from_columns(format, topic, columns)),
        };
        if record.is_none() {
            let message = "the schema has no name to make a subject of";
            let hint = match options.kind {
                SchemaKind::Avro => "write a record, or name the `subject`",
                SchemaKind::Json => "give it a `title`, or name the `subject`",
                SchemaKind::Protobuf => "name the `message`, or the `subject`",
            };
            self.mistake(place, message, Some(hint.into()));
        }
        Some(strategy.subject(topic, Part::Value, &record?))
    }

    /// Sees that the registry has the schema, or would take it.
    async fn accepted(&mut self, schema: &TopicSchema, place: &str) {
        let TopicSchema { kind, registry, subject, text, .. } = schema;
        // Cases run without what is elsewhere.
        if registry.place().is_some() && !self.catalog.asks_elsewhere() {
            return;
        }
        let found = match registry.has(subject, *kind, text).await {
            Ok(true) => return,
            Ok(false) => registry.incompatibilities(subject, *kind, text).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(reasons) if reasons.is_empty() && registry.takes_schemas() => {}
            Ok(reasons) if reasons.is_empty() => {
                let called = registry.called();
                let message = format!("subject `{subject}` of {called} does not have this schema");
                let hint = "register it there, or let the sink do so: `auto_register: true` in \
                            `registry`";
                self.mistake(place, message, Some(hint.into()));
            }
            Ok(reasons) => {
                let message = format!(
                    "the rows' schema is not compatible with subject `{subject}`: {}",
                    reasons.join("; ")
                );
                let shows = match registry.place() {
                    None => format!("`millstream schemas show {subject}` shows what is there"),
                    Some(place) => format!("{place} has what is there"),
                };
                let hint = format!(
                    "use another topic or subject, or relax the subject's compatibility; {shows}"
                );
                self.mistake(place, message, Some(hint));
            }
            Err(error) => self.refusal(place, &error, None),
        }
    }
}

/// What the formats with a schema have in common.
struct Options<'a> {
    kind: SchemaKind,
    subject: Option<&'a str>,
    strategy: SubjectStrategy,
    file: Option<&'a Path>,
    message: Option<&'a str>,
}

fn options(format: &EncodeSpec) -> Option<Options<'_>> {
    let (kind, subject, file) = match format {
        EncodeSpec::Json(_) => return None,
        EncodeSpec::Avro(o) => (SchemaKind::Avro, &o.subject, &o.schema_file),
        EncodeSpec::JsonSchema(o) => (SchemaKind::Json, &o.subject, &o.schema_file),
        EncodeSpec::Protobuf(o) => (SchemaKind::Protobuf, &o.subject, &o.schema_file),
    };
    let message = match format {
        EncodeSpec::Protobuf(options) => options.message.as_deref(),
        _ => None,
    };
    let (strategy, subject, file) = (subject.strategy, subject.name.as_deref(), file.as_deref());
    Some(Options { kind, subject, strategy, file, message })
}

fn made_from_columns(format: &EncodeSpec, topic: &str, columns: &SchemaRef) -> String {
    match format {
        EncodeSpec::Avro(options) => {
            avro::avro_schema_for(&options.name.clone().unwrap_or(avro_name(topic)), columns)
        }
        EncodeSpec::JsonSchema(options) => {
            json_schema::json_schema_for(options.title.as_deref().unwrap_or(topic), columns)
        }
        EncodeSpec::Protobuf(_) | EncodeSpec::Json(_) => String::new(),
    }
}

/// A topic's name as the name of an Avro record.
fn avro_name(topic: &str) -> String {
    let mut name: String =
        topic.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    name
}
