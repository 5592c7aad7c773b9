//! What a registry answers when it cannot do what was asked: Confluent's code and a sentence.

use millstream_core::Disposition;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// `code` is the `error_code` of Confluent's REST API; its first three digits are the HTTP status.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    code: u32,
    message: String,
    source: Option<std::io::Error>,
}

pub(crate) mod code {
    pub const SUBJECT_NOT_FOUND: u32 = 40401;
    pub const VERSION_NOT_FOUND: u32 = 40402;
    pub const SCHEMA_NOT_FOUND: u32 = 40403;
    pub const SUBJECT_SOFT_DELETED: u32 = 40404;
    pub const SUBJECT_NOT_SOFT_DELETED: u32 = 40405;
    pub const VERSION_SOFT_DELETED: u32 = 40406;
    pub const VERSION_NOT_SOFT_DELETED: u32 = 40407;
    pub const CONFIG_NOT_FOUND: u32 = 40408;
    pub const MODE_NOT_FOUND: u32 = 40409;
    pub const INCOMPATIBLE: u32 = 409;
    pub const INVALID_SCHEMA: u32 = 42201;
    pub const INVALID_VERSION: u32 = 42202;
    pub const INVALID_LEVEL: u32 = 42203;
    pub const INVALID_MODE: u32 = 42204;
    pub const NOT_PERMITTED: u32 = 42205;
    pub const REFERENCE_EXISTS: u32 = 42206;
    pub const ID_DOES_NOT_MATCH: u32 = 42207;
    pub const INVALID_SUBJECT: u32 = 42208;
    pub const STORE: u32 = 50001;
}

impl Error {
    pub(crate) fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), source: None }
    }

    pub(crate) fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        Self { code: code::STORE, message: doing.into(), source: Some(source) }
    }

    pub(crate) fn subject_not_found(subject: &str) -> Self {
        Self::new(code::SUBJECT_NOT_FOUND, format!("Subject '{subject}' not found."))
    }

    pub(crate) fn version_not_found(version: impl std::fmt::Display) -> Self {
        Self::new(code::VERSION_NOT_FOUND, format!("Version {version} not found."))
    }

    pub(crate) fn schema_not_found(id: u32) -> Self {
        Self::new(code::SCHEMA_NOT_FOUND, format!("Schema {id} not found"))
    }

    pub(crate) fn guid_not_found(guid: millstream_core::Guid) -> Self {
        Self::new(code::SCHEMA_NOT_FOUND, format!("Schema {guid} not found"))
    }

    pub(crate) fn invalid_schema(message: impl Into<String>) -> Self {
        Self::new(code::INVALID_SCHEMA, message)
    }

    /// Confluent's `error_code`.
    pub fn code(&self) -> u32 {
        self.code
    }

    /// The HTTP status of this error.
    pub fn status(&self) -> u16 {
        let status = if self.code < 1000 { self.code } else { self.code / 100 };
        status as u16
    }
}

impl From<Error> for millstream_core::Error {
    fn from(error: Error) -> Self {
        let (disposition, kind) = match error.code {
            code::STORE => (Disposition::Retry, "registry_store"),
            code::SUBJECT_NOT_FOUND..=code::SCHEMA_NOT_FOUND => {
                (Disposition::Reject, "unknown_schema")
            }
            code::INCOMPATIBLE => (Disposition::Stop, "incompatible_schema"),
            code::INVALID_SCHEMA => (Disposition::Stop, "invalid_schema"),
            _ => (Disposition::Stop, "registry_refused"),
        };
        let core = millstream_core::Error::new(disposition, kind, error.message);
        match error.source {
            Some(source) => core.because(source),
            None => core,
        }
    }
}
