//! How records become columns, and rows records.

use crate::{Columns, Delimiter, SubjectStrategy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How records become columns: `avro`, `protobuf`, `json`, `json_schema`, `csv` or `text`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(extend("x-shorthand" = ["avro", "protobuf", "json", "json_schema", "text"]))]
pub enum DecodeSpec {
    /// Avro, with its schema from the registry or a file.
    Avro(AvroDecode),
    /// Protobuf, with its schema from the registry or a file.
    Protobuf(ProtobufDecode),
    /// A JSON object a record.
    Json(JsonDecode),
    /// A JSON object a record, with its JSON Schema from the registry or a file.
    JsonSchema(JsonSchemaDecode),
    /// Values with a delimiter between them.
    Csv(CsvDecode),
    /// Lines of text: the column `line`, or the groups of a regular expression.
    Text(TextDecode),
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct AvroDecode {
    /// What stands before each record.
    #[serde(default)]
    pub framing: Framing,
    /// The registry's subject of the reader schema. `TOPIC-value` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub subject: Option<String>,
    /// A file with the reader schema, relative to the pipeline file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub schema_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ProtobufDecode {
    /// What stands before each record.
    #[serde(default)]
    pub framing: Framing,
    /// The registry's subject of the reader schema. `TOPIC-value` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub subject: Option<String>,
    /// A `.proto` file with the reader schema, relative to the pipeline file. What it imports is
    /// looked for from its folder on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub schema_file: Option<PathBuf>,
    /// The message that records are, where the schema has several. Its first unless given; a record
    /// that is another message becomes a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub message: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// A zero byte and the schema's id in the registry, or nothing and the schema's GUID in the
    /// header `__value_schema_id`.
    #[default]
    Confluent,
    /// Nothing: the record alone.
    Bare,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct JsonDecode {
    /// The fields to take, with their types. Without it the whole object is the text column `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct JsonSchemaDecode {
    /// What stands before each record.
    #[serde(default)]
    pub framing: Framing,
    /// The registry's subject of the reader schema. `TOPIC-value` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub subject: Option<String>,
    /// A file with the reader schema, relative to the pipeline file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub schema_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CsvDecode {
    /// The columns in the order of the line, with their types.
    pub columns: Columns,
    /// The character between two values.
    #[serde(default)]
    pub delimiter: Delimiter,
    /// The character around a value that holds the delimiter.
    #[serde(default = "quote")]
    pub quote: Delimiter,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct TextDecode {
    /// A regular expression with a named group, `(?<name>…)`, for each column. A line that it does
    /// not match becomes a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "regex"))]
    pub pattern: Option<String>,
    /// The type of each group. All are strings unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
}

/// How rows become records: `avro`, `protobuf`, `json` or `json_schema`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(extend("x-shorthand" = ["avro", "protobuf", "json", "json_schema"]))]
pub enum EncodeSpec {
    /// Avro, Confluent-framed, its schema registered.
    Avro(AvroEncode),
    /// Protobuf, Confluent-framed, with the schema of its subject or of a file.
    Protobuf(ProtobufEncode),
    /// A JSON object a record.
    Json(JsonEncode),
    /// A JSON object a record, Confluent-framed, its JSON Schema registered.
    JsonSchema(JsonSchemaEncode),
}

// No help text of its own: what it is flattened into would take it over.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct SubjectSpec {
    /// The registry's subject. Named by `subject_strategy` unless given.
    #[serde(default, rename = "subject", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub name: Option<String>,
    /// How the subject is named.
    #[serde(default, rename = "subject_strategy")]
    pub strategy: SubjectStrategy,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct AvroEncode {
    #[serde(flatten)]
    pub subject: SubjectSpec,
    /// A file with the schema to write, relative to the pipeline file. Made from the columns unless
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub schema_file: Option<PathBuf>,
    /// The record's full name in a schema made from the columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "avro_name"))]
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ProtobufEncode {
    #[serde(flatten)]
    pub subject: SubjectSpec,
    /// A `.proto` file with the schema to write, relative to the pipeline file. The newest schema of
    /// the subject unless given: numbers of fields cannot be made from columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub schema_file: Option<PathBuf>,
    /// The message to write, where the schema has several. Its first unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub message: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct JsonEncode {}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct JsonSchemaEncode {
    #[serde(flatten)]
    pub subject: SubjectSpec,
    /// A file with the schema to write, relative to the pipeline file. Made from the columns unless
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub schema_file: Option<PathBuf>,
    /// The title of a schema made from the columns. The topic's name unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub title: Option<String>,
}

fn quote() -> Delimiter {
    Delimiter(b'"')
}
