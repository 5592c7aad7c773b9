//! What can be asked, and how it goes over the socket.
//!
//! A connection carries requests one after the other. Each is one line of JSON; the answer is any
//! number of lines and a last one:
//!
//! ```text
//! → {"request":"topics"}
//! ← {"row":{"name":"navigation","partitions":20,…}}
//! ← {"end":{}}                     or  {"error":{"code":"mistake","message":"…"}}
//! ```

use crate::Error;
use crate::service::{has_registry, is_on_kafka};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One question or order. Rows and ends are described in [`crate::answers`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The process: version, id, address. Ends with `Process`.
    Process,
    /// Checks pipeline and tests files against what is there: all that would keep them from running.
    /// Rows of `Checked`.
    Check {
        files: PlanFiles,
    },
    /// Plans pipeline files against what is there. Rows are the engine's `Explain`.
    Explain {
        files: PlanFiles,
    },
    /// What would be written, up to so many rows a sink. Rows are `{pipeline, sink, row}` and
    /// `{pipeline, dead}`.
    Preview {
        files: PlanFiles,
        rows: u64,
    },
    /// Runs the cases beside pipeline files. Rows of `Case`.
    Test {
        files: PlanFiles,
    },
    /// Rows of `Pipeline`.
    Pipelines,
    /// Rows of `Offset`.
    Offsets {
        pipeline: Option<String>,
        /// A file whose source is Kafka: what its group has.
        #[serde(default)]
        file: Option<PlanFiles>,
    },
    /// Rows of `Offset`: the new ones.
    ResetOffsets {
        pipeline: String,
        to: Position,
        partition: Option<u32>,
        /// The pipeline's file, for when its source is another than before.
        file: Option<PlanFiles>,
    },
    /// Removes what a stopped pipeline has committed.
    ForgetOffsets {
        pipeline: String,
    },
    /// Rows of `Topic`.
    Topics,
    /// Rows of `Partition`; ends with `Topic`.
    DescribeTopic {
        topic: String,
    },
    /// Ends with `Topic`.
    CreateTopic {
        topic: String,
        partitions: u32,
        codec: String,
        retention_ms: Option<u64>,
        retention_bytes: Option<u64>,
        hard: bool,
    },
    /// Ends with `DeletedTopic`.
    DeleteTopic {
        topic: String,
    },
    /// Rows of `Verified`.
    VerifyTopic {
        topic: Option<String>,
    },
    /// Ends with `Produced`, after all records are durable.
    Produce {
        topic: String,
        /// Makes the topic with so many where it is missing.
        partitions: Option<u32>,
        partition: Option<u32>,
        encode: Option<Encode>,
        records: Vec<NewRecord>,
        #[serde(default)]
        elsewhere: Elsewhere,
    },
    /// Rows of `Record`; ends with `Tapped`.
    Tap {
        topic: String,
        from: Position,
        partition: Option<u32>,
        /// A condition in SQL on the decoded columns.
        filter: Option<String>,
        limit: Option<u64>,
        follow: bool,
        format: RowFormat,
        #[serde(default)]
        elsewhere: Elsewhere,
    },
    /// Rows of `Table`.
    Tables,
    /// Ends with `CreatedTable`: one that is there as it was given is no mistake.
    CreateTable {
        table: String,
        shape: TableShape,
    },
    DropTable {
        table: String,
    },
    /// Ends with `Loaded`.
    LoadTable {
        table: String,
        file: PathBuf,
        delimiter: char,
        shape: TableShape,
        /// The column with the time of the write.
        timestamp: Option<String>,
    },
    /// Rows as they are in the table.
    GetRow {
        table: String,
        key: Vec<String>,
    },
    /// Rows as they are in the table.
    ScanTable {
        table: String,
        prefix: Vec<String>,
        from: Vec<String>,
        to: Vec<String>,
        limit: Option<u64>,
    },
    /// Rows of `Subject`.
    Schemas {
        #[serde(default)]
        elsewhere: Elsewhere,
    },
    /// Rows of `Schema`: one version, or all of a subject.
    ShowSchema {
        subject: Option<String>,
        version: Option<String>,
        id: Option<u32>,
        #[serde(default)]
        elsewhere: Elsewhere,
    },
    /// Ends with `Schema`.
    RegisterSchema {
        subject: String,
        schema: SchemaText,
        #[serde(default)]
        elsewhere: Elsewhere,
    },
    /// Ends with `Compatibility`.
    CompatibleSchema {
        subject: String,
        version: Option<String>,
        schema: SchemaText,
        #[serde(default)]
        elsewhere: Elsewhere,
    },
    /// Sets the compatibility level of a subject, or of all that have none of their own.
    SetLevel {
        subject: Option<String>,
        level: Level,
        #[serde(default)]
        elsewhere: Elsewhere,
    },
    /// Rows of `Letter`.
    DeadLetters {
        pipeline: Option<String>,
        topic: Option<String>,
        limit: Option<u64>,
        /// A file: only the topic of its letters.
        #[serde(default)]
        elsewhere: Elsewhere,
    },
    /// Ends with `Letter`, whole.
    ShowDeadLetter {
        /// A topic, or a pipeline whose letters are meant.
        of: String,
        partition: u32,
        offset: i64,
        #[serde(default)]
        elsewhere: Elsewhere,
    },
    /// Ends with `Replayed`.
    ReplayDeadLetters {
        pipeline: String,
        choice: ReplayChoice,
        /// The pipeline's file, for when it does not run.
        file: Option<PlanFiles>,
    },
}

