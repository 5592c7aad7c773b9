//! The options of MongoDB, as look-up and sink.

use crate::{Period, Secret, Size, TlsSpec};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A collection of MongoDB.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "mongodb"))]
pub struct MongoLookup {
    /// The deployment, and the collection to look up in. `timeout` is for each request.
    pub mongodb: MongoFrom,
}

/// The deployment, and the collection to look up in. It is joined by any fields; those that have an
/// index answer soon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MongoFrom {
    #[serde(flatten)]
    pub cluster: MongoCluster,
    /// The collection.
    #[schemars(extend("format" = "text"))]
    pub collection: String,
    /// The fields to fetch with their types; a path has dots in it. Beside the other types there are
    /// `object_id`, `uuid` and `decimal128`, which are texts here. What documents look like is
    /// learnt from some of them unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub columns: Option<IndexMap<String, String>>,
    /// How many documents are looked at: from each end of the collection to learn its columns, from
    /// one to hold them against what is declared.
    #[serde(default = "sample")]
    #[schemars(range(min = 1, max = 10000))]
    pub sample: u32,
    /// What a key with several documents gives.
    #[serde(default)]
    pub rows: MongoRows,
    /// With `rows: all`, a key with more documents than this fails.
    #[serde(default = "max_rows")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_rows: u32,
    /// The order of the documents of a key: fields, the most important first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub sort: Option<IndexMap<String, MongoOrder>>,
    /// Which members of a replica set are asked.
    #[serde(default)]
    pub read_from: MongoReadFrom,
    /// What is read: `local`, `majority` or another read concern. As the server says unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub read_concern: Option<String>,
    /// How many keys are asked for in one request.
    #[serde(default = "group")]
    #[schemars(range(min = 1, max = 10000))]
    pub group: u32,
    /// How many requests may be under way, of all partitions together.
    #[serde(default = "requests")]
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: u32,
}

/// A server, a replica set or the routers of a cluster, and who we are to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MongoCluster {
    /// Some servers as `host:port`; the members of a replica set are learnt from them.
    #[schemars(length(min = 1))]
    pub hosts: Vec<String>,
    /// The name that the replica set must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub replica_set: Option<String>,
    /// The database.
    #[schemars(extend("format" = "text"))]
    pub database: String,
    /// The user's name, where the deployment wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub username: Option<String>,
    /// The user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// The database that knows the user. `admin` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub auth_database: Option<String>,
    /// Encrypt the connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
    /// Connections to each server at most.
    #[serde(default = "connections")]
    #[schemars(range(min = 1, max = 1024))]
    pub connections: u32,
    /// How long a server may take to be connected to, and the deployment to name one that can be
    /// asked.
    #[serde(default = "connect_timeout")]
    #[schemars(extend("x-positive" = true))]
    pub connect_timeout: Period,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MongoRows {
    /// The first by `sort`; any of them without one.
    #[default]
    First,
    /// All of them: a JOIN gives a row for each.
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MongoOrder {
    /// The smallest first.
    Asc,
    /// The largest first.
    Desc,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MongoReadFrom {
    /// The primary and no other.
    #[default]
    Primary,
    /// The primary, and a secondary while there is none.
    PrimaryPreferred,
    /// A secondary and no other.
    Secondary,
    /// A secondary, and the primary while there is none.
    SecondaryPreferred,
    /// Whoever answers soonest.
    Nearest,
}

/// A collection of MongoDB.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "mongodb"))]
pub struct MongoSink {
    /// The deployment, and the collection to write.
    pub mongodb: MongoTo,
}

/// The deployment, and the collection to write. Many rows go in one command; a key is never written
/// twice at a time, and a row that the server refuses becomes a dead letter alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MongoTo {
    #[serde(flatten)]
    pub cluster: MongoCluster,
    /// The collection to write.
    #[schemars(extend("format" = "text"))]
    pub collection: String,
    /// What a row does.
    #[serde(default)]
    pub operation: MongoOperation,
    /// With `operation: update`, what it changes: operators with fields and values, in which a text
    /// that begins with `$` is a column of the row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub update: Option<IndexMap<String, IndexMap<String, Value>>>,
    /// With `operation: update`, whether a document that is not there is made. It is unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upsert: Option<bool>,
    /// The documents' fields, each with the row's column that it gets. Those of the same name unless
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<IndexMap<String, String>>,
    /// The row's columns whose values are of a type in documents that columns do not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<IndexMap<String, MongoType>>,
    /// The row's columns that name a document. The one that `_id` gets unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub key: Option<Vec<String>>,
    /// What a null becomes.
    #[serde(default)]
    pub nulls: MongoNulls,
    /// How many members must have a row before it counts as stored: `majority`, a number, or the name
    /// of a rule of the replica set.
    #[serde(default = "majority")]
    #[schemars(extend("format" = "text"))]
    pub write_concern: String,
    /// Whether they must have it in their journal on disk. As the deployment says unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<bool>,
    /// How many rows go in one command.
    #[serde(default = "batch_rows")]
    #[schemars(range(min = 1, max = 100000))]
    pub batch_rows: u32,
    /// How many bytes of them.
    #[serde(default = "batch_bytes")]
    #[schemars(extend("x-positive" = true))]
    pub batch_bytes: Size,
    /// How many commands may be under way, of all partitions together.
    #[serde(default = "requests")]
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: u32,
    /// How often a command is tried again, with growing pauses, before the partition holds.
    #[serde(default = "retries")]
    #[schemars(range(max = 1000))]
    pub retries: u32,
    /// How long a command may take.
    #[serde(default = "timeout")]
    #[schemars(extend("x-positive" = true))]
    pub timeout: Period,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MongoOperation {
    /// It is a new document. One that is there already with the same fields and values counts as it;
    /// any other makes the row a dead letter.
    #[default]
    Insert,
    /// It is the document of its key afterwards. Of a batch's rows with one key the last counts.
    Upsert,
    /// It changes the document of its key as `update` says.
    Update,
    /// The document of its key is gone afterwards.
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MongoType {
    /// A text of 24 hex digits, or 12 bytes.
    ObjectId,
    /// A text, or 16 bytes.
    Uuid,
    /// A text or a whole number.
    Decimal128,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MongoNulls {
    /// The document lacks the field; an update leaves it as it is.
    #[default]
    Skip,
    /// The field is null.
    Write,
}

fn sample() -> u32 {
    200
}

fn max_rows() -> u32 {
    1000
}

fn group() -> u32 {
    200
}

fn requests() -> u32 {
    8
}

fn connections() -> u32 {
    16
}

fn connect_timeout() -> Period {
    Period::seconds(5)
}

fn majority() -> String {
    "majority".into()
}

fn batch_rows() -> u32 {
    1000
}

fn batch_bytes() -> Size {
    Size(2 << 20)
}

fn retries() -> u32 {
    5
}

fn timeout() -> Period {
    Period::seconds(10)
}
