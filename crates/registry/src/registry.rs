//! The registry's operations: one handle for the REST front, the pipelines and the commands.
//!
//! A change is decided under the journal's lock, synced, and only then becomes visible; readers
//! never wait for the disk.

use crate::content::{Content, NewSchema, Reference, Texts, parse_avro};
use crate::error::{Error, Result, code};
use crate::journal::Journal;
use crate::level::{self, Level, Mode, Version};
use crate::state::{Config, Entry, Schema, Slot, State};
use crate::{avro_compat, json};
use millstream_core::SchemaKind;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// How many schemas one may reference, theirs included.
const REFERENCES_MAX: usize = 500;
/// How many messages about incompatibilities one answer has.
const MESSAGES_MAX: usize = 200;

/// A handle; clones share one registry.
#[derive(Debug, Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Replaced as a whole when a reader still holds it, so that a long comparison stops nobody.
    state: RwLock<Arc<State>>,
    store: Mutex<Store>,
}

#[derive(Debug)]
enum Store {
    Journal(Journal),
    Memory,
    ReadOnly,
}

/// Whether deleted (but not permanently deleted) subjects and versions are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    Hidden,
    Included,
    Only,
}

/// A schema as a version of a subject.
#[derive(Debug, Clone)]
pub struct SubjectVersion {
    pub subject: String,
    pub version: u32,
    pub deleted: bool,
    pub schema: Arc<Schema>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    pub id: u32,
    pub version: u32,
}

impl Registry {
    /// Opens the registry of a directory, which is created when it is not there. Blocks on disk.
    pub fn open(dir: &Path) -> Result<Registry> {
        let mut state = State::default();
        let journal = Journal::open(dir, |entry| state.apply(entry))?;
        Ok(Self::with(state, Store::Journal(journal)))
    }

    /// Reads the registry of a directory and refuses changes; writes nothing, takes no lock, and
    /// does not see what is changed later. Blocks on disk.
    pub fn open_read_only(dir: &Path) -> Result<Registry> {
        let mut state = State::default();
        Journal::read(dir, |entry| state.apply(entry))?;
        Ok(Self::with(state, Store::ReadOnly))
    }

    /// A registry that ends with the process.
    pub fn in_memory() -> Registry {
        Self::with(State::default(), Store::Memory)
    }

    fn with(state: State, store: Store) -> Registry {
        let shared = Shared { state: RwLock::new(Arc::new(state)), store: Mutex::new(store) };
        Registry { shared: Arc::new(shared) }
    }

    /// The subjects whose name begins with `prefix`, in order.
    pub fn subjects(&self, deleted: Deleted, prefix: &str) -> Vec<String> {
        let state = self.state();
        let from = state.subjects.range(prefix.to_owned()..);
        from.take_while(|(subject, _)| subject.starts_with(prefix))
            .filter(|(_, versions)| {
                let live = versions.values().any(|slot| !slot.deleted);
                match deleted {
                    Deleted::Hidden => live,
                    Deleted::Included => true,
                    Deleted::Only => !live,
                }
            })
            .map(|(subject, _)| subject.clone())
            .collect()
    }

    pub fn versions(&self, subject: &str, deleted: Deleted) -> Result<Vec<u32>> {
        let state = self.state();
        let versions = state.subjects.get(subject).into_iter().flatten();
        let versions: Vec<u32> = versions
            .filter(|(_, slot)| match deleted {
                Deleted::Hidden => !slot.deleted,
                Deleted::Included => true,
                Deleted::Only => slot.deleted,
            })
            .map(|(version, _)| *version)
            .collect();
        match versions.is_empty() {
            true => Err(Error::subject_not_found(subject)),
            false => Ok(versions),
        }
    }

    /// With `deleted`, deleted versions are found too.
    pub fn by_version(
        &self,
        subject: &str,
        version: Version,
        deleted: bool,
    ) -> Result<SubjectVersion> {
        self.state().by_version(subject, version, deleted)
    }

    /// All versions of the subjects whose name begins with `prefix`.
    pub fn schemas(&self, deleted: bool, latest_only: bool, prefix: &str) -> Vec<SubjectVersion> {
        let state = self.state();
        let mut found = Vec::new();
        for (subject, versions) in
            state.subjects.range(prefix.to_owned()..).take_while(|(s, _)| s.starts_with(prefix))
        {
            let listed = versions.iter().filter(|(_, slot)| deleted || !slot.deleted);
            let skip = if latest_only { listed.clone().count().saturating_sub(1) } else { 0 };
            let listed = listed.skip(skip);
            found.extend(listed.filter_map(|(v, slot)| state.subject_version(subject, *v, *slot)));
        }
        found
    }

