//! Where the rows come from.

use crate::{DecodeSpec, KafkaSource, RegistrySpec, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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

fn max_record_bytes() -> Size {
    Size(8 << 20)
}