/// Pipeline files of the one who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PlanFiles {
    /// Absolute.
    pub paths: Vec<PathBuf>,
    /// The environment variables that the files name, as the one who asks has them.
    pub variables: BTreeMap<String, String>,
}

/// Where a request is about something that is not in the data directory: a topic of a Kafka cluster,
/// a schema registry of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Elsewhere {
    /// A pipeline file whose cluster and registry are meant.
    pub file: Option<PlanFiles>,
    /// `host:port` of some brokers.
    pub brokers: Vec<String>,
    /// The registry's address.
    pub registry: Option<String>,
}

/// How much of a stopped directory a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It looks only; where there is no directory there is nothing to see.
    Read,
    /// The same, and of topics and schemas only.
    ReadTopics,
    /// The same, and no directory is as good as an empty one.
    ReadTopicsOrEmpty,
    /// It looks at all, and no directory is as good as an empty one.
    ReadOrEmpty,
    Write,
}

/// A place in a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    Earliest,
    Latest,
    Offset(i64),
    /// Milliseconds since 1970.
    Time(i64),
    /// The last so many records of all partitions together, by their timestamps.
    Last(u64),
}

/// How `Tap` reads values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowFormat {
    /// Avro where the value is framed with a schema id that is registered, else JSON, else text.
    #[default]
    Auto,
    Avro,
    Json,
    Text,
    /// Not decoded: base64.
    Raw,
}

/// How the values of `Produce` become bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encode {
    /// JSON values as Confluent-framed Avro with the newest schema of a subject.
    Subject(String),
    /// The same with this Avro schema, registered under `TOPIC-value`.
    Schema(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NewRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// None is a tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Milliseconds since 1970; now unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Where the record came from, for messages: the line of the input.
    #[serde(default)]
    pub line: u64,
}

/// What a table is made with. What is missing is taken from the table that is there, or from the
/// file that is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TableShape {
    pub key: Vec<String>,
    pub clustering: Vec<String>,
    /// Names and types, as in a pipeline file.
    pub columns: Vec<(String, String)>,
    pub ttl_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaText {
    pub text: String,
    /// `avro`, `json` or `protobuf`.
    pub kind: String,
    /// Name, subject and version of each schema that this one refers to.
    #[serde(default)]
    pub references: Vec<(String, String, i64)>,
}

