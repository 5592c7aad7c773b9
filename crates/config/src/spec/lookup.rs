//! What rows are looked up in.

use crate::{
    Columns, CqlLookup, Delimiter, HttpLookup, KafkaCluster, MongoLookup, Period, PostgresLookup,
    Size,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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

fn retries() -> u32 {
    5
}

fn timeout() -> Period {
    Period::seconds(1)
}

fn reload() -> Period {
    Period::seconds(5)
}
