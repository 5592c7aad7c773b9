//! From a pipeline file to a plan: every name looked up, every type checked against the real
//! schemas, all mistakes found before a row flows. Planning changes nothing; `open` does.

mod cql;
mod kafka;
mod lookups;
mod mongo;
mod order;
mod postgres;
mod sinks;
mod source;
mod web;

pub use lookups::open_file_lookup;
pub use sinks::encoder;
pub use source::kind_name;

use crate::catalog::Catalog;
use crate::connectors::cql::Sessions;
use crate::flow::Node;
use crate::positions;
use crate::registries::SchemaRegistry;
use arrow_schema::SchemaRef;
use millstream_config::{
    Columns, DecodeSpec, Delivery, Input, Mistake, Mistakes, Pipeline as PipelineFile,
    PipelineSpec, RegistrySpec, SinkTo,
};
use millstream_core::{Disposition, Error, SchemaKind};
use millstream_cql::Table;
use millstream_formats::{avro, protobuf};
use millstream_sql::Query;
use millstream_tables::TableSpec;
use order::in_order;
use source::cut_to;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A pipeline that was checked and can be opened.
pub struct Plan {
    pub spec: PipelineSpec,
    pub source: PlannedSource,
    /// The columns that are decoded.
    pub decoded: SchemaRef,
    /// How many columns the source's rows have in all.
    pub columns_there: usize,
    pub positions: Vec<&'static str>,
    /// The columns of each look-up.
    pub lookups: BTreeMap<String, SchemaRef>,
    pub steps: Vec<PlannedStep>,
    pub sinks: Vec<PlannedSink>,
}

pub struct PlannedSource {
    pub name: String,
    pub partitions: u32,
    /// The reader schema, where the format has one.
    pub reader_schema: Option<String>,
    /// Where the schemas of its records are.
    pub registry: SchemaRegistry,
    /// The schemas that it refers to, under the names that it uses for them.
    pub references: Vec<(String, Arc<str>)>,
    /// The columns to decode, when not all are.
    pub columns: Option<Vec<String>>,
}

pub struct PlannedStep {
    pub name: Arc<str>,
    pub input: Node,
    pub query: Query,
}

pub struct PlannedSink {
    pub name: Arc<str>,
    pub input: Node,
    pub schema: SchemaRef,
    pub to: SinkPlan,
}

pub enum SinkPlan {
    Table(TableSpec),
    Topic {
        topic: String,
        partitions: u32,
        schema: Option<TopicSchema>,
    },
    /// A topic of a Kafka cluster, or the column that names it.
    Kafka {
        to: String,
        schema: Option<TopicSchema>,
    },
    /// A server, files or the standard output, in words.
    Outside {
        to: String,
    },
    /// A table of Cassandra or ScyllaDB.
    Cql {
        to: String,
    },
    /// A table of PostgreSQL.
    Postgres {
        to: String,
    },
    Discard,
}

/// The schema of a topic's records, where the format has one, and where it is registered.
#[derive(Debug, Clone)]
pub struct TopicSchema {
    pub kind: SchemaKind,
    pub registry: SchemaRegistry,
    pub subject: String,
    pub text: String,
    /// The schemas that it refers to, under the names that it uses for them.
    pub references: Vec<(String, Arc<str>)>,
    /// The message of a Protobuf schema; its first without one.
    pub message: Option<String>,
    /// The subject has it already: it is not registered.
    pub is_there: bool,
}

/// Plans pipelines that may feed each other: one that writes a topic or table comes before those
/// that read it. The plans come in that order. A pipeline that reads what only something with
/// mistakes writes has no plan, and no mistake by that.
pub async fn plan_all(
    files: &[PipelineFile],
    catalog: &mut Catalog,
) -> Result<Vec<Plan>, Mistakes> {
    let mut plans = Vec::new();
    let mut mistakes = Vec::new();
    for file in in_order(files) {
        match plan(file, catalog).await {
            Ok(plan) => plans.push(plan),
            Err(found) => {
                for sink in &file.spec.sinks {
                    match &sink.to {
                        SinkTo::Topic(to) => catalog.cannot_tell_topic(&to.topic),
                        SinkTo::Table(to) => catalog.cannot_tell_table(&to.table),
                        SinkTo::Kafka(_)
                        | SinkTo::Cql(_)
                        | SinkTo::Postgres(_)
                        | SinkTo::Mongo(_)
                        | SinkTo::Http(_)
                        | SinkTo::Files(_)
                        | SinkTo::Stdout(_)
                        | SinkTo::Discard(_) => {}
                    }
                }
                mistakes.extend(found);
            }
        }
    }
    if mistakes.is_empty() { Ok(plans) } else { Err(Mistakes(mistakes)) }
}

