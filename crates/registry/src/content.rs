//! What a schema is, apart from its id: the text in canonical form, its references, its extras.

use crate::avro::{Parser, Schema};
use crate::error::{Error, Result};
use crate::json;
use crate::level::kind_word;
use md5::{Digest, Md5};
use millstream_core::{Guid, SchemaKind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// The most text that one schema may have.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Another schema whose types this one uses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reference {
    /// For Avro the full name of the type; for Protobuf the import; for JSON Schema the URL.
    pub name: String,
    pub subject: String,
    /// In a request, -1 stands for the newest.
    pub version: i64,
}

/// A schema that a client sends.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewSchema {
    #[serde(default)]
    pub schema: String,
    /// `AVRO` when there is none.
    pub schema_type: Option<String>,
    pub references: Option<Vec<Reference>>,
    pub metadata: Option<Value>,
    pub rule_set: Option<Value>,
    /// In mode IMPORT, the id to keep.
    pub id: Option<i64>,
    /// In mode IMPORT, the version to keep; otherwise the one that is due.
    pub version: Option<i64>,
}

/// A checked schema in canonical form.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub kind: SchemaKind,
    pub text: String,
    pub references: Vec<Reference>,
    pub metadata: Option<Value>,
    pub rule_set: Option<Value>,
}

/// The texts of references, dependencies first, under their names.
pub(crate) type Texts = Vec<(String, Arc<str>)>;

impl NewSchema {
    pub fn avro(schema: impl Into<String>) -> Self {
        Self::of(SchemaKind::Avro, schema)
    }

    pub fn of(kind: SchemaKind, schema: impl Into<String>) -> Self {
        let schema_type = Some(kind_word(kind).to_owned());
        Self { schema: schema.into(), schema_type, ..Self::default() }
    }
}

impl Content {
    /// Checks a schema and brings it into canonical form. `references` have concrete versions;
    /// `lenient` leaves defaults unchecked, for schemas that other registries let in.
    pub fn check(
        kind: SchemaKind,
        new: &NewSchema,
        references: Vec<Reference>,
        texts: &Texts,
        normalize: bool,
        lenient: bool,
    ) -> Result<Content> {
        if new.schema.trim().is_empty() {
            return Err(Error::invalid_schema("Empty schema"));
        }
        if new.schema.len() > TEXT_BYTES_MAX {
            return Err(Error::invalid_schema(format!(
                "Invalid schema: it has {} bytes, more than {TEXT_BYTES_MAX}",
                new.schema.len()
            )));
        }
        let text = match kind {
            SchemaKind::Avro => {
                let schema = parse_avro(&new.schema, texts, !lenient)?;
                if normalize { schema.normalized() } else { schema.canonical() }
            }
            SchemaKind::Json => {
                let value = json::parse(&new.schema).map_err(invalid)?;
                if !value.is_object() && !value.is_boolean() {
                    return Err(invalid("a JSON Schema is an object, true or false".into()));
                }
                if normalize { json::sorted(&value).to_string() } else { value.to_string() }
            }
            SchemaKind::Protobuf => new.schema.trim().to_owned(),
        };
        let extra = |value: &Option<Value>| value.clone().filter(|value| !value.is_null());
        let (metadata, rule_set) = (extra(&new.metadata), extra(&new.rule_set));
        Ok(Content { kind, text, references, metadata, rule_set })
    }

    /// The same in every registry of Confluent's kind for the same text and references; with
    /// metadata or rules, in every one of ours.
    pub fn guid(&self) -> Guid {
        let mut hash = Md5::new();
        hash.update(&self.text);
        for reference in &self.references {
            hash.update(&reference.name);
            hash.update(&reference.subject);
            hash.update((reference.version as i32).to_be_bytes());
        }
        for extra in [&self.metadata, &self.rule_set].into_iter().flatten() {
            hash.update(json::sorted(extra).to_string());
        }
        Guid(hash.finalize().into())
    }

    /// Equal for equal schemas.
    pub fn key(&self) -> String {
        let extra = |value: &Option<Value>| value.as_ref().map(json::sorted);
        json!([
            kind_word(self.kind),
            self.text,
            self.references,
            extra(&self.metadata),
            extra(&self.rule_set)
        ])
        .to_string()
    }
}

pub(crate) fn parse_avro(text: &str, texts: &Texts, defaults: bool) -> Result<Schema> {
    let mut parser = Parser::new();
    for (name, text) in texts {
        parser.reference(text).map_err(|error| invalid(format!("reference {name}: {error}")))?;
    }
    parser.finish(text, defaults).map_err(invalid)
}

fn invalid(error: String) -> Error {
    Error::invalid_schema(format!("Invalid schema: {error}"))
}