    /// Schemas of deleted versions are found, as records written with them are still about.
    pub fn by_id(&self, id: u32) -> Result<Arc<Schema>> {
        let state = self.state();
        state.schemas.get(&id).cloned().ok_or_else(|| Error::schema_not_found(id))
    }

    /// The largest id given out; 0 when there is none.
    pub fn id_max(&self) -> u32 {
        self.state().next_id - 1
    }

    /// Registers a schema under a subject, or finds it there. Blocks until it is on disk.
    pub fn register(&self, subject: &str, new: &NewSchema, normalize: bool) -> Result<Registered> {
        check_subject(subject)?;
        // The common case, a client that registers what is there, asks for no lock.
        if let Ok(Some(found)) = self.state().find_live(subject, new, normalize) {
            return Ok(found);
        }
        self.change(|state| {
            let mode = state.mode(subject);
            let import = mode == Mode::Import;
            let content = state.content(subject, new, normalize, import)?;
            if let Some(found) = state.live(subject, new, &content)? {
                return Ok((None, found));
            }
            state.check_writable(subject, mode)?;
            let id = state.choose_id(subject, new, &content, import)?;
            let version = state.choose_version(subject, new, import)?;
            if !import {
                let messages = state.incompatible_with_versions(subject, &content)?;
                if !messages.is_empty() {
                    let message = format!(
                        "Schema being registered is incompatible with an earlier schema for \
                         subject \"{subject}\", details: [{}]",
                        messages.join(", ")
                    );
                    return Err(Error::new(code::INCOMPATIBLE, message));
                }
            }
            let known = state.schemas.contains_key(&id);
            let entry = Entry::Register {
                subject: subject.to_owned(),
                version,
                id,
                content: (!known).then(|| content.into()),
            };
            Ok((Some(entry), Registered { id, version }))
        })
    }

    /// Finds a schema among a subject's versions.
    pub fn lookup(
        &self,
        subject: &str,
        new: &NewSchema,
        normalize: bool,
        deleted: bool,
    ) -> Result<SubjectVersion> {
        let state = self.state();
        let Some(versions) = state.subjects.get(subject) else {
            return Err(Error::subject_not_found(subject));
        };
        if !deleted && versions.values().all(|slot| slot.deleted) {
            return Err(Error::subject_not_found(subject));
        }
        let content = state.content(subject, new, normalize, true)?;
        let key = content.key();
        let mut listed = versions.iter().rev().filter(|(_, slot)| deleted || !slot.deleted);
        let found = listed.find(|(_, slot)| state.has_key(slot.id, &key));
        found
            .and_then(|(version, slot)| state.subject_version(subject, *version, *slot))
            .ok_or_else(|| Error::new(code::SCHEMA_NOT_FOUND, "Schema not found"))
    }

    /// Deletes one version: first softly, then, asked again with `permanent`, for good.
    pub fn delete_version(&self, subject: &str, version: Version, permanent: bool) -> Result<u32> {
        self.change(|state| {
            let deleted = version != Version::Latest;
            let found = state.by_version(subject, version, deleted)?;
            let number = found.version;
            if found.deleted && !permanent {
                let message = format!(
                    "Subject '{subject}' Version {number} was soft deleted. Set permanent=true to \
                     delete permanently"
                );
                return Err(Error::new(code::VERSION_SOFT_DELETED, message));
            }
            if !found.deleted && permanent {
                let message = format!(
                    "Subject '{subject}' Version {number} was not deleted first before being \
                     permanently deleted"
                );
                return Err(Error::new(code::VERSION_NOT_SOFT_DELETED, message));
            }
            state.check_writable(subject, state.mode(subject))?;
            state.check_unreferenced(subject, number, permanent, None)?;
            let entry =
                Entry::DeleteVersion { subject: subject.to_owned(), version: number, permanent };
            Ok((Some(entry), number))
        })
    }

    /// Deletes all versions: first softly, then, asked again with `permanent`, for good.
    pub fn delete_subject(&self, subject: &str, permanent: bool) -> Result<Vec<u32>> {
        self.change(|state| {
            let versions =
                state.subjects.get(subject).ok_or_else(|| Error::subject_not_found(subject))?;
            let live: Vec<u32> =
                versions.iter().filter(|(_, slot)| !slot.deleted).map(|(v, _)| *v).collect();
            if live.is_empty() && !permanent {
                let message = format!(
                    "Subject '{subject}' was soft deleted. Set permanent=true to delete permanently"
                );
                return Err(Error::new(code::SUBJECT_SOFT_DELETED, message));
            }
            if !live.is_empty() && permanent {
                let message = format!(
                    "Subject '{subject}' was not deleted first before being permanently deleted"
                );
                return Err(Error::new(code::SUBJECT_NOT_SOFT_DELETED, message));
            }
            state.check_writable(subject, state.mode(subject))?;
            let gone = if permanent { versions.keys().copied().collect() } else { live };
            for version in &gone {
                state.check_unreferenced(subject, *version, permanent, Some(subject))?;
            }
            let entry = Entry::DeleteSubject { subject: subject.to_owned(), permanent };
            Ok((Some(entry), gone))
        })
    }