/// Plans one pipeline, and notes in the catalog what it will make.
pub async fn plan(file: &PipelineFile, catalog: &mut Catalog) -> Result<Plan, Vec<Mistake>> {
    let mut planner = Planner {
        file,
        catalog,
        mistakes: Vec::new(),
        away: Vec::new(),
        cql: Sessions::default(),
        cql_tables: BTreeMap::new(),
        postgres_tables: BTreeMap::new(),
        sampled: BTreeMap::new(),
    };
    let planned = planner.plan().await;
    match planned {
        Some(plan) if planner.mistakes.is_empty() => Ok(plan),
        _ => {
            planner.mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
            Err(planner.mistakes)
        }
    }
}

struct Planner<'a> {
    file: &'a PipelineFile,
    catalog: &'a mut Catalog,
    mistakes: Vec<Mistake>,
    /// The brokers or nodes of clusters that did not answer.
    away: Vec<Vec<String>>,
    cql: Sessions,
    /// The tables of look-ups by the look-up's name.
    cql_tables: BTreeMap<String, Table>,
    postgres_tables: BTreeMap<String, millstream_postgres::Table>,
    /// What documents of look-ups look like, where that is not declared.
    sampled: BTreeMap<String, millstream_mongo::Columns>,
}

impl Planner<'_> {
    fn mistake(&mut self, path: &str, message: impl Into<String>, hint: Option<String>) {
        self.mistakes.push(self.file.mistake_at(path, message, hint));
    }

    /// A mistake, unless trying again may help.
    fn refusal(&mut self, path: &str, error: &Error, hint: Option<String>) {
        let mut mistake = self.file.mistake_at(path, error.chain(), hint);
        mistake.failure = error.disposition() == Disposition::Retry;
        self.mistakes.push(mistake);
    }

    /// The registry of the source, or of a sink.
    fn registry(&mut self, spec: Option<&RegistrySpec>, path: &str) -> Option<SchemaRegistry> {
        match self.catalog.registry(spec, self.file) {
            Ok(registry) => Some(registry),
            Err(error) => {
                self.mistake(path, format!("{error:#}"), None);
                None
            }
        }
    }

    fn schema_file(&mut self, place: &str, path: &std::path::Path) -> Option<String> {
        let path = self.file.resolve(path);
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.mistake(place, format!("cannot read {}: {error}", path.display()), None);
                None
            }
        }
    }

    async fn plan(&mut self) -> Option<Plan> {
        let mut spec = self.file.spec.clone();
        let source = self.source(&spec).await;
        let (lookups, untold) = self.lookup_schemas(&spec).await;
        self.declare_sampled(&mut spec);
        let Some((partitions, whole, reader)) = source else {
            for at in 0..spec.steps.len() {
                self.step(at, &spec, None, &lookups);
            }
            return None;
        };

        // What is decoded is what is used: plan on all columns first to learn which they are.
        let texts: Vec<&str> = spec.steps.iter().map(|s| s.sql.as_str()).collect();
        let positions = positions::named_in(&texts.join(" "));
        let mut used = self.used_columns(&spec, &whole, &positions, &lookups);
        let cut = match &spec.source.format {
            DecodeSpec::Avro(_)
            | DecodeSpec::Protobuf(_)
            | DecodeSpec::Json(_)
            | DecodeSpec::JsonSchema(_) => used.take(),
            _ => None,
        };
        let decoded = match (&cut, &reader, &spec.source.format) {
            (Some(columns), Some(reader), DecodeSpec::Avro(_)) => {
                avro::arrow_schema_of(&reader.text, columns)
            }
            (Some(columns), Some(reader), DecodeSpec::Protobuf(options)) => {
                let message = options.message.as_deref();
                protobuf::arrow_schema(&reader.text, &reader.references, message, Some(columns))
            }
            (Some(columns), ..) => Ok(cut_to(&whole, columns)),
            (None, ..) => Ok(whole.clone()),
        };
        let decoded = match decoded {
            Ok(decoded) => decoded,
            Err(error) => {
                self.mistake("/source/format", error.chain(), None);
                return None;
            }
        };

        let input = positions::schema_with(&decoded, &positions);
        // A step with a mistake hides only those below it.
        let mut steps: Vec<Option<PlannedStep>> = Vec::new();
        for (at, step) in spec.steps.iter().enumerate() {
            let schema = match node(spec.input_of_step(at)) {
                Node::Source => Some(input.clone()),
                Node::Step(before) => schema_of_step(&steps, before),
            };
            let schema = schema.filter(|_| !names_one_of(&step.sql, &untold));
            let step = self.step(at, &spec, schema, &lookups);
            steps.push(step);
        }

        let mut sinks = Vec::new();
        for (at, sink) in spec.sinks.iter().enumerate() {
            let node = node(spec.input_of_sink(at));
            let schema = match node {
                Node::Source => Some(decoded.clone()),
                Node::Step(step) => schema_of_step(&steps, step),
            };
            let Some(schema) = schema else { continue };
            if let Some(to) = self.sink(at, sink, &schema, partitions).await {
                sinks.push(PlannedSink {
                    name: spec.sink_label(at).into(),
                    input: node,
                    schema,
                    to,
                });
            }
        }
        match spec.dead_letters.as_ref().and_then(|given| given.kafka.as_ref()) {
            Some(cluster) => self.kafka_dead_letters(cluster, &spec.dead_letters_topic()).await,
            None => self.catalog.will_have_topic(&spec.dead_letters_topic(), 1),
        }
        if spec.delivery == Delivery::ExactlyOnce {
            self.one_cluster(&spec).await;
        }
        let steps = steps.into_iter().collect::<Option<Vec<_>>>()?;
        let registry = self.registry(spec.source_registry(), "/source")?;
        let (text, references) =
            reader.map_or_else(Default::default, |reader| (Some(reader.text), reader.references));
        Some(Plan {
            source: PlannedSource {
                name: spec.source.name(),
                partitions,
                reader_schema: text,
                registry,
                references,
                columns: cut,
            },
            columns_there: whole.fields().len(),
            decoded,
            positions,
            lookups,
            steps,
            sinks,
            spec,
        })
    }

    /// Plans a step on these columns; without them only its syntax is checked.
    fn step(
        &mut self,
        at: usize,
        spec: &PipelineSpec,
        input: Option<SchemaRef>,
        lookups: &BTreeMap<String, SchemaRef>,
    ) -> Option<PlannedStep> {
        let sql = &spec.steps[at].sql;
        let planned = match input {
            Some(input) => millstream_sql::plan(sql, &input, lookups).map(Some),
            None => millstream_sql::check_syntax(sql).map(|()| None),
        };
        match planned {
            Ok(query) => {
                let query = query?;
                self.check_keys(at, spec, &query);
                let (name, input) = (spec.step_label(at).into(), node(spec.input_of_step(at)));
                Some(PlannedStep { name, input, query })
            }
            Err(errors) => {
                let path = format!("/steps/{at}/sql");
                self.mistakes.extend(errors.into_iter().map(|error| {
                    let (line, column) = (error.line as u32, error.column as u32);
                    self.file.mistake_in_block(&path, line, column, error.message, error.hint)
                }));
                None
            }
        }
    }
}

pub fn node(input: Input) -> Node {
    match input {
        Input::Source => Node::Source,
        Input::Step(at) => Node::Step(at),
    }
}

pub fn schema_of(columns: &Columns) -> SchemaRef {
    columns.schema()
}

fn schema_of_step(steps: &[Option<PlannedStep>], at: usize) -> Option<SchemaRef> {
    Some(steps.get(at)?.as_ref()?.query.schema())
}

/// Whether a text names one of these as a word.
fn names_one_of(sql: &str, names: &[String]) -> bool {
    sql.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| names.iter().any(|n| n == w))
}

fn nearest(wanted: &str, known: Vec<String>) -> Option<String> {
    let best = known.into_iter().max_by(|a, b| {
        strsim::jaro_winkler(a, wanted).total_cmp(&strsim::jaro_winkler(b, wanted))
    })?;
    (strsim::jaro_winkler(&best, wanted) > 0.85).then(|| format!("did you mean `{best}`?"))
}
