//! The rows and ends of answers, as both sides of the socket know them and as `--json` prints them.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    pub version: String,
    pub pid: u32,
    /// Seconds since the process started.
    pub up_s: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    pub pipelines: Vec<String>,
}

/// A file in which `check` found nothing wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    pub file: String,
    pub pipeline: String,
    /// How many cases it has, where it holds tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cases: Option<u64>,
}

/// A pipeline, running or known from its commits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pipeline {
    pub name: String,
    pub state: String,
    pub source: String,
    /// What was counted since it started; none for one that does not run.
    #[serde(default)]
    pub rows_in: Option<u64>,
    #[serde(default)]
    pub rows_out: Option<u64>,
    #[serde(default)]
    pub rows_filtered: Option<u64>,
    #[serde(default)]
    pub rows_dead: Option<u64>,
    /// None where the end of the source is not known.
    #[serde(default)]
    pub lag: Option<i64>,
    #[serde(default)]
    pub waits_for: Vec<String>,
    #[serde(default)]
    pub p50_ms: Option<f64>,
    #[serde(default)]
    pub p99_ms: Option<f64>,
    #[serde(default)]
    pub lookups: Vec<Lookup>,
    #[serde(default)]
    pub partitions: Vec<PipelinePartition>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lookup {
    pub name: String,
    pub asked: u64,
    pub found: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PipelinePartition {
    /// The topic or file.
    #[serde(default)]
    pub source: String,
    pub partition: u32,
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default)]
    pub committed: Option<i64>,
    #[serde(default)]
    pub end: Option<i64>,
    #[serde(default)]
    pub lag: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offset {
    pub pipeline: String,
    pub source: String,
    pub partition: u32,
    /// The next offset to read. None when nothing was committed.
    pub committed: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Topic {
    pub name: String,
    pub id: String,
    pub partitions: u32,
    /// Records that are kept.
    pub records: i64,
    pub bytes: u64,
    pub codec: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_bytes: Option<u64>,
    #[serde(default)]
    pub hard: bool,
    /// Partitions that were refused when the log was opened.
    pub refused: u32,
}

/// A topic that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedTopic {
    pub topic: String,
    pub records: i64,
    /// Pipelines that do not run and have offsets in it.
    pub pipelines: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    pub partition: u32,
    pub start: i64,
    pub end: i64,
    pub records: i64,
    pub bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// What reading a partition whole found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    pub topic: String,
    pub partition: u32,
    pub start: i64,
    pub end: i64,
    pub segments: u64,
    pub batches: u64,
    pub records: u64,
    pub bytes: u64,
    pub damage: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Produced {
    pub records: u64,
    /// The partition and offset of the last record.
    pub last: Option<(u32, i64)>,
    pub created: bool,
}

/// What `Tap` did not show, because its condition could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tapped {
    pub rows: u64,
    /// Rows on which the condition fails, and the first reason.
    pub failed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Records that have no columns to ask about.
    pub undecoded: u64,
}

/// A record of a topic, decoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub partition: u32,
    pub offset: i64,
    pub timestamp: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_id: Option<u32>,
    /// An object where the value has columns, else text; null for a tombstone.
    pub value: serde_json::Value,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Why the value is shown raw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undecoded: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub name: String,
    pub key: Vec<String>,
    pub clustering: Vec<String>,
    /// Name and type of each column.
    pub columns: Vec<(String, String)>,
    pub ttl_ms: Option<u64>,
    /// Roughly: rows that are superseded or expired count until they are compacted.
    pub rows_estimate: u64,
}

/// A table, and whether it was made or there before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreatedTable {
    pub created: bool,
    #[serde(flatten)]
    pub table: Table,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Loaded {
    pub rows: u64,
    pub rejected: u64,
    /// The first reasons.
    pub reasons: Vec<String>,
    pub created: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    pub subject: String,
    pub versions: Vec<u32>,
    pub id: u32,
    pub kind: String,
    pub level: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    pub subject: String,
    pub version: u32,
    pub id: u32,
    pub kind: String,
    pub schema: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compatibility {
    pub compatible: bool,
    pub messages: Vec<String>,
}

/// A dead letter. Key, value and headers are there when it is shown whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Letter {
    pub topic: String,
    pub partition: u32,
    pub offset: i64,
    pub rejected_at: i64,
    pub pipeline: String,
    pub step: String,
    pub kind: String,
    pub reason: String,
    /// Whether it went through its pipeline again.
    #[serde(default)]
    pub replayed: bool,
    pub attempt: u32,
    pub source: String,
    pub source_partition: u32,
    pub source_offset: i64,
    pub timestamp: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_id: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Text where it is text, base64 where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(default)]
    pub value_is_base64: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Replayed {
    pub replayed: u64,
    pub out: u64,
    pub filtered: u64,
    pub dead: u64,
    /// Were replayed before, or cannot be: they were kept in part only.
    pub skipped: u64,
}

/// How a case of a pipeline's tests went: it passed when there are no differences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    pub pipeline: String,
    pub file: String,
    pub name: String,
    pub differences: Vec<String>,
}