    /// Whether a schema would be taken: what speaks against it, against one version, or, without
    /// one, against the versions that the subject's level asks about. Empty when nothing does.
    pub fn compatibility(
        &self,
        subject: &str,
        version: Option<Version>,
        new: &NewSchema,
        normalize: bool,
    ) -> Result<Vec<String>> {
        let state = self.state();
        let old = match version {
            None => None,
            // As in Confluent's registry, anything goes under a subject that has no version yet.
            Some(Version::Latest) => match state.by_version(subject, Version::Latest, false) {
                Ok(found) => Some(found),
                Err(_) => return state.content(subject, new, normalize, false).map(|_| Vec::new()),
            },
            Some(number) => Some(state.by_version(subject, number, false)?),
        };
        let content = state.content(subject, new, normalize, false)?;
        match old {
            Some(old) => {
                let level = state.level(subject);
                let texts = state.texts_of(&content.references)?;
                state.incompatible(subject, &content, &texts, level, &[old])
            }
            None => state.incompatible_with_versions(subject, &content),
        }
    }

    /// The settings of the registry, or of a subject; with `or_global`, those of the registry
    /// where the subject has none.
    pub fn config(&self, subject: Option<&str>, or_global: bool) -> Result<Config> {
        let state = self.state();
        let global = Config {
            compatibility_level: Some(state.config.compatibility_level.unwrap_or(Level::Backward)),
            ..state.config
        };
        let Some(subject) = subject else { return Ok(global) };
        match state.configs.get(subject) {
            Some(config) => Ok(Config {
                compatibility_level: config
                    .compatibility_level
                    .or(global.compatibility_level.filter(|_| or_global)),
                ..*config
            }),
            None if or_global => Ok(global),
            None => {
                let message = format!(
                    "Subject '{subject}' does not have subject-level compatibility configured"
                );
                Err(Error::new(code::CONFIG_NOT_FOUND, message))
            }
        }
    }

    /// Changes what is set in `config` and leaves the rest.
    pub fn set_config(&self, subject: Option<&str>, config: Config) -> Result<Config> {
        subject.map_or(Ok(()), check_subject)?;
        self.change(|state| {
            let before = match subject {
                Some(subject) => state.configs.get(subject).copied().unwrap_or_default(),
                None => state.config,
            };
            let config = Config {
                compatibility_level: config.compatibility_level.or(before.compatibility_level),
                normalize: config.normalize.or(before.normalize),
            };
            let entry = Entry::Config { subject: subject.map(str::to_owned), config: Some(config) };
            Ok((Some(entry), config))
        })
    }

    /// Goes back to the registry's settings, or to the defaults; gives what was set.
    pub fn delete_config(&self, subject: Option<&str>) -> Result<Config> {
        let before = self.config(subject, false).map_err(|error| match subject {
            Some(subject) => Error::subject_not_found(subject),
            None => error,
        })?;
        self.change(|_| {
            let entry = Entry::Config { subject: subject.map(str::to_owned), config: None };
            Ok((Some(entry), before))
        })
    }

    pub fn mode(&self, subject: Option<&str>, or_global: bool) -> Result<Mode> {
        let state = self.state();
        let global = state.mode.unwrap_or(Mode::Readwrite);
        let Some(subject) = subject else { return Ok(global) };
        match state.modes.get(subject) {
            Some(mode) => Ok(*mode),
            None if or_global => Ok(global),
            None => {
                let message =
                    format!("Subject '{subject}' does not have subject-level mode configured");
                Err(Error::new(code::MODE_NOT_FOUND, message))
            }
        }
    }

    /// `force` lets IMPORT begin while there are schemas.
    pub fn set_mode(&self, subject: Option<&str>, mode: Mode, force: bool) -> Result<()> {
        subject.map_or(Ok(()), check_subject)?;
        self.change(|state| {
            let current = match subject {
                Some(subject) => state.mode(subject),
                None => state.mode.unwrap_or(Mode::Readwrite),
            };
            if mode == Mode::Import && current != Mode::Import && !force {
                let taken = match subject {
                    Some(subject) => state.subjects.contains_key(subject),
                    None => !state.subjects.is_empty(),
                };
                if taken {
                    let message = "Cannot import since found existing subjects; force=true \
                                   imports among them";
                    return Err(Error::new(code::NOT_PERMITTED, message));
                }
            }
            let entry = Entry::Mode { subject: subject.map(str::to_owned), mode: Some(mode) };
            Ok((Some(entry), ()))
        })
    }

