//! The registry's rules: what a request means for what is known, before anything changes.

use crate::content::{Content, NewSchema, Reference, Texts, parse_avro};
use crate::error::{Error, Result, code};
use crate::level::{self, Level, Mode, Version};
use crate::registry::{Registered, SubjectVersion};
use crate::state::{Schema, Slot, State};
use crate::{avro_compat, json, json_compat, protobuf_compat};
use millstream_core::SchemaKind;
use std::collections::{BTreeMap, BTreeSet};

/// How many schemas one may reference, theirs included.
const REFERENCES_MAX: usize = 500;
/// How many messages about incompatibilities one answer has.
const MESSAGES_MAX: usize = 200;
/// How long they may be together, as each version's text is among them.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

impl State {
    pub fn subject_version(
        &self,
        subject: &str,
        version: u32,
        slot: Slot,
    ) -> Option<SubjectVersion> {
        let schema = self.schemas.get(&slot.id)?.clone();
        Some(SubjectVersion { subject: subject.to_owned(), version, deleted: slot.deleted, schema })
    }

    pub fn by_version(
        &self,
        subject: &str,
        version: Version,
        deleted: bool,
    ) -> Result<SubjectVersion> {
        let missing = || Error::subject_not_found(subject);
        let versions = self.subjects.get(subject).ok_or_else(missing)?;
        if !deleted && versions.values().all(|slot| slot.deleted) {
            return Err(missing());
        }
        let mut listed = versions.iter().filter(|(_, slot)| deleted || !slot.deleted);
        let found = match version {
            Version::Latest => listed.next_back(),
            Version::Number(number) => listed.find(|(version, _)| **version == number),
        };
        found
            .and_then(|(version, slot)| self.subject_version(subject, *version, *slot))
            .ok_or_else(|| Error::version_not_found(version))
    }

    pub fn level(&self, subject: &str) -> Level {
        let own = self.configs.get(subject).and_then(|config| config.compatibility_level);
        own.or(self.config.compatibility_level).unwrap_or(Level::Backward)
    }

    pub fn mode(&self, subject: &str) -> Mode {
        if self.mode == Some(Mode::ReadonlyOverride) {
            return Mode::ReadonlyOverride;
        }
        self.modes.get(subject).copied().or(self.mode).unwrap_or(Mode::Readwrite)
    }

    pub fn check_writable(&self, subject: &str, mode: Mode) -> Result<()> {
        match mode {
            Mode::Readwrite | Mode::Import => Ok(()),
            Mode::Readonly | Mode::ReadonlyOverride => {
                let message = format!("Subject {subject} is in read-only mode");
                Err(Error::new(code::NOT_PERMITTED, message))
            }
        }
    }

    /// The schema of a request, checked, in canonical form, with concrete references.
    pub fn content(
        &self,
        subject: &str,
        new: &NewSchema,
        normalize: bool,
        lenient: bool,
    ) -> Result<Content> {
        let kind = level::kind(new.schema_type.as_deref())?;
        let own = self.configs.get(subject).and_then(|config| config.normalize);
        let normalize = normalize || own.or(self.config.normalize).unwrap_or(false);
        let mut references = new.references.clone().unwrap_or_default();
        for reference in &mut references {
            if reference.version == -1 {
                let latest = self.by_version(&reference.subject, Version::Latest, false);
                let latest = latest.map_err(|error| {
                    Error::invalid_schema(format!("Invalid reference {}: {error}", reference.name))
                })?;
                reference.version = latest.version.into();
            }
        }
        let texts = self.texts_of(&references)?;
        for extra in [&new.metadata, &new.rule_set].into_iter().flatten() {
            if json::deeper_than(extra.to_string().as_bytes(), json::DEPTH_MAX - 20) {
                return Err(Error::invalid_schema("metadata or ruleSet nests too deeply"));
            }
        }
        Content::check(kind, new, references, &texts, normalize, lenient)
    }

    pub fn texts_of(&self, references: &[Reference]) -> Result<Texts> {
        let refused = |why: String| Error::invalid_schema(format!("Invalid schema: {why}"));
        if references.len() > REFERENCES_MAX {
            return Err(refused(format!("it has more than {REFERENCES_MAX} references")));
        }
        let texts = self.texts(references).map_err(refused)?;
        if texts.len() > REFERENCES_MAX {
            return Err(refused(format!(
                "with those of its references it has more than {REFERENCES_MAX} references"
            )));
        }
        Ok(texts)
    }

    pub fn has_key(&self, id: u32, key: &str) -> bool {
        self.schemas.get(&id).is_some_and(|schema| schema.key == key)
    }

