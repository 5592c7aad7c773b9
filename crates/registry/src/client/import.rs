//! Schemas of one registry into another, under the ids that records already carry.
//!
//! All of them are looked at before the first is written, so that ids which mean something else over
//! there are found while nothing has changed.

use super::{Client, answer};
use crate::level::kind_word;
use crate::{Deleted, Registry, SubjectVersion};
use answer::{Failure, Found};
use millstream_core::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What another registry has of a registry's schemas.
#[derive(Debug, Default)]
pub struct Missing {
    /// Versions that are there under the same id.
    pub there: usize,
    /// Those that are not, by id.
    pub missing: Vec<SubjectVersion>,
}

impl Client {
    /// Compares. An id or a version that means another schema over there is an error. Cancel safe.
    pub async fn missing_of(&self, registry: &Registry) -> Result<Missing> {
        let mut found = Missing::default();
        let mut versions = registry.schemas(true, false, "");
        // What others refer to was registered before them.
        versions.sort_by_key(|version| version.schema.id);
        for version in versions {
            match self.has_version(&version).await? {
                true => found.there += 1,
                false => found.missing.push(version),
            }
        }
        Ok(found)
    }

    /// Writes what is missing, each subject in mode IMPORT while it is written. Cancelled, subjects
    /// may be left in that mode; doing it again mends them.
    pub async fn import(&self, registry: &Registry, missing: &[SubjectVersion]) -> Result<()> {
        let mut modes: BTreeMap<&str, Option<String>> = BTreeMap::new();
        let mut result = Ok(());
        for version in missing {
            if !modes.contains_key(version.subject.as_str()) {
                match self.open_for_import(&version.subject).await {
                    Ok(before) => drop(modes.insert(&version.subject, before)),
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            if let Err(error) = self.write(version).await {
                result = Err(error);
                break;
            }
        }
        // Left open by one that was interrupted, its schemas all written.
        let subjects = registry.subjects(Deleted::Included, "");
        for subject in &subjects {
            if !modes.contains_key(subject.as_str()) && self.is_open(subject).await {
                modes.insert(subject, None);
            }
        }
        for (subject, before) in &modes {
            let closed = self.close_import(subject, before.as_deref()).await;
            result = result.and(closed);
        }
        result?;
        for subject in modes.keys() {
            self.set_level(registry, subject).await?;
        }
        // What was deleted softly is so over there, and is still found by its id.
        for version in missing.iter().filter(|version| version.deleted) {
            let number = version.version.to_string();
            let path = ["subjects", version.subject.as_str(), "versions", number.as_str()];
            match self.ask("DELETE", &path, None, None).await {
                Err(failure) if !failure.is_not_found() => return Err(failure.to_error()),
                _ => {}
            }
        }
        Ok(())
    }

    async fn has_version(&self, version: &SubjectVersion) -> Result<bool> {
        let SubjectVersion { subject, version: number, schema, .. } = version;
        let said = number.to_string();
        let path = ["subjects", subject.as_str(), "versions", said.as_str()];
        match self.ask("GET", &path, Some("deleted=true"), None).await {
            Ok(answer) => {
                let found = Found::read(&answer).map_err(|failure| failure.to_error())?;
                return match found.id == Some(schema.id) && is_same(version, &found) {
                    true => Ok(true),
                    false => Err(Error::stop(
                        "schema_conflict",
                        format!(
                            "version {number} of subject `{subject}` is another schema in the \
                             schema registry over there (id {} and not {}): records would be read \
                             with the wrong schema; use a registry without that subject",
                            found.id.unwrap_or(0),
                            schema.id
                        ),
                    )),
                };
            }
            Err(failure) if failure.is_not_found() => {}
            Err(failure) => return Err(failure.to_error()),
        }
        let id = schema.id.to_string();
        match self.ask("GET", &["schemas", "ids", &id], None, None).await {
            Ok(answer) => {
                let found = Found::read(&answer).map_err(|failure| failure.to_error())?;
                match is_same(version, &found) {
                    true => Ok(false),
                    false => Err(Error::stop(
                        "schema_conflict",
                        format!(
                            "id {id}, which records here carry for `{subject}`, means another \
                             schema in the schema registry over there: use an empty registry, or \
                             one whose ids begin above {id}"
                        ),
                    )),
                }
            }
            Err(failure) if failure.is_not_found() => Ok(false),
            Err(failure) => Err(failure.to_error()),
        }
    }

    /// The subject's own mode before, where it had one.
    async fn open_for_import(&self, subject: &str) -> Result<Option<String>> {
        let before = match self.ask("GET", &["mode", subject], None, None).await {
            Ok(answer) => answer["mode"].as_str().map(str::to_owned),
            // It has none, or the registry knows none, which setting one will tell.
            Err(_) => None,
        };
        let import = json!({"mode": "IMPORT"});
        let put = self.ask("PUT", &["mode", subject], Some("force=true"), Some(&import)).await;
        put.map_err(|failure| refused_mode(&failure))?;
        // A registry that knows no modes may say yes to all.
        let now = self.ask("GET", &["mode", subject], None, None).await;
        let now = now.map_err(|failure| refused_mode(&failure))?;
        match now["mode"].as_str() {
            Some("IMPORT") => Ok(before.filter(|mode| mode != "IMPORT")),
            mode => {
                let mode = mode.unwrap_or("none");
                Err(refused_mode(&Failure::nonsense(&format!("mode {mode} after it was set"))))
            }
        }
    }

    async fn is_open(&self, subject: &str) -> bool {
        let mode = self.ask("GET", &["mode", subject], None, None).await;
        mode.is_ok_and(|answer| answer["mode"] == "IMPORT")
    }

    async fn close_import(&self, subject: &str, before: Option<&str>) -> Result<()> {
        if before.is_none() {
            match self.ask("DELETE", &["mode", subject], None, None).await {
                Ok(_) => return Ok(()),
                // Older registries cannot take a mode back.
                Err(failure) if failure.is_no_such_path() || failure.is_not_found() => {}
                Err(failure) => return Err(failure.to_error()),
            }
        }
        let mode = json!({"mode": before.unwrap_or("READWRITE")});
        let put = self.ask("PUT", &["mode", subject], Some("force=true"), Some(&mode)).await;
        put.map(drop).map_err(|failure| failure.to_error())
    }

    async fn write(&self, version: &SubjectVersion) -> Result<()> {
        let SubjectVersion { subject, version: number, schema, .. } = version;
        let mut body = json!({
            "schema": &*schema.text,
            "schemaType": kind_word(schema.kind),
            "id": schema.id,
            "version": number,
        });
        if !schema.references.is_empty() {
            body["references"] = json!(schema.references);
        }
        for (name, extra) in [("metadata", &schema.metadata), ("ruleSet", &schema.rule_set)] {
            if let Some(extra) = extra {
                body[name] = extra.clone();
            }
        }
        let answer = self.ask("POST", &["subjects", subject, "versions"], None, Some(&body)).await;
        let id = answer.and_then(|answer| answer::id(&answer));
        let doing = format!("writing version {number} of subject `{subject}` as id {}", schema.id);
        match id {
            Ok(id) if id == schema.id => Ok(()),
            Ok(id) => Err(Error::stop(
                "schema_conflict",
                format!("{doing}: the schema registry gave it the id {id}, and records carry ours"),
            )),
            Err(failure) => Err(Error::stop("import", doing).because(failure.to_error())),
        }
    }

    async fn set_level(&self, registry: &Registry, subject: &str) -> Result<()> {
        let Ok(config) = registry.config(Some(subject), true) else { return Ok(()) };
        let Some(level) = config.compatibility_level else { return Ok(()) };
        if registry.versions(subject, Deleted::Hidden).is_err() {
            return Ok(());
        }
        let body: Value = json!({"compatibility": level.word()});
        let put = self.ask("PUT", &["config", subject], None, Some(&body)).await;
        put.map(drop).map_err(|failure| failure.to_error())
    }
}

fn refused_mode(failure: &Failure) -> Error {
    Error::stop(
        "import_mode",
        "the schema registry does not take schemas under given ids (mode IMPORT of a subject): allow \
         that there (Confluent's: `mode.mutability=true`, and a user who may set it), or leave \
         `registry` out of the file to go on with the registry of this directory",
    )
    .because(failure.to_error())
}

fn is_same(version: &SubjectVersion, found: &Found) -> bool {
    let schema = &version.schema;
    let as_json = |text: &str| serde_json::from_str::<Value>(text).ok();
    schema.kind == found.kind
        && (schema.text.trim() == found.text.trim()
            || as_json(&schema.text).is_some_and(|ours| Some(ours) == as_json(&found.text)))
}
