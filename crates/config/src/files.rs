//! The options of what goes into files, and to the standard output.

use crate::{Period, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Files that appear when they are complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "files"))]
pub struct FilesSink {
    /// The folder, and what its files are.
    pub files: FilesTo,
}

/// The folder, and what its files are. A file is written under a hidden name, and appears under one
/// that says which offsets its rows stem from: each row is in one file, also after a crash. A
/// partition's rows are in flight until their file is there, so that `in_flight` bounds it too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FilesTo {
    /// The folder, relative to the pipeline file. `{partition}` in it is the number of the source's
    /// partition, `{date}` a day as `2026-01-31`.
    #[schemars(extend("format" = "path"))]
    pub folder: PathBuf,
    /// The column whose day, in UTC, is `{date}`. The day of the write unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub date: Option<String>,
    /// What the files are.
    #[serde(default)]
    pub format: FilesFormat,
    /// How they are packed: `zstd` for Parquet and not at all for JSON Lines unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<FilesCompression>,
    /// A file is complete with so many rows,
    #[serde(default = "rows")]
    #[schemars(extend("x-positive" = true), range(min = 1))]
    pub max_rows: u64,
    /// with about so many bytes,
    #[serde(default = "bytes")]
    #[schemars(extend("x-positive" = true))]
    pub max_bytes: Size,
    /// or so long after its first row.
    #[serde(default = "after")]
    #[schemars(extend("x-positive" = true))]
    pub max_time: Period,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FilesFormat {
    #[default]
    Parquet,
    /// A JSON object a line.
    JsonLines,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FilesCompression {
    None,
    /// JSON Lines only.
    Gzip,
    Zstd,
    /// Parquet only.
    Snappy,
}

/// The standard output of the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "stdout"))]
pub struct StdoutSink {
    /// How rows are shown. When nobody reads them any more the run ends.
    pub stdout: StdoutFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StdoutFormat {
    /// A JSON object a line.
    JsonLines,
    /// A table for each batch.
    Table,
}

fn rows() -> u64 {
    1_000_000
}

fn bytes() -> Size {
    Size(128 << 20)
}

fn after() -> Period {
    Period::seconds(60)
}
