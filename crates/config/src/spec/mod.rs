//! The shape of a pipeline file. The doc comments are the operator's help text: they appear in the
//! JSON Schema, in the reference page and in the hints of mistakes.
//!
//! Unknown fields are refused for every struct here by the reader in `shape`, which checks a file
//! against the schema of these structs before serde sees it.

mod format;
mod lookup;
mod sink;
mod source;

pub use format::*;
pub use lookup::*;
pub use sink::*;
pub use source::*;

use crate::{KafkaCluster, Period, Ratio, RegistrySpec, Size};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A pipeline: where rows come from, what happens to them, where they go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PipelineSpec {
    /// The pipeline's name. Offsets, metrics and dead letters belong to it.
    #[schemars(extend("format" = "name"))]
    pub pipeline: String,
    /// What this pipeline is for, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The schema registry of the source's and the sinks' schemas. The embedded one unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<RegistrySpec>,
    /// Where the rows come from.
    pub source: SourceSpec,
    /// Stores to look rows up in, by the name that the SQL joins.
    #[serde(default)]
    #[schemars(extend("propertyNames" = {"type": "string", "format": "sql_name"}))]
    pub lookups: IndexMap<String, LookupSpec>,
    /// What happens to the rows, one SELECT a step, in order.
    #[serde(default)]
    pub steps: Vec<StepSpec>,
    /// Where the rows go. Each sink gets every row at least once. A row that one of them refuses is
    /// written to the others and counts as dead; its replay writes it to all of them again.
    #[schemars(length(min = 1))]
    pub sinks: Vec<SinkSpec>,
    /// Where rows go that cannot be processed. `NAME.dead` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<DeadLettersSpec>,
    /// The part of the last 10,000 rows that may become dead letters before the partition holds.
    #[serde(default = "max_dead_ratio")]
    pub max_dead_ratio: Ratio,
    /// How many rows are worked on together.
    #[serde(default)]
    pub batch: BatchSpec,
    /// How much may be under way in a partition before its source waits.
    #[serde(default)]
    pub in_flight: InFlightSpec,
    /// How many bytes may be under way in all partitions together. Each may have one batch beyond it.
    #[serde(default = "in_flight_bytes")]
    #[schemars(extend("x-positive" = true))]
    pub in_flight_bytes: Size,
    /// How often offsets are committed.
    #[serde(default = "commit_interval")]
    pub commit_interval: Period,
    /// How often a row may be in the sinks when something fails.
    #[serde(default)]
    pub delivery: Delivery,
    /// What the ids of this pipeline's transactions begin with. The group and the pipeline unless
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub transactional_id: Option<String>,
    /// After this the cluster gives up a transaction that was not ended: so long readers wait when
    /// this process is gone and nobody takes its place. One minute unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-positive" = true))]
    pub transaction_timeout: Option<Period>,
    /// How many partitions are worked on at the same time. All of them unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub parallelism: Option<u32>,
    /// Settings of the pipeline's metrics.
    #[serde(default)]
    pub metrics: MetricsSpec,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Once or more: what was in flight when something failed comes again.
    #[default]
    AtLeastOnce,
    /// Once, for those who read with `read_committed`: from Kafka to the same Kafka, in transactions
    /// that are committed every `commit_interval`.
    ExactlyOnce,
}

/// One SELECT on the rows before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepSpec {
    /// A name for `from:`, metrics and errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "name"))]
    pub name: Option<String>,
    /// The step to take rows from, or `source`. The step before it unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub from: Option<String>,
    /// One SELECT. The rows are `input`; a look-up is joined by its name.
    #[schemars(extend("format" = "text"))]
    pub sql: String,
}

/// Where rows go that cannot be processed, whole and with the reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLettersSpec {
    /// The topic of the dead letters.
    #[schemars(extend("format" = "name"))]
    pub topic: String,
    /// The Kafka cluster that has it, where it must be there. The embedded log unless given, where
    /// it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaCluster>,
}

/// How many rows are worked on together: what comes first ends a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BatchSpec {
    /// The most rows of a batch.
    #[schemars(range(min = 1, max = 65536))]
    pub max_rows: u32,
    /// The most bytes of a batch.
    #[schemars(extend("x-positive" = true))]
    pub max_bytes: Size,
}

/// How much may be under way in a partition before its source waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct InFlightSpec {
    /// The most batches.
    #[schemars(range(min = 1, max = 1024))]
    pub batches: u32,
    /// The most bytes, raw records included.
    #[schemars(extend("x-positive" = true))]
    pub bytes: Size,
}

/// Settings of the pipeline's metrics.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct MetricsSpec {
    /// The upper bounds of the histograms' buckets, in seconds, ascending. From 10 µs to 30 s
    /// unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<Vec<f64>>,
}

/// Where a step or a sink takes its rows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Input {
    Source,
    /// The step of this index.
    Step(usize),
}

impl PipelineSpec {
    /// The topic of the dead letters.
    pub fn dead_letters_topic(&self) -> String {
        match &self.dead_letters {
            Some(given) => given.topic.clone(),
            None => format!("{}.dead", self.pipeline),
        }
    }

    /// Where a step takes its rows from.
    pub fn input_of_step(&self, step: usize) -> Input {
        self.input(self.steps[step].from.as_deref(), step)
    }

    /// Where a sink takes its rows from.
    pub fn input_of_sink(&self, sink: usize) -> Input {
        self.input(self.sinks[sink].from.as_deref(), self.steps.len())
    }

    /// The step's name, or `step N` counted from one.
    pub fn step_label(&self, step: usize) -> String {
        self.steps[step].name.clone().unwrap_or_else(|| format!("step {}", step + 1))
    }

    /// The sink's name, unique in its pipeline: `name:`, else the table's or topic's, with its kind
    /// in front (`topic visits`) where a sink has that name already.
    pub fn sink_label(&self, sink: usize) -> String {
        let sink = &self.sinks[sink];
        let base = sink.label();
        let kind = match &sink.to {
            _ if sink.name.is_some() => return base.to_owned(),
            SinkTo::Table(_) => "table",
            SinkTo::Topic(_) => "topic",
            SinkTo::Kafka(_) => "kafka",
            SinkTo::Cql(_) => "cql",
            SinkTo::Postgres(_) => "postgres",
            SinkTo::Mongo(_) => "mongodb",
            SinkTo::Http(_) | SinkTo::Files(_) | SinkTo::Stdout(_) | SinkTo::Discard(_) => {
                return base.to_owned();
            }
        };
        match self.sinks.iter().filter(|other| other.label() == base).count() {
            1 => base.to_owned(),
            _ => format!("{kind} {base}"),
        }
    }

    /// `before` is the number of steps above the one that asks.
    fn input(&self, from: Option<&str>, before: usize) -> Input {
        match from {
            Some("source") => Input::Source,
            Some(name) => {
                let step =
                    self.steps[..before].iter().position(|s| s.name.as_deref() == Some(name));
                Input::Step(step.expect("the reader checked that `from` names a step above"))
            }
            None if before == 0 => Input::Source,
            None => Input::Step(before - 1),
        }
    }
}

impl Default for BatchSpec {
    fn default() -> Self {
        Self { max_rows: 2048, max_bytes: Size(512 << 10) }
    }
}

impl Default for InFlightSpec {
    fn default() -> Self {
        Self { batches: 8, bytes: Size(64 << 20) }
    }
}

fn max_dead_ratio() -> Ratio {
    Ratio(0.05)
}

fn in_flight_bytes() -> Size {
    Size(32 << 20)
}

fn commit_interval() -> Period {
    Period::millis(100)
}
