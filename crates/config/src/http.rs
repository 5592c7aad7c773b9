//! The options of HTTP servers, as look-up and sink.

use crate::{Columns, Period, Secret, Size, TlsSpec};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A server that answers with JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "http"))]
pub struct HttpLookup {
    /// The server, how it is asked, and the columns of its answers. `timeout` is for each request.
    pub http: HttpFrom,
}

/// The server, how it is asked, and the columns of its answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HttpFrom {
    /// The address. A request is a GET for one key, whose columns stand in the address as
    /// `{column}`; with `key` it is a POST for many.
    #[schemars(extend("format" = "text"))]
    pub url: String,
    /// The columns of the key, where many keys are asked for in one POST. It sends an array of
    /// values, or of objects where there are several columns, and finds the rows of the answer by
    /// these columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub key: Option<Vec<String>>,
    /// The body of that POST, in which `{keys}` stands for the array. The array alone unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub body: Option<String>,
    /// How many keys are asked for in one POST.
    #[serde(default = "keys")]
    #[schemars(range(min = 1, max = 10000))]
    pub max_keys: u32,
    /// The JSON pointer to the row or the rows in an answer, as `/data/items`. The whole answer
    /// unless given. Where nothing is there the key is not found.
    #[serde(default)]
    #[schemars(extend("format" = "text"))]
    pub rows: String,
    /// The columns of the rows with their types, the key's among them.
    pub columns: Columns,
    /// How many requests may be under way, of all partitions together.
    #[serde(default = "requests")]
    #[schemars(range(min = 1, max = 4096))]
    pub concurrency: u32,
    /// How long an answer may be.
    #[serde(default = "answer_bytes")]
    #[schemars(extend("x-positive" = true))]
    pub max_answer_bytes: Size,
    #[serde(flatten)]
    pub client: HttpClient,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "http"))]
pub struct HttpSink {
    /// The server, and the requests.
    pub http: HttpTo,
}

/// The server, and the requests that rows become. A row that it refuses (400, 404, 409, 422) becomes
/// a dead letter alone; a request that it does not answer, or answers with 408, 425, 429 or from 500
/// on, is sent again; after 401 and 403 the partition waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HttpTo {
    /// The address that all rows go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub url: Option<String>,
    /// The column with the address of each row. It is no part of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub url_column: Option<String>,
    /// The method of the requests.
    #[serde(default)]
    pub method: HttpMethod,
    /// What a request holds.
    #[serde(default)]
    pub body: HttpBody,
    /// How many rows go in one request, where it may hold several.
    #[serde(default = "batch_rows")]
    #[schemars(range(min = 1, max = 65536))]
    pub batch_rows: u32,
    /// How many bytes of them, before they are packed.
    #[serde(default = "batch_bytes")]
    #[schemars(extend("x-positive" = true))]
    pub batch_bytes: Size,
    /// How many requests of a partition may be under way. With 1 its requests come one after the
    /// other, in the order of its rows.
    #[serde(default = "concurrency")]
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: u32,
    /// Pack the bodies with gzip.
    #[serde(default)]
    pub gzip: bool,
    /// A header that gets a key which is the same whenever the same rows are sent again, as
    /// `Idempotency-Key`. None unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub idempotency_header: Option<String>,
    /// How often a request is tried again, with growing pauses, before the partition holds.
    #[serde(default = "retries")]
    #[schemars(range(max = 1000))]
    pub retries: u32,
    /// How long a request may take, with its answer.
    #[serde(default = "timeout")]
    #[schemars(extend("x-positive" = true))]
    pub timeout: Period,
    #[serde(flatten)]
    pub client: HttpClient,
}

/// Who we are to a server, and how much is asked of it. Redirects are not followed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HttpClient {
    /// Further headers; their values are never shown.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub headers: IndexMap<String, Secret>,
    /// The user's name, where the server wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub username: Option<String>,
    /// The user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// A token, in place of a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// A file with the token, read again when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub token_file: Option<PathBuf>,
    /// Whom to trust, and the certificate to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
    /// How many requests may be sent in a second, of all partitions together. As many as there are
    /// unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub requests_per_second: Option<u32>,
    /// How many connections may be open, of all partitions together.
    #[serde(default = "connections")]
    #[schemars(range(min = 1, max = 4096))]
    pub connections: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HttpMethod {
    #[default]
    Post,
    Put,
    Patch,
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HttpBody {
    /// One row, as a JSON object.
    #[default]
    Row,
    /// Rows as a JSON array.
    Array,
    /// Rows as JSON Lines.
    Lines,
}

fn keys() -> u32 {
    100
}

fn requests() -> u32 {
    32
}

fn answer_bytes() -> Size {
    Size(4 << 20)
}

fn batch_rows() -> u32 {
    500
}

fn batch_bytes() -> Size {
    Size(1 << 20)
}

fn concurrency() -> u32 {
    4
}

fn retries() -> u32 {
    5
}

fn timeout() -> Period {
    Period::seconds(30)
}

fn connections() -> u32 {
    64
}
