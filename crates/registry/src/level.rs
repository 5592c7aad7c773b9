//! The words of the registry's settings: compatibility levels, modes, versions, kinds.

use crate::error::{Error, Result, code};
use millstream_core::SchemaKind;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which older versions a new one must get on with, and in which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Level {
    None,
    Backward,
    BackwardTransitive,
    Forward,
    ForwardTransitive,
    Full,
    FullTransitive,
}

/// What a registry or a subject lets its clients change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Mode {
    Readwrite,
    Readonly,
    /// As `Readonly`, over the mode of every subject.
    ReadonlyOverride,
    /// Schemas come with their ids, and compatibility is not checked.
    Import,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Latest,
    Number(u32),
}

impl Level {
    pub const ALL: [Level; 7] = [
        Level::None,
        Level::Backward,
        Level::BackwardTransitive,
        Level::Forward,
        Level::ForwardTransitive,
        Level::Full,
        Level::FullTransitive,
    ];

    pub fn parse(text: &str) -> Result<Level> {
        let found = Level::ALL.iter().find(|level| level.word().eq_ignore_ascii_case(text));
        found.copied().ok_or_else(|| {
            let message = "Invalid compatibility level. Valid values are none, backward, forward, \
                           full, backward_transitive, forward_transitive, and full_transitive";
            Error::new(code::INVALID_LEVEL, message)
        })
    }

    pub fn word(self) -> &'static str {
        match self {
            Level::None => "NONE",
            Level::Backward => "BACKWARD",
            Level::BackwardTransitive => "BACKWARD_TRANSITIVE",
            Level::Forward => "FORWARD",
            Level::ForwardTransitive => "FORWARD_TRANSITIVE",
            Level::Full => "FULL",
            Level::FullTransitive => "FULL_TRANSITIVE",
        }
    }

    /// Whether a new schema must read the data of older ones.
    pub fn backward(self) -> bool {
        use Level::*;
        matches!(self, Backward | BackwardTransitive | Full | FullTransitive)
    }

    /// Whether older schemas must read the data of a new one.
    pub fn forward(self) -> bool {
        use Level::*;
        matches!(self, Forward | ForwardTransitive | Full | FullTransitive)
    }

    /// Whether all older versions count, not just the newest.
    pub fn transitive(self) -> bool {
        use Level::*;
        matches!(self, BackwardTransitive | ForwardTransitive | FullTransitive)
    }
}

impl Mode {
    const ALL: [Mode; 4] = [Mode::Readwrite, Mode::Readonly, Mode::ReadonlyOverride, Mode::Import];

    pub fn parse(text: &str) -> Result<Mode> {
        let found = Mode::ALL.iter().find(|mode| mode.word().eq_ignore_ascii_case(text));
        found.copied().ok_or_else(|| {
            let message = "Invalid mode. Valid values are READWRITE, READONLY, READONLY_OVERRIDE, \
                           and IMPORT";
            Error::new(code::INVALID_MODE, message)
        })
    }

    pub fn word(self) -> &'static str {
        match self {
            Mode::Readwrite => "READWRITE",
            Mode::Readonly => "READONLY",
            Mode::ReadonlyOverride => "READONLY_OVERRIDE",
            Mode::Import => "IMPORT",
        }
    }
}

impl Version {
    /// `latest`, `-1` for the same, or a number from 1.
    pub fn parse(text: &str) -> Result<Version> {
        if text == "latest" || text == "-1" {
            return Ok(Version::Latest);
        }
        let number = text.parse().ok().filter(|number| (1..=i32::MAX as u32).contains(number));
        number.map(Version::Number).ok_or_else(|| {
            let message = format!(
                "The specified version '{text}' is not a valid version id. Allowed values are \
                 between [1, 2^31-1] and the string \"latest\""
            );
            Error::new(code::INVALID_VERSION, message)
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Latest => f.write_str("latest"),
            Version::Number(number) => number.fmt(f),
        }
    }
}

/// The kind that a request names; Avro when it names none.
pub(crate) fn kind(word: Option<&str>) -> Result<SchemaKind> {
    match word.unwrap_or("AVRO") {
        "AVRO" => Ok(SchemaKind::Avro),
        "JSON" => Ok(SchemaKind::Json),
        "PROTOBUF" => Ok(SchemaKind::Protobuf),
        other => Err(Error::invalid_schema(format!(
            "Invalid schema type {other}: it is AVRO, JSON or PROTOBUF"
        ))),
    }
}

pub(crate) fn kind_word(kind: SchemaKind) -> &'static str {
    match kind {
        SchemaKind::Avro => "AVRO",
        SchemaKind::Json => "JSON",
        SchemaKind::Protobuf => "PROTOBUF",
    }
}
