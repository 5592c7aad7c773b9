//! A plan in words: what `millstream explain` shows.

use crate::flow::Node;
use crate::plan::{Plan, SinkPlan, TopicSchema, kind_name};
use arrow_schema::Schema;
use millstream_core::types;
use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
pub struct Explain {
    pub pipeline: String,
    pub source: ExplainSource,
    pub steps: Vec<ExplainStep>,
    pub sinks: Vec<ExplainSink>,
    pub dead_letters: String,
    /// The brokers of the cluster that has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letters_on: Option<String>,
    /// Partition tasks that run side by side.
    pub parallelism: u32,
}

#[derive(Debug, Clone, Serialize)]
pub struct ExplainSource {
    pub name: String,
    pub partitions: u32,
    pub columns: Vec<Column>,
    /// How many columns the source's rows have; those not listed are skipped, never built.
    pub columns_there: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reader_schema: Option<String>,
    /// Where its schemas are, when not in the embedded registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ExplainStep {
    pub name: String,
    pub from: String,
    pub lookups: Vec<ExplainLookup>,
    pub stages: String,
    pub columns: Vec<Column>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ExplainLookup {
    pub name: String,
    pub key: String,
    /// `LEFT JOIN` or `JOIN`.
    pub join: &'static str,
}

#[derive(Debug, Clone, Serialize)]
pub struct ExplainSink {
    pub name: String,
    pub from: String,
    pub to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// `Avro`, `JSON` or `Protobuf`, with a schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    pub columns: Vec<Column>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: String,
    pub nullable: bool,
}

impl Plan {
    pub fn explain(&self) -> Explain {
        let label = |node: Node| match node {
            Node::Source => "source".to_owned(),
            Node::Step(at) => self.steps[at].name.to_string(),
        };
        Explain {
            pipeline: self.spec.pipeline.clone(),
            source: ExplainSource {
                name: self.source.name.clone(),
                partitions: self.source.partitions,
                columns: columns(&self.decoded),
                columns_there: self.columns_there,
                reader_schema: self.source.reader_schema.clone(),
                registry: self.source.registry.place().map(str::to_owned),
            },
            steps: self
                .steps
                .iter()
                .map(|step| ExplainStep {
                    name: step.name.to_string(),
                    from: label(step.input),
                    lookups: step
                        .query
                        .lookups()
                        .iter()
                        .map(|used| ExplainLookup {
                            name: used.name.clone(),
                            key: used.key_text.clone(),
                            join: if used.left { "LEFT JOIN" } else { "JOIN" },
                        })
                        .collect(),
                    stages: step.query.explain(),
                    columns: columns(&step.query.schema()),
                })
                .collect(),
            sinks: self
                .sinks
                .iter()
                .map(|sink| ExplainSink {
                    name: sink.name.to_string(),
                    from: label(sink.input),
                    to: match &sink.to {
                        SinkPlan::Table(spec) => {
                            let key = spec.partition_key.join(", ");
                            match spec.clustering.as_slice() {
                                [] => format!("table {} by {key}", spec.name),
                                rest => {
                                    format!("table {} by ({key}), {}", spec.name, rest.join(", "))
                                }
                            }
                        }
                        SinkPlan::Topic { topic, partitions, .. } => {
                            format!("topic {topic} of {partitions} partitions")
                        }
                        SinkPlan::Kafka { to, .. } => format!("kafka {to}"),
                        SinkPlan::Cql { to } => format!("cql {to}"),
                        SinkPlan::Postgres { to } => format!("postgres {to}"),
                        SinkPlan::Outside { to } => to.clone(),
                        SinkPlan::Discard => "nowhere".to_owned(),
                    },
                    schema: schema_of(&sink.to).map(|schema| schema.text.clone()),
                    schema_kind: schema_of(&sink.to).map(|schema| kind_name(schema.kind)),
                    subject: schema_of(&sink.to).map(|schema| schema.subject.clone()),
                    registry: schema_of(&sink.to)
                        .and_then(|schema| Some(schema.registry.place()?.to_owned())),
                    columns: columns(&sink.schema),
                })
                .collect(),
            dead_letters: self.spec.dead_letters_topic(),
            dead_letters_on: {
                let given = self.spec.dead_letters.as_ref();
                given.and_then(|given| Some(given.kafka.as_ref()?.brokers.join(", ")))
            },
            parallelism: self.source.partitions,
        }
    }
}

fn schema_of(to: &SinkPlan) -> Option<&TopicSchema> {
    match to {
        SinkPlan::Topic { schema, .. } | SinkPlan::Kafka { schema, .. } => schema.as_ref(),
        SinkPlan::Table(_)
        | SinkPlan::Cql { .. }
        | SinkPlan::Postgres { .. }
        | SinkPlan::Outside { .. }
        | SinkPlan::Discard => None,
    }
}

fn columns(schema: &Schema) -> Vec<Column> {
    schema
        .fields()
        .iter()
        .map(|field| Column {
            name: field.name().clone(),
            data_type: types::name(field.data_type()),
            nullable: field.is_nullable(),
        })
        .collect()
}
