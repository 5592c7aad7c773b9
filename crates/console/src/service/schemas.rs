//! The schema registry, asked from the command line. The same registry answers over HTTP.

use super::{Reply, Service, blocking, end, nothing};
use crate::answers;
use crate::protocol::SchemaText;
use crate::{Error, Result};
use millstream_core::SchemaKind;
use millstream_registry::{
    Config, Deleted, Level, NewSchema, Reference, Registry, SubjectVersion, Version,
};
use serde_json::Value;

impl Service {
    pub async fn schemas(&self, reply: Reply) -> Result<Value> {
        let registry = &self.home().registry;
        for subject in registry.subjects(Deleted::Hidden, "") {
            let latest = registry.by_version(&subject, Version::Latest, false)?;
            let level = registry.config(Some(&subject), true)?.compatibility_level;
            reply
                .row(answers::Subject {
                    versions: registry.versions(&subject, Deleted::Hidden)?,
                    id: latest.schema.id,
                    kind: kind_word(latest.schema.kind).into(),
                    level: level.unwrap_or(Level::Backward).word().into(),
                    subject,
                })
                .await?;
        }
        nothing()
    }

    pub async fn show_schema(
        &self,
        subject: Option<String>,
        version: Option<String>,
        id: Option<u32>,
        reply: Reply,
    ) -> Result<Value> {
        let registry = &self.home().registry;
        match (subject, id) {
            (Some(subject), _) => {
                let version = Version::parse(version.as_deref().unwrap_or("latest"))?;
                reply.row(row(&registry.by_version(&subject, version, false)?)).await?;
            }
            (None, Some(id)) => {
                for (subject, version) in registry.versions_of_id(id, true)? {
                    let found = registry.by_version(&subject, Version::Number(version), true)?;
                    reply.row(row(&found)).await?;
                }
            }
            (None, None) => return Err(Error::mistake("name a subject, or an id with --id")),
        }
        nothing()
    }

    pub async fn register_schema(&self, subject: String, schema: SchemaText) -> Result<Value> {
        let registry = self.home().registry.clone();
        end(blocking(move || {
            let registered = registry.register(&subject, &new_schema(schema), false)?;
            Ok(row(&registry.by_version(&subject, Version::Number(registered.version), false)?))
        })
        .await?)
    }

    pub async fn compatible_schema(
        &self,
        subject: String,
        version: Option<String>,
        schema: SchemaText,
    ) -> Result<Value> {
        let registry = self.home().registry.clone();
        end(blocking(move || {
            let version = version.map(|text| Version::parse(&text)).transpose()?;
            let messages = registry.compatibility(&subject, version, &new_schema(schema), false)?;
            Ok(answers::Compatibility { compatible: messages.is_empty(), messages })
        })
        .await?)
    }

    pub async fn set_level(&self, subject: Option<String>, level: String) -> Result<Value> {
        let registry: Registry = self.home().registry.clone();
        blocking(move || {
            let level = Some(Level::parse(&level)?);
            let config = Config { compatibility_level: level, ..Config::default() };
            Ok(registry.set_config(subject.as_deref(), config)?)
        })
        .await?;
        nothing()
    }
}

fn new_schema(schema: SchemaText) -> NewSchema {
    let references = schema
        .references
        .into_iter()
        .map(|(name, subject, version)| Reference { name, subject, version })
        .collect();
    NewSchema {
        schema_type: Some(schema.kind.to_ascii_uppercase()),
        references: Some(references),
        ..NewSchema::avro(schema.text)
    }
}

fn row(found: &SubjectVersion) -> answers::Schema {
    answers::Schema {
        subject: found.subject.clone(),
        version: found.version,
        id: found.schema.id,
        kind: kind_word(found.schema.kind).into(),
        schema: found.schema.text.to_string(),
    }
}

fn kind_word(kind: SchemaKind) -> &'static str {
    match kind {
        SchemaKind::Avro => "avro",
        SchemaKind::Json => "json",
        SchemaKind::Protobuf => "protobuf",
    }
}
