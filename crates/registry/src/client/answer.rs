//! What a registry answers, and what an answer that is none asks its caller to do.

use crate::error::code;
use crate::level;
use millstream_core::{Disposition, Error, SchemaKind};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// An HTTP answer whose body was read whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// A schema as `/schemas/ids/N` and `/subjects/S/versions/N` give it.
#[derive(Debug)]
pub(super) struct Found {
    pub id: Option<u32>,
    pub kind: SchemaKind,
    pub text: Arc<str>,
    pub references: Vec<Reference>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Reference {
    pub name: String,
    pub subject: String,
    pub version: i64,
}

/// Why there is no answer. Cloned for everybody who waits for it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(super) struct Failure {
    why: Why,
    message: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It cannot be reached, or is not well.
    Unavailable,
    /// It answers with something that a registry does not say.
    Nonsense,
    /// No such schema, subject or version.
    NotFound,
    /// There is no such path: another kind of server, or an older registry.
    NoSuchPath,
    /// It wants another user, password or certificate.
    NotAllowed,
    Incompatible,
    InvalidSchema,
    Refused,
}

impl Failure {
    fn new(why: Why, message: impl Into<String>) -> Failure {
        Failure { why, message: message.into().into() }
    }

    pub fn unavailable(message: impl Into<String>) -> Failure {
        Self::new(Why::Unavailable, message)
    }

    pub fn nonsense(what: &str) -> Failure {
        Self::new(Why::Nonsense, format!("the schema registry answers with {what}"))
    }

    /// Whether the same question may be answered later.
    pub fn may_pass(&self) -> bool {
        matches!(self.why, Why::Unavailable | Why::Nonsense)
    }

    pub fn is_not_found(&self) -> bool {
        self.why == Why::NotFound
    }

    pub fn is_no_such_path(&self) -> bool {
        self.why == Why::NoSuchPath
    }

    /// A schema whose reference is missing is not itself unknown: somebody removed a part of it,
    /// and may bring it back.
    pub fn of_reference(self, reference: &Reference) -> Failure {
        let Reference { name, subject, version } = reference;
        let why = if self.is_not_found() { Why::Refused } else { self.why };
        let message =
            format!("reference `{name}` (version {version} of subject `{subject}`): {self}");
        Self::new(why, message)
    }

    pub fn to_error(&self) -> Error {
        let (disposition, kind) = match self.why {
            Why::Unavailable | Why::Nonsense => (Disposition::Retry, "registry_unavailable"),
            Why::NotFound => (Disposition::Reject, "unknown_schema"),
            Why::Incompatible => (Disposition::Stop, "incompatible_schema"),
            Why::InvalidSchema => (Disposition::Stop, "invalid_schema"),
            Why::NotAllowed => (Disposition::Stop, "registry_not_allowed"),
            Why::NoSuchPath | Why::Refused => (Disposition::Stop, "registry_refused"),
        };
        Error::new(disposition, kind, &*self.message)
    }
}

/// The JSON of an answer that says yes.
pub(super) fn read(answer: Answer) -> Result<Value, Failure> {
    let json = serde_json::from_slice::<Value>(&answer.body).ok();
    match (answer.status, json) {
        (200..=299, Some(json)) => Ok(json),
        (200..=299, None) => Err(Failure::nonsense("a body that is not JSON")),
        (status, json) => Err(refusal(status, json.as_ref())),
    }
}

fn refusal(status: u16, json: Option<&Value>) -> Failure {
    let code = json.and_then(|json| json["error_code"].as_u64()).unwrap_or(0);
    let said = json.and_then(|json| json["message"].as_str()).unwrap_or("");
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    let why = match (status, u32::try_from(code).unwrap_or(0)) {
        // Its own code must say so: the page of a proxy or of a wrong address is not an answer
        // that may turn rows into dead letters.
        (404, code::SUBJECT_NOT_FOUND..=code::VERSION_SOFT_DELETED) => Why::NotFound,
        (404 | 405, _) => Why::NoSuchPath,
        (401 | 403 | 407, _) => Why::NotAllowed,
        (408 | 429 | 500..=599, _) => Why::Unavailable,
        (409, _) => Why::Incompatible,
        (422, code::INVALID_SCHEMA) => Why::InvalidSchema,
        _ => Why::Refused,
    };
    let message = match why {
        Why::NotAllowed => {
            format!(
                "the schema registry lets us not in (HTTP {status}); give it a user and a \
                     password that may read there{said}"
            )
        }
        Why::NoSuchPath => {
            format!(
                "no schema registry answers at this address (HTTP {status}); is its path \
                     complete?{said}"
            )
        }
        Why::Incompatible => format!("the schema registry finds the schema incompatible{said}"),
        Why::InvalidSchema => format!("the schema registry does not accept the schema{said}"),
        Why::NotFound => format!("the schema registry does not know it{said}"),
        _ => format!("the schema registry refused (HTTP {status}){said}"),
    };
    Failure::new(why, message)
}

impl Found {
    pub fn read(answer: &Value) -> Result<Found, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            id: Option<u32>,
            schema: String,
            schema_type: Option<String>,
            references: Option<Vec<Reference>>,
        }
        let body = Body::deserialize(answer).map_err(|error| {
            Failure::nonsense(&format!("another body than a schema's: {error}"))
        })?;
        let kind = level::kind(body.schema_type.as_deref())
            .map_err(|error| Failure::new(Why::Refused, error.to_string()))?;
        let references = body.references.unwrap_or_default();
        Ok(Found { id: body.id, kind, text: body.schema.into(), references })
    }
}

pub(super) fn id(answer: &Value) -> Result<u32, Failure> {
    let id = answer["id"].as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| Failure::nonsense("no id"))
}

pub(super) fn incompatibilities(answer: &Value) -> Vec<String> {
    if answer["is_compatible"].as_bool() == Some(true) {
        return Vec::new();
    }
    let messages = answer["messages"].as_array().into_iter().flatten();
    let messages: Vec<String> = messages.filter_map(Value::as_str).map(str::to_owned).collect();
    match messages.is_empty() {
        true => vec!["the schema registry does not say why".to_owned()],
        false => messages,
    }
}
