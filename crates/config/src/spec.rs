//! The shape of a pipeline file. The doc comments are the operator's help text: they appear in the
//! JSON Schema, in the reference page and in the hints of mistakes.
//!
//! Unknown fields are refused for every struct here by the reader in `shape`, which checks a file
//! against the schema of these structs before serde sees it.

use crate::{
    Columns, CqlLookup, CqlSink, Delimiter, FilesSink, HttpLookup, HttpSink, KafkaCluster,
    KafkaSink, KafkaSource, MongoLookup, MongoSink, Period, PostgresLookup, PostgresSink, Ratio,
    RegistrySpec, Size, StdoutSink, SubjectStrategy,
};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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

/// Where the rows come from: a `topic`, a `file` or `kafka`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SourceSpec {
    #[serde(flatten)]
    pub from: SourceFrom,
    /// What the records are, and how they become columns.
    pub format: DecodeSpec,
    /// The schema registry of the source's schemas. The pipeline's unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<RegistrySpec>,
    /// A record above this size becomes a dead letter.
    #[serde(default = "max_record_bytes")]
    pub max_record_bytes: Size,
    /// What a record without a value becomes: in a compacted topic it says that its key is gone.
    #[serde(default)]
    pub tombstones: Tombstones,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tombstones {
    /// It is passed over and counted as filtered.
    #[default]
    Skip,
    /// It becomes a dead letter.
    DeadLetter,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SourceFrom {
    Topic(TopicSource),
    File(FileSource),
    Kafka(Box<KafkaSource>),
}

/// A topic of the embedded log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "topic"))]
pub struct TopicSource {
    /// The topic to read.
    #[schemars(extend("format" = "name"))]
    pub topic: String,
    /// Where to begin when this pipeline has no committed offset.
    #[serde(default)]
    pub start: StartAt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartAt {
    /// At the oldest record.
    #[default]
    Earliest,
    /// At the records that come from now on.
    Latest,
}

/// The lines of a file, `.gz` read transparently.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "file"))]
pub struct FileSource {
    /// The file to read, relative to the pipeline file.
    #[schemars(extend("format" = "path"))]
    pub file: PathBuf,
    /// Wait for lines that are appended, instead of ending with the file. A file that is renamed
    /// and made anew (as logrotate does) is read to its end, then the new one from its beginning,
    /// also across a restart while the renamed one is still beside it, uncompressed (logrotate's
    /// `delaycompress`). Its writer may take its time to turn to the new one: the renamed one is
    /// turned from when it did not grow for two seconds, and looked at until it did not grow for 30
    /// more; what it gets then is read behind the lines of the new one that were read before. Where
    /// the next lines cannot be known (the file was cut in place, as `copytruncate` does; the
    /// renamed one is gone before it was read), the pipeline holds and says so.
    #[serde(default)]
    pub follow: bool,
    /// Skip the first line.
    #[serde(default)]
    pub header: bool,
}

/// How records become columns: `avro`, `protobuf`, `json`, `json_schema`, `csv` or `text`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(extend("x-shorthand" = ["avro", "protobuf", "json", "json_schema", "text"]))]
pub enum DecodeSpec {
    /// Avro, with its schema from the registry or a file.
    Avro(AvroDecode),
    /// Protobuf, with its schema from the registry or a file.
    Protobuf(ProtobufDecode),
    /// A JSON object a record.
    Json(JsonDecode),
    /// A JSON object a record, with its JSON Schema from the registry or a file.
    JsonSchema(JsonSchemaDecode),
    /// Values with a delimiter between them.
    Csv(CsvDecode),
    /// Lines of text: the column `line`, or the groups of a regular expression.
    Text(TextDecode),
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct AvroDecode {
    /// What stands before each record.
    #[serde(default)]
    pub framing: Framing,
    /// The registry's subject of the reader schema. `TOPIC-value` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub subject: Option<String>,
    /// A file with the reader schema, relative to the pipeline file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub schema_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ProtobufDecode {
    /// What stands before each record.
    #[serde(default)]
    pub framing: Framing,
    /// The registry's subject of the reader schema. `TOPIC-value` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub subject: Option<String>,
    /// A `.proto` file with the reader schema, relative to the pipeline file. What it imports is
    /// looked for from its folder on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub schema_file: Option<PathBuf>,
    /// The message that records are, where the schema has several. Its first unless given; a record
    /// that is another message becomes a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub message: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// A zero byte and the schema's id in the registry, or nothing and the schema's GUID in the
    /// header `__value_schema_id`.
    #[default]
    Confluent,
    /// Nothing: the record alone.
    Bare,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct JsonDecode {
    /// The fields to take, with their types. Without it the whole object is the text column `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct JsonSchemaDecode {
    /// What stands before each record.
    #[serde(default)]
    pub framing: Framing,
    /// The registry's subject of the reader schema. `TOPIC-value` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub subject: Option<String>,
    /// A file with the reader schema, relative to the pipeline file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub schema_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CsvDecode {
    /// The columns in the order of the line, with their types.
    pub columns: Columns,
    /// The character between two values.
    #[serde(default)]
    pub delimiter: Delimiter,
    /// The character around a value that holds the delimiter.
    #[serde(default = "quote")]
    pub quote: Delimiter,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct TextDecode {
    /// A regular expression with a named group, `(?<name>…)`, for each column. A line that it does
    /// not match becomes a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "regex"))]
    pub pattern: Option<String>,
    /// The type of each group. All are strings unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
}

/// A store to look rows up in: a `table`, a `file`, `cql`, `postgres`, `mongodb` or `http`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LookupSpec {
    #[serde(flatten)]
    pub from: LookupFrom,
    /// Two columns: rows are found by `start <= key AND key <= end` instead of by equality. Ranges
    /// of a file may overlap. A table's must not: its whole key is the start, and only the last
    /// range that begins at or before the value is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[String; 2]>,
    /// What is kept in memory.
    #[serde(default)]
    pub cache: CacheSpec,
    /// What happens when the store still fails after the retries.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// How often a failed call is tried again, with growing pauses.
    #[serde(default = "retries")]
    #[schemars(range(max = 1000))]
    pub retries: u32,
    /// How long one call may take.
    #[serde(default = "timeout")]
    #[schemars(extend("x-positive" = true))]
    pub timeout: Period,
    /// See the rows that this pipeline wrote just before, at the price of one batch at a time.
    #[serde(default)]
    pub consistent: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum LookupFrom {
    Table(TableLookup),
    File(FileLookup),
    Cql(Box<CqlLookup>),
    Postgres(Box<PostgresLookup>),
    Mongo(Box<MongoLookup>),
    Http(Box<HttpLookup>),
}

/// An embedded table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "table"))]
pub struct TableLookup {
    /// The table to look up in.
    #[schemars(extend("format" = "name"))]
    pub table: String,
}

/// A file held in memory: CSV, JSON Lines or Parquet by its extension, `.gz` read transparently.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "file"))]
pub struct FileLookup {
    /// The file to look up in, relative to the pipeline file.
    #[schemars(extend("format" = "path"))]
    pub file: PathBuf,
    /// The types of the columns of a CSV or JSON Lines file. All are strings unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    /// The character between two values of a CSV file.
    #[serde(default)]
    pub delimiter: Delimiter,
    /// How often to see whether the file has changed.
    #[serde(default = "reload")]
    #[schemars(extend("x-positive" = true))]
    pub reload: Period,
}

/// What a look-up keeps in memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CacheSpec {
    /// How many keys to keep. 0 keeps none.
    pub max_entries: u64,
    /// How much memory to use. An even part of 64 MiB for all look-ups of the pipeline unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-positive" = true))]
    pub max_bytes: Option<Size>,
    /// How long a row is served before it is asked for again.
    pub ttl: Period,
    /// The same for a key that was not found.
    pub negative_ttl: Period,
    /// How long after its time a row may still be served while it is being asked for again.
    pub stale: Period,
    /// Where to hear which rows have changed: they are asked for again. None unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<ChangesSpec>,
}

/// A topic, perhaps a compacted one, whose records' keys are those of rows that changed: the text of
/// the look-up's key, or a JSON object of its columns (Debezium's among them). Their values are not
/// looked at. Change the store first, then write the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChangesSpec {
    /// The topic to follow, from its end on.
    #[schemars(extend("format" = "name"))]
    pub topic: String,
    /// The Kafka cluster that has it. The embedded log unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaCluster>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The partition waits and tries again until the store answers.
    #[default]
    Hold,
    /// The rows become dead letters.
    DeadLetter,
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

/// How rows become records: `avro`, `protobuf`, `json` or `json_schema`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(extend("x-shorthand" = ["avro", "protobuf", "json", "json_schema"]))]
pub enum EncodeSpec {
    /// Avro, Confluent-framed, its schema registered.
    Avro(AvroEncode),
    /// Protobuf, Confluent-framed, with the schema of its subject or of a file.
    Protobuf(ProtobufEncode),
    /// A JSON object a record.
    Json(JsonEncode),
    /// A JSON object a record, Confluent-framed, its JSON Schema registered.
    JsonSchema(JsonSchemaEncode),
}

// No help text of its own: what it is flattened into would take it over.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct SubjectSpec {
    /// The registry's subject. Named by `subject_strategy` unless given.
    #[serde(default, rename = "subject", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub name: Option<String>,
    /// How the subject is named.
    #[serde(default, rename = "subject_strategy")]
    pub strategy: SubjectStrategy,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct AvroEncode {
    #[serde(flatten)]
    pub subject: SubjectSpec,
    /// A file with the schema to write, relative to the pipeline file. Made from the columns unless
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub schema_file: Option<PathBuf>,
    /// The record's full name in a schema made from the columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "avro_name"))]
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ProtobufEncode {
    #[serde(flatten)]
    pub subject: SubjectSpec,
    /// A `.proto` file with the schema to write, relative to the pipeline file. The newest schema of
    /// the subject unless given: numbers of fields cannot be made from columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub schema_file: Option<PathBuf>,
    /// The message to write, where the schema has several. Its first unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub message: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct JsonEncode {}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct JsonSchemaEncode {
    #[serde(flatten)]
    pub subject: SubjectSpec,
    /// A file with the schema to write, relative to the pipeline file. Made from the columns unless
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub schema_file: Option<PathBuf>,
    /// The title of a schema made from the columns. The topic's name unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub title: Option<String>,
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

impl SourceSpec {
    /// The topic's name or the file's path, for positions and metrics.
    pub fn name(&self) -> String {
        match &self.from {
            SourceFrom::Topic(from) => from.topic.clone(),
            SourceFrom::File(from) => from.file.display().to_string(),
            SourceFrom::Kafka(from) => from.kafka.name(),
        }
    }
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

impl Default for CacheSpec {
    fn default() -> Self {
        Self {
            max_entries: 100_000,
            max_bytes: None,
            ttl: Period::seconds(300),
            negative_ttl: Period::seconds(30),
            stale: Period::seconds(0),
            changes: None,
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

fn max_record_bytes() -> Size {
    Size(8 << 20)
}

fn quote() -> Delimiter {
    Delimiter(b'"')
}

fn retries() -> u32 {
    5
}

fn timeout() -> Period {
    Period::seconds(1)
}

fn reload() -> Period {
    Period::seconds(5)
}
