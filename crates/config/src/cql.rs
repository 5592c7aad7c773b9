//! The options of Cassandra and ScyllaDB, as look-up and sink.

use crate::{Columns, Period, Secret, Size, TlsSpec};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A table of Cassandra or ScyllaDB.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "cql"))]
pub struct CqlLookup {
    /// The cluster, and the table to look up in. `timeout` is for each request.
    pub cql: CqlFrom,
}

/// The cluster, and the table to look up in. It is joined by its whole partition key, and may be by
/// clustering columns from the first on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CqlFrom {
    #[serde(flatten)]
    pub cluster: CqlCluster,
    /// The keyspace of the table.
    #[schemars(extend("format" = "text"))]
    pub keyspace: String,
    /// The table, or the materialised view.
    #[schemars(extend("format" = "text"))]
    pub table: String,
    /// The columns to fetch with their types, the key's among them. All unless given; what is given
    /// is held against the table, and lets `test` run where the cluster is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    /// What a key with several rows gives.
    #[serde(default)]
    pub rows: CqlRows,
    /// With `rows: all`, a key with more rows than this fails.
    #[serde(default = "max_rows")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_rows: u32,
    /// Insert the row that the JOIN names (its whole key, and values), unless one of its key is there
    /// (a lightweight transaction: slow). The look-up then gives `applied`, which is true where the row
    /// that is there has these values, and `stored`, which is that row.
    #[serde(default)]
    pub insert_if_not_exists: bool,
    /// How long a row that is inserted lives, in whole seconds: at least one, at most 20 years. As the
    /// table says unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-positive" = true))]
    pub ttl: Option<Period>,
    /// Who agrees on which row is first. `local_serial` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_consistency: Option<CqlSerialConsistency>,
    /// How many replicas must answer. `local_one` unless given, and `local_quorum` for what is inserted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<CqlConsistency>,
    /// Ask another node too when the first has not answered for so long. Never unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-positive" = true))]
    pub speculative_after: Option<Period>,
    /// How many keys of one replica are asked for in one request.
    #[serde(default = "group")]
    #[schemars(range(min = 1, max = 100))]
    pub group: u32,
    /// How many requests may be under way, of all partitions together. One of more than 8 keys counts
    /// for each 8 of them.
    #[serde(default = "requests")]
    #[schemars(range(min = 1, max = 4096))]
    pub concurrency: u32,
}

/// A cluster, and who we are to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CqlCluster {
    /// Some nodes as `host:port`; the others are learnt from them.
    #[schemars(length(min = 1))]
    pub nodes: Vec<String>,
    /// The data centre whose nodes are asked; others only where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub datacenter: Option<String>,
    /// The rack of it whose nodes are asked first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub rack: Option<String>,
    /// The user's name, where the cluster wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub username: Option<String>,
    /// The user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// Encrypt the connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
    /// Connections to each node (to each of its shards, with ScyllaDB). Sinks have as many again.
    #[serde(default = "connections")]
    #[schemars(range(min = 1, max = 64))]
    pub connections: u32,
    /// How long a node may take to be connected to.
    #[serde(default = "connect_timeout")]
    #[schemars(extend("x-positive" = true))]
    pub connect_timeout: Period,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CqlRows {
    /// The first by clustering order.
    #[default]
    First,
    /// All of them: a JOIN gives a row for each.
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CqlConsistency {
    /// For writes: a hint for a node that is down will do.
    Any,
    One,
    Two,
    Three,
    Quorum,
    All,
    LocalQuorum,
    /// For writes.
    EachQuorum,
    LocalOne,
}

/// Of a lightweight transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CqlSerialConsistency {
    /// The replicas of all data centres.
    Serial,
    /// Those of the local data centre: all that write this table must be in it.
    LocalSerial,
}

/// A table of Cassandra or ScyllaDB.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "cql"))]
pub struct CqlSink {
    /// The cluster, and the table to write.
    pub cql: CqlTo,
}

/// The cluster, and the table to write. Rows of one partition go in one request; a key is never
/// written twice at a time, and of equal times the later row wins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CqlTo {
    #[serde(flatten)]
    pub cluster: CqlCluster,
    /// The keyspace of the table.
    #[schemars(extend("format" = "text"))]
    pub keyspace: String,
    /// The table to write. It must be there.
    #[schemars(extend("format" = "text"))]
    pub table: String,
    /// What a row does.
    #[serde(default)]
    pub operation: CqlOperation,
    /// The table's columns, each with the row's column that it gets. Those of the same name unless
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<IndexMap<String, String>>,
    /// How long a row lives, from its write, in whole seconds: at least one, at most 20 years. As
    /// the table says unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-positive" = true))]
    pub ttl: Option<Period>,
    /// The column with the seconds that a row lives. Null and 0 are for ever; what is below 0 or
    /// above 20 years makes the row a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub ttl_column: Option<String>,
    /// The column whose time decides which of two writes of a row is the last. The time of the
    /// write unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub timestamp: Option<String>,
    /// What a null does.
    #[serde(default)]
    pub nulls: CqlNulls,
    /// How many replicas must have a row before it counts as stored.
    #[serde(default = "local_quorum")]
    pub consistency: CqlConsistency,
    /// Who agrees on which row is first, with `insert_if_not_exists`. `local_serial` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_consistency: Option<CqlSerialConsistency>,
    /// How many rows of one partition go in one request. With `insert_if_not_exists` each goes alone.
    #[serde(default = "batch_rows")]
    #[schemars(range(min = 1, max = 1000))]
    pub batch_rows: u32,
    /// How many bytes of them. Cassandra warns above 5 KiB and refuses above 50 KiB.
    #[serde(default = "batch_bytes")]
    #[schemars(extend("x-positive" = true))]
    pub batch_bytes: Size,
    /// How many requests may be under way, of all partitions together. There are fewer while the
    /// cluster has trouble.
    #[serde(default = "requests")]
    #[schemars(range(min = 1, max = 4096))]
    pub concurrency: u32,
    /// How often a request is tried again, with growing pauses, before the partition holds.
    #[serde(default = "retries")]
    #[schemars(range(max = 1000))]
    pub retries: u32,
    /// How long a request may take.
    #[serde(default = "timeout")]
    #[schemars(extend("x-positive" = true))]
    pub timeout: Period,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CqlOperation {
    /// It is there afterwards, whatever was there before.
    #[default]
    Insert,
    /// It is there afterwards, unless there was one before (a lightweight transaction: slow). Nothing
    /// tells which; a look-up with `insert_if_not_exists` does.
    InsertIfNotExists,
    /// Its columns are there afterwards; columns that count are added to, perhaps twice when an
    /// answer stays away or the pipeline ends without a word.
    Update,
    /// It is gone afterwards. The row's columns are the key.
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CqlNulls {
    /// The column keeps what it has.
    #[default]
    Unset,
    /// The column is deleted, which leaves a tombstone.
    Delete,
}

fn max_rows() -> u32 {
    1000
}

fn group() -> u32 {
    64
}

fn requests() -> u32 {
    64
}

fn connections() -> u32 {
    1
}

fn connect_timeout() -> Period {
    Period::seconds(5)
}

fn local_quorum() -> CqlConsistency {
    CqlConsistency::LocalQuorum
}

fn batch_rows() -> u32 {
    64
}

fn batch_bytes() -> Size {
    Size(5 << 10)
}

fn retries() -> u32 {
    5
}

fn timeout() -> Period {
    Period::seconds(2)
}