    /// Goes back to the registry's mode, or to READWRITE; gives what was set.
    pub fn delete_mode(&self, subject: Option<&str>) -> Result<Mode> {
        let before = self.mode(subject, false).map_err(|error| match subject {
            Some(subject) => Error::subject_not_found(subject),
            None => error,
        })?;
        self.change(|_| {
            let entry = Entry::Mode { subject: subject.map(str::to_owned), mode: None };
            Ok((Some(entry), before))
        })
    }

    /// The ids of the schemas that reference this version.
    pub fn referenced_by(&self, subject: &str, version: Version) -> Result<Vec<u32>> {
        let state = self.state();
        let version = state.by_version(subject, version, false)?.version;
        Ok(state.referrers(subject, version, false, None))
    }

    pub fn subjects_of_id(&self, id: u32, deleted: bool) -> Result<Vec<String>> {
        let versions = self.versions_of_id(id, deleted)?;
        let subjects: BTreeSet<String> = versions.into_iter().map(|(subject, _)| subject).collect();
        Ok(subjects.into_iter().collect())
    }

    /// Where this schema is: subjects and versions.
    pub fn versions_of_id(&self, id: u32, deleted: bool) -> Result<Vec<(String, u32)>> {
        let state = self.state();
        if !state.schemas.contains_key(&id) {
            return Err(Error::schema_not_found(id));
        }
        let all = state.subjects.iter().flat_map(|(subject, versions)| {
            versions.iter().map(move |(version, slot)| (subject, *version, *slot))
        });
        Ok(all
            .filter(|(_, _, slot)| slot.id == id && (deleted || !slot.deleted))
            .map(|(subject, version, _)| (subject.clone(), version))
            .collect())
    }

    fn state(&self) -> Arc<State> {
        self.shared.state.read().clone()
    }

    /// Decides under the journal's lock, writes, then applies. No entry: nothing to change.
    fn change<T>(&self, decide: impl FnOnce(&State) -> Result<(Option<Entry>, T)>) -> Result<T> {
        let mut store = self.shared.store.lock();
        let (entry, answer) = decide(&self.state())?;
        let Some(entry) = entry else { return Ok(answer) };
        match &mut *store {
            Store::Journal(journal) => journal.append(&entry)?,
            Store::Memory => {}
            Store::ReadOnly => {
                let message = "the registry is open for reading only";
                return Err(Error::new(code::NOT_PERMITTED, message));
            }
        }
        let applied = Arc::make_mut(&mut self.shared.state.write()).apply(entry);
        applied
            .map_err(|why| Error::new(code::STORE, format!("the change does not apply: {why}")))?;
        Ok(answer)
    }
}

impl State {
    fn subject_version(&self, subject: &str, version: u32, slot: Slot) -> Option<SubjectVersion> {
        let schema = self.schemas.get(&slot.id)?.clone();
        Some(SubjectVersion { subject: subject.to_owned(), version, deleted: slot.deleted, schema })
    }

    fn by_version(&self, subject: &str, version: Version, deleted: bool) -> Result<SubjectVersion> {
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

    fn level(&self, subject: &str) -> Level {
        let own = self.configs.get(subject).and_then(|config| config.compatibility_level);
        own.or(self.config.compatibility_level).unwrap_or(Level::Backward)
    }

    fn mode(&self, subject: &str) -> Mode {
        if self.mode == Some(Mode::ReadonlyOverride) {
            return Mode::ReadonlyOverride;
        }
        self.modes.get(subject).copied().or(self.mode).unwrap_or(Mode::Readwrite)
    }

    fn check_writable(&self, subject: &str, mode: Mode) -> Result<()> {
        match mode {
            Mode::Readwrite | Mode::Import => Ok(()),
            Mode::Readonly | Mode::ReadonlyOverride => {
                let message = format!("Subject {subject} is in read-only mode");
                Err(Error::new(code::NOT_PERMITTED, message))
            }
        }
    }

    /// The schema of a request, checked, in canonical form, with concrete references.
    fn content(
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

    fn texts_of(&self, references: &[Reference]) -> Result<Texts> {
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

    fn has_key(&self, id: u32, key: &str) -> bool {
        self.schemas.get(&id).is_some_and(|schema| schema.key == key)
    }

    fn find_live(
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
    fn live(
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

    fn choose_id(
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

    fn choose_version(&self, subject: &str, new: &NewSchema, import: bool) -> Result<u32> {
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

    fn incompatible_with_versions(&self, subject: &str, content: &Content) -> Result<Vec<String>> {
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

    fn incompatible(
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
        let mut parsed = None;
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
                (new, old) if new == old => Vec::new(),
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
            if messages.len() > MESSAGES_MAX {
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
    fn referrers(
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

    fn check_unreferenced(
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

fn check_subject(subject: &str) -> Result<()> {
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