    pub fn find_live(
        &self,
        subject: &str,
        new: &NewSchema,
        normalize: bool,
    ) -> Result<Option<Registered>> {
        if !self.subjects.contains_key(subject) {
            return Ok(None);
        }
        let content = self.content(subject, new, normalize, true)?;
        self.live(subject, new, &content)
    }

    /// The live version that has this schema already.
    pub fn live(
        &self,
        subject: &str,
        new: &NewSchema,
        content: &Content,
    ) -> Result<Option<Registered>> {
        let key = content.key();
        let versions = self.subjects.get(subject).into_iter().flatten().rev();
        let found = versions
            .filter(|(_, slot)| !slot.deleted && self.has_key(slot.id, &key))
            .map(|(version, slot)| Registered { id: slot.id, version: *version })
            // An import may ask for the same schema under another id or version.
            .find(|found| {
                new.id.is_none_or(|id| id <= 0 || id == i64::from(found.id))
                    && new.version.is_none_or(|v| v <= 0 || v == i64::from(found.version))
            });
        Ok(found)
    }

    pub fn choose_id(
        &self,
        subject: &str,
        new: &NewSchema,
        content: &Content,
        import: bool,
    ) -> Result<u32> {
        let key = content.key();
        let refuse = |message: String| Err(Error::new(code::NOT_PERMITTED, message));
        let asked = match new.id.filter(|id| *id > 0) {
            Some(id) if id >= i64::from(i32::MAX) => {
                return refuse(format!("The id {id} is out of range"));
            }
            asked => asked.map(|id| id as u32),
        };
        match (import, asked) {
            (true, None) => {
                refuse(format!("Subject {subject} is in import mode: the schema needs an id"))
            }
            (true, Some(id)) => match self.schemas.get(&id) {
                Some(other) if other.key != key => {
                    refuse(format!("Overwrite new schema with id {id} is not permitted."))
                }
                _ => Ok(id),
            },
            (false, None) => match self.by_content.get(&key) {
                Some(id) => Ok(*id),
                None if self.next_id >= i32::MAX as u32 => refuse("All ids are in use".into()),
                None => Ok(self.next_id),
            },
            (false, Some(id)) => match self.by_content.get(&key) {
                Some(known) if *known == id => Ok(id),
                Some(known) => {
                    let message =
                        format!("The id {id} does not match the id {known} of this schema");
                    Err(Error::new(code::ID_DOES_NOT_MATCH, message))
                }
                None => refuse(format!("Subject {subject} is not in import mode")),
            },
        }
    }

    pub fn choose_version(&self, subject: &str, new: &NewSchema, import: bool) -> Result<u32> {
        let versions = self.subjects.get(subject);
        let last = versions.and_then(BTreeMap::last_key_value).map_or(0, |(version, _)| *version);
        let next = last + 1;
        let refuse = |message: String| Err(Error::new(code::NOT_PERMITTED, message));
        if next >= i32::MAX as u32 {
            return refuse(format!("All versions of subject {subject} are in use"));
        }
        let Some(asked) = new.version.filter(|version| *version > 0) else { return Ok(next) };
        match u32::try_from(asked).ok().filter(|asked| *asked < i32::MAX as u32) {
            Some(asked) if asked == next => Ok(asked),
            Some(asked) if import => {
                match versions.is_some_and(|versions| versions.contains_key(&asked)) {
                    true => refuse(format!(
                        "Overwrite version {asked} of subject {subject} is not permitted."
                    )),
                    false => Ok(asked),
                }
            }
            _ => {
                let message = format!(
                    "Version is not one more than previous version: {next} is due, not {asked}"
                );
                Err(Error::invalid_schema(message))
            }
        }
    }

    pub fn incompatible_with_versions(
        &self,
        subject: &str,
        content: &Content,
    ) -> Result<Vec<String>> {
        let level = self.level(subject);
        let texts = self.texts_of(&content.references)?;
        let live = self.subjects.get(subject).into_iter().flatten().rev();
        let live = live.filter(|(_, slot)| !slot.deleted);
        let take = if level.transitive() { usize::MAX } else { 1 };
        let old: Vec<_> = live
            .take(take)
            .filter_map(|(version, slot)| self.subject_version(subject, *version, *slot))
            .collect();
        self.incompatible(subject, content, &texts, level, &old)
    }

