//! The registry's operations: one handle for the REST front, the pipelines and the commands.
//!
//! A change is decided under the journal's lock, synced, and only then becomes visible; readers
//! never wait for the disk.

use crate::content::NewSchema;
use crate::decide::check_subject;
use crate::error::{Error, Result, code};
use crate::journal::Journal;
use crate::level::{Level, Mode, Version};
use crate::state::{Config, Entry, Schema, State};
use millstream_core::Guid;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

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

    pub fn by_guid(&self, guid: Guid) -> Result<Arc<Schema>> {
        let state = self.state();
        let found = state.schemas.values().find(|schema| schema.guid == guid);
        found.cloned().ok_or_else(|| Error::guid_not_found(guid))
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
                content: (!known).then(|| Box::new(content.into())),
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
