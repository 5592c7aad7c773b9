//! What an operator asks of a registry elsewhere: what it has, and that it takes something.

use super::answer::{self, Failure, Found};
use super::{Client, schema_body};
use crate::NewSchema;
use crate::level::kind;
use millstream_core::{Result, SchemaKind};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// One version of a subject.
#[derive(Debug, Clone)]
pub struct Versioned {
    pub subject: String,
    pub version: u32,
    pub id: u32,
    pub kind: SchemaKind,
    pub text: Arc<str>,
}

impl Client {
    /// The subjects, in the registry's order. Cancel safe.
    pub async fn subjects(&self) -> Result<Vec<String>> {
        let answer = self.ask("GET", &["subjects"], None, None).await;
        read(answer).map_err(|failure| failure.to_error())
    }

    /// The versions of a subject; none when there is no such subject. Cancel safe.
    pub async fn versions(&self, subject: &str) -> Result<Vec<u32>> {
        let answer = self.ask("GET", &["subjects", subject, "versions"], None, None).await;
        or_none(read(answer)).map(Option::unwrap_or_default)
    }

    /// A version by its number, or `latest`; none when there is none. Cancel safe.
    pub async fn version(&self, subject: &str, version: &str) -> Result<Option<Versioned>> {
        let path = ["subjects", subject, "versions", version];
        let versioned = |answer: Value| {
            let found = Found::read(&answer)?;
            let number = answer["version"].as_u64().and_then(|number| u32::try_from(number).ok());
            let (Some(id), Some(version)) = (found.id, number) else {
                return Err(Failure::nonsense("no id and version"));
            };
            let (subject, kind, text) = (subject.to_owned(), found.kind, found.text);
            Ok(Versioned { subject, version, id, kind, text })
        };
        or_none(self.ask("GET", &path, None, None).await.and_then(versioned))
    }

    /// The subjects and versions that have the schema of an id. Cancel safe.
    pub async fn versions_of_id(&self, id: u32) -> Result<Vec<(String, u32)>> {
        #[derive(Deserialize)]
        struct Place {
            subject: String,
            version: u32,
        }
        let path = ["schemas", "ids", &id.to_string(), "versions"];
        let answer = self.ask("GET", &path, None, None).await;
        let places: Option<Vec<Place>> = or_none(read(answer))?;
        let places = places.into_iter().flatten();
        Ok(places.map(|place| (place.subject, place.version)).collect())
    }

    /// Registers a schema because somebody said so, whatever
    /// [`auto_register`](super::Options::auto_register) is.
    pub async fn add(&self, subject: &str, schema: &NewSchema) -> Result<u32> {
        let body = body_of(schema)?;
        let answer = self.ask("POST", &["subjects", subject, "versions"], None, Some(&body)).await;
        answer.and_then(|answer| answer::id(&answer)).map_err(|failure| failure.to_error())
    }

    /// Why a schema with references could not become the next version of a subject, by all that the
    /// subject's level asks for, or by one version only. Cancel safe.
    pub async fn compatibility(
        &self,
        subject: &str,
        version: Option<&str>,
        schema: &NewSchema,
    ) -> Result<Vec<String>> {
        let body = body_of(schema)?;
        self.compare(subject, version, &body).await
    }

    /// The level that holds for a subject. Cancel safe.
    pub async fn level(&self, subject: &str) -> Result<Option<String>> {
        let answer =
            self.ask("GET", &["config", subject], Some("defaultToGlobal=true"), None).await;
        let level = answer.map(|answer| answer["compatibilityLevel"].as_str().map(str::to_owned));
        or_none(level).map(Option::flatten)
    }

    /// Sets the level of a subject, or of all that have none of their own.
    pub async fn set_level_of(&self, subject: Option<&str>, level: &str) -> Result<()> {
        let path: Vec<&str> = ["config"].into_iter().chain(subject).collect();
        let answer = self.ask("PUT", &path, None, Some(&json!({"compatibility": level}))).await;
        answer.map(drop).map_err(|failure| failure.to_error())
    }
}

fn body_of(schema: &NewSchema) -> Result<Value> {
    let kind = kind(schema.schema_type.as_deref())?;
    let mut body = schema_body(kind, &schema.schema);
    if let Some(references) = schema.references.as_ref().filter(|given| !given.is_empty()) {
        body["references"] = json!(references);
    }
    Ok(body)
}

fn read<T: for<'a> Deserialize<'a>>(answer: Result<Value, Failure>) -> Result<T, Failure> {
    serde_json::from_value(answer?)
        .map_err(|error| Failure::nonsense(&format!("something else than was asked for: {error}")))
}

/// That there is no such thing is an answer too.
fn or_none<T>(answer: Result<T, Failure>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(failure) if failure.is_not_found() => Ok(None),
        Err(failure) => Err(failure.to_error()),
    }
}