/// A compatibility level by its name in the registry's interface: `BACKWARD`, `FULL`, ….
pub type Level = String;

/// Which letters of a pipeline are replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayChoice {
    /// All that were not replayed yet.
    All,
    /// Those of one kind of reason.
    Kind(String),
    /// These, by partition and offset in the dead-letter topic.
    These(Vec<(u32, i64)>),
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    Row(Value),
    End(Value),
    Error(Error),
}

impl Elsewhere {
    pub fn is_here(&self) -> bool {
        *self == Elsewhere::default()
    }
}

impl Request {
    pub fn access(&self) -> Access {
        match self {
            // What is elsewhere is there without a directory too.
            Request::Tap { elsewhere, .. }
            | Request::Schemas { elsewhere }
            | Request::ShowSchema { elsewhere, .. }
            | Request::CompatibleSchema { elsewhere, .. }
                if !elsewhere.is_here() =>
            {
                Access::ReadTopicsOrEmpty
            }
            Request::Offsets { file: Some(_), .. } => Access::ReadOrEmpty,
            Request::DeadLetters { elsewhere, .. } | Request::ShowDeadLetter { elsewhere, .. }
                if !elsewhere.is_here() =>
            {
                Access::ReadOrEmpty
            }
            Request::RegisterSchema { elsewhere, .. } | Request::SetLevel { elsewhere, .. }
                if has_registry(elsewhere) =>
            {
                Access::ReadTopicsOrEmpty
            }
            Request::Produce { topic, elsewhere, encode, .. } if is_on_kafka(elsewhere, topic) => {
                match encode {
                    Some(Encode::Schema(_)) if elsewhere.registry.is_none() => Access::Write,
                    _ => Access::ReadTopicsOrEmpty,
                }
            }
            Request::Check { .. }
            | Request::Explain { .. }
            | Request::Preview { .. }
            | Request::Test { .. } => Access::ReadOrEmpty,
            Request::Process
            | Request::Pipelines
            | Request::Offsets { .. }
            | Request::Tables
            | Request::GetRow { .. }
            | Request::ScanTable { .. }
            | Request::DeadLetters { .. }
            | Request::ShowDeadLetter { .. } => Access::Read,
            Request::Topics
            | Request::DescribeTopic { .. }
            | Request::VerifyTopic { .. }
            | Request::Tap { .. }
            | Request::Schemas { .. }
            | Request::ShowSchema { .. }
            | Request::CompatibleSchema { .. } => Access::ReadTopics,
            Request::ResetOffsets { .. }
            | Request::ForgetOffsets { .. }
            | Request::CreateTopic { .. }
            | Request::DeleteTopic { .. }
            | Request::Produce { .. }
            | Request::CreateTable { .. }
            | Request::DropTable { .. }
            | Request::LoadTable { .. }
            | Request::RegisterSchema { .. }
            | Request::SetLevel { .. }
            | Request::ReplayDeadLetters { .. } => Access::Write,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_and_lines_are_plain_json() {
        let request = Request::ResetOffsets {
            pipeline: "p".into(),
            to: Position::Offset(7),
            partition: None,
            file: None,
        };
        let text = serde_json::to_value(&request).unwrap();
        assert_eq!(
            text,
            json!({"request": "reset_offsets", "pipeline": "p", "to": {"offset": 7}, "partition": null, "file": null})
        );
        assert_eq!(serde_json::from_value::<Request>(text).unwrap(), request);
        let line = Line::Error(Error::mistake("no"));
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"error":{"code":"mistake","message":"no"}}"#
        );
    }

    #[test]
    fn an_unknown_request_is_refused() {
        assert!(serde_json::from_str::<Request>(r#"{"request":"frobnicate"}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"request":"offsets","no":1}"#).is_err());
    }
}
