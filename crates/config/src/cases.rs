//! The shape of a pipeline's tests file: rows in, look-ups stubbed, and what must come out.

use crate::Moment;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A row as an object of columns.
pub type Row = serde_json::Map<String, Value>;

/// The cases of a pipeline, in `NAME.test.yaml` beside `NAME.yaml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TestSpec {
    /// The cases, each on its own.
    #[schemars(length(min = 1))]
    pub cases: Vec<TestCase>,
}

/// Rows in, and what must come out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TestCase {
    /// What the case shows.
    #[schemars(extend("format" = "text"))]
    pub name: String,
    /// The records of the source, in order: an object of decoded columns each, or `raw:` with the
    /// record's text.
    #[schemars(length(min = 1), with = "Vec<Row>")]
    pub input: Vec<TestInput>,
    /// The rows that each look-up holds. A look-up that is not named holds none.
    #[serde(default)]
    pub lookups: IndexMap<String, Vec<Row>>,
    /// What `now()` is, as `2026-01-31T12:00:00Z`. The true time unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Moment>,
    /// What must come out.
    pub expect: Expect,
}

/// One record of the source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TestInput {
    /// The record as it is read, before it is decoded: an object with `raw` alone.
    Raw(RawInput),
    /// The decoded columns.
    Row(Row),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawInput {
    /// The record's text.
    pub raw: String,
}

/// What must come out. What is not named is not checked.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Expect {
    /// The rows in order, of the last step, or by the name of each sink or step. Columns that an
    /// expected row does not name are not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<ExpectedRows>,
    /// The dead letters in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<Vec<ExpectedDead>>,
    /// How many source rows the SQL filters out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filtered: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ExpectedRows {
    /// Of the last step.
    Last(Vec<Row>),
    /// By the name of a sink or step.
    Named(IndexMap<String, Vec<Row>>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExpectedDead {
    /// A part of the reason.
    #[schemars(extend("format" = "text"))]
    pub reason: String,
}
