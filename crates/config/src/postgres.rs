//! The options of PostgreSQL, as look-up and sink.

use crate::{Columns, Period, Secret, TlsSpec};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A table or a view of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "postgres"))]
pub struct PostgresLookup {
    /// The server, and the table to look up in. `timeout` is for each statement.
    pub postgres: PostgresFrom,
}

/// The server, and the table to look up in. It is joined by any of its columns; one that has an
/// index answers soon. A key with several rows gives all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PostgresFrom {
    #[serde(flatten)]
    pub server: PostgresServer,
    /// The schema of the table. The first of the role's `search_path` that has it unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub schema: Option<String>,
    /// The table or the view.
    #[schemars(extend("format" = "text"))]
    pub table: String,
    /// The columns to fetch with their types, the key's among them. All unless given; what is given
    /// is held against the table, and lets `test` run where the server is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    /// A key with more rows than this fails.
    #[serde(default = "max_rows")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_rows: u32,
    /// How many keys are asked for in one statement.
    #[serde(default = "group")]
    #[schemars(range(min = 1, max = 10000))]
    pub group: u32,
    /// How many statements may be under way, of all partitions together. They share the
    /// `connections`.
    #[serde(default = "statements")]
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: u32,
}

/// A server, and who we are to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PostgresServer {
    /// `host:port`. Of several the first that answers is taken, by a sink the first that takes
    /// writes.
    #[schemars(length(min = 1))]
    pub hosts: Vec<String>,
    /// The database.
    #[schemars(extend("format" = "text"))]
    pub database: String,
    /// The role's name.
    #[schemars(extend("format" = "text"))]
    pub username: String,
    /// The role's password, where the server wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// A file with the password, read for every connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub password_file: Option<PathBuf>,
    /// Encrypt the connections. The files are read for every connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
    /// Connections at most. A sink has one for each partition that is writing just now; the others
    /// wait.
    #[serde(default = "connections")]
    #[schemars(range(min = 1, max = 256))]
    pub connections: u32,
    /// How long the server may take to be connected to.
    #[serde(default = "connect_timeout")]
    #[schemars(extend("x-positive" = true))]
    pub connect_timeout: Period,
}

/// A table of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "postgres"))]
pub struct PostgresSink {
    /// The server, and the table to write.
    pub postgres: PostgresTo,
}

/// The server, and the table to write. A batch is one transaction; a row that the server refuses
/// becomes a dead letter, and the others are stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PostgresTo {
    #[serde(flatten)]
    pub server: PostgresServer,
    /// The schema of the table. The first of the role's `search_path` that has it unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub schema: Option<String>,
    /// The table to write. It must be there.
    #[schemars(extend("format" = "text"))]
    pub table: String,
    /// What a row does.
    #[serde(default)]
    pub operation: PostgresOperation,
    /// What becomes of an inserted row whose key is there already.
    #[serde(default)]
    pub on_conflict: PostgresConflict,
    /// The columns of a unique index, by which rows are the same. The primary key unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub key: Option<Vec<String>>,
    /// The table's columns, each with the row's column that it gets. Those of the same name unless
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<IndexMap<String, String>>,
    /// How rows get to the server.
    #[serde(default)]
    pub mode: PostgresMode,
    /// Store each row once, whatever fails: the source's position is kept in
    /// `millstream_positions` beside the table, in the transactions of the rows. Both tables that
    /// this needs are made when they are missing.
    #[serde(default = "exactly_once")]
    pub exactly_once: bool,
    /// How long a statement may take.
    #[serde(default = "timeout")]
    #[schemars(extend("x-positive" = true))]
    pub timeout: Period,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PostgresOperation {
    /// It is added.
    #[default]
    Insert,
    /// It is added, or the row with its key gets its values. Of a batch's rows with one key the last
    /// counts.
    Upsert,
    /// The row with its key is gone afterwards.
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PostgresConflict {
    /// It becomes a dead letter.
    #[default]
    DeadLetter,
    /// What is there stays, and the row counts as stored.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PostgresMode {
    /// By COPY, where keys are compared into a temporary table first. The fastest.
    #[default]
    Copy,
    /// As arrays, one a column: for roles that may not make temporary tables. Columns that are
    /// arrays cannot be written so.
    Insert,
}

fn max_rows() -> u32 {
    1000
}

fn group() -> u32 {
    500
}

fn statements() -> u32 {
    16
}

fn connections() -> u32 {
    4
}

fn connect_timeout() -> Period {
    Period::seconds(5)
}

fn exactly_once() -> bool {
    true
}

fn timeout() -> Period {
    Period::seconds(30)
}
