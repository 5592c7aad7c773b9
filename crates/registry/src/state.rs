//! What the registry knows, and how one entry of the journal changes it. No decision is made
//! here: an entry is applied the same way when it is made and when it is read back.

use crate::content::{Content, Reference, Texts};
use crate::level::{Level, Mode};
use millstream_core::{Guid, RegisteredSchema, SchemaKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Entry {
    Journal {
        version: u32,
    },
    Register {
        subject: String,
        version: u32,
        id: u32,
        /// None when the id is known already.
        content: Option<Box<StoredContent>>,
    },
    DeleteVersion {
        subject: String,
        version: u32,
        permanent: bool,
    },
    DeleteSubject {
        subject: String,
        permanent: bool,
    },
    /// Sets when there is a value, removes otherwise; global without a subject.
    Config {
        subject: Option<String>,
        config: Option<Config>,
    },
    Mode {
        subject: Option<String>,
        mode: Option<Mode>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredContent {
    kind: Kind,
    text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    references: Vec<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule_set: Option<Value>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Avro,
    Json,
    Protobuf,
}

/// The settings of a subject or of the whole registry; what is not set is as above it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compatibility_level: Option<Level>,
    /// Whether schemas are normalized even when a request does not ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<bool>,
}

/// A schema under its id.
#[derive(Debug)]
pub struct Schema {
    pub id: u32,
    pub guid: Guid,
    pub kind: SchemaKind,
    pub text: Arc<str>,
    pub references: Vec<Reference>,
    pub metadata: Option<Value>,
    pub rule_set: Option<Value>,
    /// With the texts of all references.
    pub registered: Arc<RegisteredSchema>,
    pub(crate) key: String,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub id: u32,
    pub deleted: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct State {
    pub schemas: BTreeMap<u32, Arc<Schema>>,
    pub by_content: HashMap<String, u32>,
    pub subjects: BTreeMap<String, BTreeMap<u32, Slot>>,
    pub config: Config,
    pub configs: BTreeMap<String, Config>,
    pub mode: Option<Mode>,
    pub modes: BTreeMap<String, Mode>,
    /// Ids are never given twice, even when their schema is gone for good.
    pub next_id: u32,
}

impl Default for State {
    fn default() -> Self {
        Self {
            schemas: BTreeMap::new(),
            by_content: HashMap::new(),
            subjects: BTreeMap::new(),
            config: Config::default(),
            configs: BTreeMap::new(),
            mode: None,
            modes: BTreeMap::new(),
            next_id: 1,
        }
    }
}

impl State {
    pub fn apply(&mut self, entry: Entry) -> Result<(), String> {
        match entry {
            Entry::Journal { .. } => {}
            Entry::Register { subject, version, id, content } => {
                self.register(subject, version, id, content)?;
            }
            Entry::DeleteVersion { subject, version, permanent } => {
                let versions = self.subjects.get_mut(&subject);
                let slot = versions.and_then(|versions| versions.get_mut(&version));
                slot.ok_or("it deletes a version that is not there")?.deleted = true;
                if permanent {
                    self.forget(&subject, &[version]);
                }
            }
            Entry::DeleteSubject { subject, permanent } => {
                let versions = self.subjects.get_mut(&subject);
                let versions = versions.ok_or("it deletes a subject that is not there")?;
                versions.values_mut().for_each(|slot| slot.deleted = true);
                let all: Vec<u32> = versions.keys().copied().collect();
                if permanent {
                    self.forget(&subject, &all);
                }
                self.configs.remove(&subject);
                self.modes.remove(&subject);
            }
            Entry::Config { subject: None, config } => self.config = config.unwrap_or_default(),
            Entry::Config { subject: Some(subject), config } => {
                match config {
                    Some(config) => self.configs.insert(subject, config),
                    None => self.configs.remove(&subject),
                };
            }
            Entry::Mode { subject: None, mode } => self.mode = mode,
            Entry::Mode { subject: Some(subject), mode } => {
                match mode {
                    Some(mode) => self.modes.insert(subject, mode),
                    None => self.modes.remove(&subject),
                };
            }
        }
        Ok(())
    }

    fn register(
        &mut self,
        subject: String,
        version: u32,
        id: u32,
        content: Option<Box<StoredContent>>,
    ) -> Result<(), String> {
        if let Some(content) = content {
            let content = Content::from(*content);
            let texts = self.texts(&content.references)?;
            let (key, guid) = (content.key(), content.guid());
            let text: Arc<str> = content.text.into();
            let registered =
                RegisteredSchema { id, kind: content.kind, text: text.clone(), references: texts };
            let schema = Schema {
                id,
                guid,
                kind: content.kind,
                text,
                references: content.references,
                metadata: content.metadata,
                rule_set: content.rule_set,
                registered: Arc::new(registered),
                key: key.clone(),
            };
            if self.schemas.insert(id, Arc::new(schema)).is_some() {
                return Err(format!("it defines the id {id} again"));
            }
            // An import may bring one schema under several ids; the first is given out.
            self.by_content.entry(key).or_insert(id);
        } else if !self.schemas.contains_key(&id) {
            return Err(format!("it uses the unknown id {id}"));
        }
        self.next_id = self.next_id.max(id.saturating_add(1));
        let versions = self.subjects.entry(subject).or_default();
        // A schema that comes back takes a new version, and its deleted one is gone for good.
        versions.retain(|_, slot| !(slot.deleted && slot.id == id));
        versions.insert(version, Slot { id, deleted: false });
        Ok(())
    }

    fn forget(&mut self, subject: &str, versions: &[u32]) {
        let mut ids = Vec::new();
        if let Some(known) = self.subjects.get_mut(subject) {
            ids.extend(versions.iter().filter_map(|v| known.remove(v)).map(|slot| slot.id));
            if known.is_empty() {
                self.subjects.remove(subject);
            }
        }
        for id in ids {
            let used = self.subjects.values().flat_map(BTreeMap::values).any(|slot| slot.id == id);
            if used {
                continue;
            }
            if let Some(schema) = self.schemas.remove(&id)
                && self.by_content.get(&schema.key) == Some(&id)
            {
                self.by_content.remove(&schema.key);
                let twin = self.schemas.values().find(|other| other.key == schema.key);
                if let Some(twin) = twin.map(|twin| twin.id) {
                    self.by_content.insert(schema.key.clone(), twin);
                }
            }
        }
    }

    /// The texts of these references and of theirs, dependencies first, each once.
    pub fn texts(&self, references: &[Reference]) -> Result<Texts, String> {
        let mut texts: Texts = Vec::new();
        let mut add = |name: &str, text: &Arc<str>| {
            if !texts.iter().any(|(known, other)| known == name && other == text) {
                texts.push((name.to_owned(), text.clone()));
            }
        };
        for reference in references {
            let slot = u32::try_from(reference.version)
                .ok()
                .and_then(|version| self.subjects.get(&reference.subject)?.get(&version))
                .and_then(|slot| self.schemas.get(&slot.id));
            let Some(schema) = slot else {
                return Err(format!(
                    "the reference {} is to version {} of subject {}, which is not there",
                    reference.name, reference.version, reference.subject
                ));
            };
            for (name, text) in &schema.registered.references {
                add(name, text);
            }
            add(&reference.name, &schema.text);
        }
        Ok(texts)
    }
}

impl From<Content> for StoredContent {
    fn from(content: Content) -> Self {
        let kind = match content.kind {
            SchemaKind::Avro => Kind::Avro,
            SchemaKind::Json => Kind::Json,
            SchemaKind::Protobuf => Kind::Protobuf,
        };
        let Content { text, references, metadata, rule_set, .. } = content;
        Self { kind, text, references, metadata, rule_set }
    }
}

impl From<StoredContent> for Content {
    fn from(stored: StoredContent) -> Self {
        let kind = match stored.kind {
            Kind::Avro => SchemaKind::Avro,
            Kind::Json => SchemaKind::Json,
            Kind::Protobuf => SchemaKind::Protobuf,
        };
        let StoredContent { text, references, metadata, rule_set, .. } = stored;
        Self { kind, text, references, metadata, rule_set }
    }
}
