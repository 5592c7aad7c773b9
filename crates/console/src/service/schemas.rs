//! The schema registry, asked from the command line: the embedded one, which answers over HTTP too,
//! or one elsewhere.

use super::{Reply, Service, blocking, end, nothing};
use crate::answers;
use crate::protocol::{Elsewhere, SchemaText};
use crate::{Error, Result};
use futures::{StreamExt, stream};
use millstream_core::SchemaKind;
use millstream_engine::SchemaRegistry;
use millstream_registry::client::{Client, Versioned};
use millstream_registry::{Config, Deleted, Level, NewSchema, Reference, SubjectVersion, Version};
use serde_json::Value;

/// Subjects of a registry elsewhere that are asked about at the same time.
const ASKED_AT_ONCE: usize = 8;

impl Service {
    pub async fn schemas(&self, elsewhere: &Elsewhere, reply: Reply) -> Result<Value> {
        let registry = match self.registry_of(elsewhere)? {
            SchemaRegistry::Embedded(registry) => registry,
            SchemaRegistry::Elsewhere { client, .. } => {
                let subjects = client.subjects().await?;
                let rows = subjects.into_iter().map(|subject| subject_there(&client, subject));
                let mut rows = stream::iter(rows).buffered(ASKED_AT_ONCE);
                while let Some(row) = rows.next().await {
                    if let Some(row) = row? {
                        reply.row(row).await?;
                    }
                }
                return nothing();
            }
        };
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
        elsewhere: &Elsewhere,
        reply: Reply,
    ) -> Result<Value> {
        let version = version.as_deref().unwrap_or("latest");
        let registry = match self.registry_of(elsewhere)? {
            SchemaRegistry::Embedded(registry) => registry,
            SchemaRegistry::Elsewhere { client, place, .. } => {
                let wanted = match (subject, id) {
                    (Some(subject), _) => vec![(subject, version.to_owned())],
                    (None, Some(id)) => {
                        let places = client.versions_of_id(id).await?.into_iter();
                        places.map(|(subject, version)| (subject, version.to_string())).collect()
                    }
                    (None, None) => return Err(neither()),
                };
                for (subject, version) in wanted {
                    let found = client.version(&subject, &version).await?;
                    let found = found.ok_or_else(|| no_version(&place, &subject, &version))?;
                    reply.row(row_there(found)).await?;
                }
                return nothing();
            }
        };
        match (subject, id) {
            (Some(subject), _) => {
                let version = Version::parse(version)?;
                reply.row(row(&registry.by_version(&subject, version, false)?)).await?;
            }
            (None, Some(id)) => {
                for (subject, version) in registry.versions_of_id(id, true)? {
                    let found = registry.by_version(&subject, Version::Number(version), true)?;
                    reply.row(row(&found)).await?;
                }
            }
            (None, None) => return Err(neither()),
        }
        nothing()
    }

    pub async fn register_schema(
        &self,
        subject: String,
        schema: SchemaText,
        elsewhere: &Elsewhere,
    ) -> Result<Value> {
        let registry = match self.registry_of(elsewhere)? {
            SchemaRegistry::Embedded(registry) => registry,
            SchemaRegistry::Elsewhere { client, place, .. } => {
                let id = client.add(&subject, &new_schema(schema)).await?;
                let places = client.versions_of_id(id).await?;
                let version = places.into_iter().find(|(known, _)| *known == subject);
                let version = version.map_or("latest".into(), |(_, version)| version.to_string());
                let found = client.version(&subject, &version).await?;
                let found = found.ok_or_else(|| no_version(&place, &subject, &version))?;
                return end(row_there(found));
            }
        };
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
        elsewhere: &Elsewhere,
    ) -> Result<Value> {
        let registry = match self.registry_of(elsewhere)? {
            SchemaRegistry::Embedded(registry) => registry,
            SchemaRegistry::Elsewhere { client, .. } => {
                let schema = new_schema(schema);
                let messages = client.compatibility(&subject, version.as_deref(), &schema).await?;
                return end(answers::Compatibility { compatible: messages.is_empty(), messages });
            }
        };
        end(blocking(move || {
            let version = version.map(|text| Version::parse(&text)).transpose()?;
            let messages = registry.compatibility(&subject, version, &new_schema(schema), false)?;
            Ok(answers::Compatibility { compatible: messages.is_empty(), messages })
        })
        .await?)
    }

    pub async fn set_level(
        &self,
        subject: Option<String>,
        level: String,
        elsewhere: &Elsewhere,
    ) -> Result<Value> {
        let level = Level::parse(&level)?;
        let registry = match self.registry_of(elsewhere)? {
            SchemaRegistry::Embedded(registry) => registry,
            SchemaRegistry::Elsewhere { client, .. } => {
                client.set_level_of(subject.as_deref(), level.word()).await?;
                return nothing();
            }
        };
        blocking(move || {
            let config = Config { compatibility_level: Some(level), ..Config::default() };
            Ok(registry.set_config(subject.as_deref(), config)?)
        })
        .await?;
        nothing()
    }
}

/// None when it was deleted meanwhile.
async fn subject_there(client: &Client, subject: String) -> Result<Option<answers::Subject>> {
    let Some(latest) = client.version(&subject, "latest").await? else { return Ok(None) };
    Ok(Some(answers::Subject {
        versions: client.versions(&subject).await?,
        id: latest.id,
        kind: kind_word(latest.kind).into(),
        level: client.level(&subject).await?.unwrap_or_default(),
        subject,
    }))
}

fn neither() -> Error {
    Error::mistake("name a subject, or an id with --id")
}

fn no_version(place: &str, subject: &str, version: &str) -> Error {
    Error::mistake(match version {
        "latest" => format!("the schema registry at {place} has no subject `{subject}`"),
        _ => format!("the schema registry at {place} has no version {version} of `{subject}`"),
    })
}

fn row_there(found: Versioned) -> answers::Schema {
    answers::Schema {
        subject: found.subject,
        version: found.version,
        id: found.id,
        kind: kind_word(found.kind).into(),
        schema: found.text.to_string(),
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