    pub fn incompatible(
        &self,
        subject: &str,
        content: &Content,
        texts: &Texts,
        level: Level,
        old: &[SubjectVersion],
    ) -> Result<Vec<String>> {
        if level == Level::None {
            return Ok(Vec::new());
        }
        let mut messages = Vec::new();
        let (mut parsed, mut parsed_json, mut parsed_protobuf) = (None, None, None);
        for version in old {
            let old = &version.schema;
            let found = match (content.kind, old.kind) {
                (SchemaKind::Avro, SchemaKind::Avro) => {
                    let new = match &parsed {
                        Some(parsed) => parsed,
                        None => parsed.insert(parse_avro(&content.text, texts, false)?),
                    };
                    let old = parse_avro(&old.text, &old.registered.references, false)?;
                    avro_compat::check(new, &old, level).map_err(|error| {
                        Error::invalid_schema(format!("Invalid schema: {error}"))
                    })?
                }
                (SchemaKind::Json, SchemaKind::Json) => {
                    let new = match &parsed_json {
                        Some(parsed) => parsed,
                        None => parsed_json.insert(parse_json(&content.text, texts)?),
                    };
                    let old = parse_json(&old.text, &old.registered.references)?;
                    json_compat::check(new, &old, level).map_err(|error| {
                        Error::invalid_schema(format!("Invalid schema: {error}"))
                    })?
                }
                (SchemaKind::Protobuf, SchemaKind::Protobuf) => {
                    if [&*content.text, &*old.text].into_iter().any(protobuf_compat::is_descriptor)
                    {
                        continue;
                    }
                    let new = match &parsed_protobuf {
                        Some(parsed) => parsed,
                        None => parsed_protobuf.insert(parse_protobuf(&content.text, texts)?),
                    };
                    let old = parse_protobuf(&old.text, &old.registered.references)?;
                    protobuf_compat::check(new, &old, level).map_err(|error| {
                        Error::invalid_schema(format!("Invalid schema: {error}"))
                    })?
                }
                (new, old) => vec![format!(
                    "Incompatible because of different schema type: {} after {}",
                    level::kind_word(new),
                    level::kind_word(old)
                )],
            };
            if !found.is_empty() {
                messages.extend(found);
                messages.push(format!("{{oldSchemaVersion: {}}}", version.version));
                messages.push(format!("{{oldSchema: '{}'}}", version.schema.text));
            }
            let message_bytes: usize = messages.iter().map(String::len).sum();
            if messages.len() > MESSAGES_MAX || message_bytes > MESSAGE_BYTES_MAX {
                break;
            }
        }
        if !messages.is_empty() {
            let level = level.word();
            tracing::debug!(subject, level, "a schema is incompatible");
            messages.push(format!("{{compatibility: '{level}'}}"));
        }
        Ok(messages)
    }

    /// Ids of schemas that reference a version and are in use: in a live version, or, with
    /// `deleted`, in any; leaving out uses in the subject `except`.
    pub fn referrers(
        &self,
        subject: &str,
        version: u32,
        deleted: bool,
        except: Option<&str>,
    ) -> Vec<u32> {
        let refers = |schema: &Schema| {
            schema
                .references
                .iter()
                .any(|r| r.subject == subject && r.version == i64::from(version))
        };
        let mut ids: BTreeSet<u32> =
            self.schemas.values().filter(|schema| refers(schema)).map(|schema| schema.id).collect();
        ids.retain(|id| {
            self.subjects.iter().filter(|(subject, _)| Some(subject.as_str()) != except).any(
                |(_, versions)| {
                    versions.values().any(|slot| slot.id == *id && (deleted || !slot.deleted))
                },
            )
        });
        ids.into_iter().collect()
    }

    pub fn check_unreferenced(
        &self,
        subject: &str,
        version: u32,
        permanent: bool,
        except: Option<&str>,
    ) -> Result<()> {
        let ids = self.referrers(subject, version, permanent, except);
        match ids.as_slice() {
            [] => Ok(()),
            ids => {
                let message = format!(
                    "One or more references exist to the schema {{subject={subject},\
                     version={version}}}: the schemas with ids {ids:?}"
                );
                Err(Error::new(code::REFERENCE_EXISTS, message))
            }
        }
    }
}

fn parse_json(text: &str, texts: &Texts) -> Result<json_compat::Schema> {
    json_compat::Schema::parse(text, texts)
        .map_err(|error| Error::invalid_schema(format!("Invalid schema: {error}")))
}

fn parse_protobuf(text: &str, texts: &Texts) -> Result<protobuf_compat::Schema> {
    protobuf_compat::Schema::parse(text, texts)
        .map_err(|error| Error::invalid_schema(format!("Invalid schema: {error}")))
}

pub(crate) fn check_subject(subject: &str) -> Result<()> {
    let reserved = ["__GLOBAL", "__EMPTY"].contains(&subject);
    if subject.is_empty()
        || subject.len() > 1024
        || reserved
        || subject.chars().any(char::is_control)
    {
        let shown: String = subject.chars().take(80).flat_map(char::escape_default).collect();
        let message = format!("The specified subject '{shown}' is not a valid subject.");
        return Err(Error::new(code::INVALID_SUBJECT, message));
    }
    Ok(())
}
