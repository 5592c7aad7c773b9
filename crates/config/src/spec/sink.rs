//! Where rows go.

use crate::{
    CqlSink, EncodeSpec, FilesSink, HttpSink, KafkaSink, MongoSink, Period, PostgresSink,
    RegistrySpec, Size, StdoutSink,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where rows go: a `table`, a `topic`, `kafka`, `cql`, `postgres`, `mongodb`, `http`, `files`, `stdout`, or
/// `discard`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SinkSpec {
    /// A name for metrics and errors. The table's or topic's own unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "name"))]
    pub name: Option<String>,
    /// The step to take rows from, or `source`. The last step unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub from: Option<String>,
    #[serde(flatten)]
    pub to: SinkTo,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SinkTo {
    Table(TableSink),
    Topic(TopicSink),
    Kafka(Box<KafkaSink>),
    Cql(Box<CqlSink>),
    Postgres(Box<PostgresSink>),
    Mongo(Box<MongoSink>),
    Http(Box<HttpSink>),
    Files(Box<FilesSink>),
    Stdout(StdoutSink),
    Discard(DiscardSink),
}

/// An embedded table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "table"))]
pub struct TableSink {
    /// The table to write.
    #[schemars(extend("format" = "name"))]
    pub table: String,
    /// The columns whose values name a row.
    #[schemars(length(min = 1))]
    pub key: Vec<String>,
    /// Columns that tell apart and order the rows of one key.
    #[serde(default)]
    pub clustering: Vec<String>,
    /// How long a row lives, from its write. For ever unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-positive" = true))]
    pub ttl: Option<Period>,
    /// The column whose time decides which of two writes of a row is the last. The time of the
    /// write unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub timestamp: Option<String>,
    /// How long deleted and expired rows keep their timestamp, against writes that come late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Period>,
}

/// A topic of the embedded log, created when it is not there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "topic"))]
pub struct TopicSink {
    /// The topic to write.
    #[schemars(extend("format" = "name"))]
    pub topic: String,
    /// The column that is the record's key: rows of one key stay in order. No key unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub key: Option<String>,
    /// How rows become records.
    pub format: EncodeSpec,
    /// The schema registry of this sink's schemas. The pipeline's unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<Box<RegistrySpec>>,
    /// The number of partitions to create the topic with. As many as the source has unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub partitions: Option<u32>,
    /// How batches are compressed on disk.
    #[serde(default)]
    pub compression: Compression,
    /// The column with the record's time. The time of the write unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub timestamp: Option<String>,
    /// The column, a boolean, that says which rows are tombstones: records without a value, by which
    /// a compacted topic forgets their key. It is not part of the value. None unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub tombstone: Option<String>,
    /// How long records are kept. For ever unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionSpec>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    #[default]
    None,
    Lz4,
    Zstd,
    Snappy,
    Gzip,
}

/// How long a topic's records are kept: what is older, or more, is deleted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct RetentionSpec {
    /// By the time since they were appended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-positive" = true))]
    pub time: Option<Period>,
    /// By the bytes of a partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-positive" = true))]
    pub bytes: Option<Size>,
    /// Delete even what a known pipeline has not read yet.
    #[serde(default)]
    pub hard: bool,
}

/// Nowhere: rows are counted and dropped, to measure or to try.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "discard"))]
pub struct DiscardSink {
    /// `true`: count the rows and drop them.
    #[schemars(extend("const" = true))]
    pub discard: bool,
}

impl SinkSpec {
    /// What the sink is called by itself; see [`PipelineSpec::sink_label`] for a unique name.
    pub fn label(&self) -> &str {
        match (&self.name, &self.to) {
            (Some(name), _) => name,
            (None, SinkTo::Table(to)) => &to.table,
            (None, SinkTo::Topic(to)) => &to.topic,
            (None, SinkTo::Kafka(to)) => to.kafka.label(),
            (None, SinkTo::Cql(to)) => &to.cql.table,
            (None, SinkTo::Postgres(to)) => &to.postgres.table,
            (None, SinkTo::Mongo(to)) => &to.mongodb.collection,
            (None, SinkTo::Http(_)) => "http",
            (None, SinkTo::Files(_)) => "files",
            (None, SinkTo::Stdout(_)) => "stdout",
            (None, SinkTo::Discard(_)) => "discard",
        }
    }
}
