//! An answer that is not what was asked for: who has to change something, and what.

use millstream_config::{Mistake, Mistakes};
use serde::{Deserialize, Serialize};
use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request cannot be met as it was put: a wrong name, a wrong value.
    Mistake,
    /// A file has mistakes; the message shows each with its place.
    File,
    /// It needs pipelines that run, and none do.
    NeedsRun,
    /// Something broke on our side.
    Failure,
    /// The one who asked is gone.
    Gone,
}

/// A sentence with its code. Crosses the socket as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    pub code: Code,
    pub message: String,
    /// Each mistake of files by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mistakes: Vec<Mistake>,
}

impl Error {
    pub fn mistake(message: impl Into<String>) -> Self {
        Self::new(Code::Mistake, message)
    }

    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), mistakes: Vec::new() }
    }

    pub fn failure(message: impl Into<String>) -> Self {
        Self::new(Code::Failure, message)
    }

    pub fn needs_run(what: &str) -> Self {
        let message = format!("{what} needs the pipeline to run: `millstream run FILE` first");
        Self::new(Code::NeedsRun, message)
    }

    pub(crate) fn gone() -> Self {
        Self::new(Code::Gone, "the one who asked is gone")
    }

    /// The whole chain in one line.
    pub(crate) fn chained(code: Code, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut next = error.source();
        while let Some(error) = next {
            let text = error.to_string();
            // Some layers repeat what they wrap.
            if !message.ends_with(&text) {
                message = format!("{message}: {text}");
            }
            next = error.source();
        }
        Self::new(code, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<millstream_log::Error> for Error {
    fn from(error: millstream_log::Error) -> Self {
        use millstream_log::Error::{NoTopic, TooLarge, TopicExists, TopicName, TopicOption};
        let code = match &error {
            NoTopic(_) | TopicExists(_) | TopicName { .. } | TopicOption { .. } => Code::Mistake,
            TooLarge { .. } => Code::Mistake,
            _ => Code::Failure,
        };
        Self::chained(code, &error)
    }
}

impl From<millstream_tables::Error> for Error {
    fn from(error: millstream_tables::Error) -> Self {
        use millstream_tables::Error::{Dropped, Refused};
        let code = match &error {
            Refused(_) | Dropped(_) => Code::Mistake,
            _ => Code::Failure,
        };
        Self::chained(code, &error)
    }
}

impl From<millstream_core::Error> for Error {
    fn from(error: millstream_core::Error) -> Self {
        let code = match error.kind() {
            "no_pipeline"
            | "no_partition"
            | "no_topic"
            | "no_times"
            | "bad_offset"
            | "offset_out_of_range"
            | "brokers"
            | "unknown_schema"
            | "incompatible_schema"
            | "invalid_schema"
            | "registry_refused"
            | "registry_not_allowed" => Code::Mistake,
            _ => Code::Failure,
        };
        Self::new(code, error.chain())
    }
}

impl From<Mistakes> for Error {
    fn from(mistakes: Mistakes) -> Self {
        Self { code: Code::File, message: mistakes.render(false), mistakes: mistakes.0 }
    }
}

impl From<millstream_registry::Error> for Error {
    fn from(error: millstream_registry::Error) -> Self {
        let code = if error.status() < 500 { Code::Mistake } else { Code::Failure };
        Self::chained(code, &error)
    }
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) => match error.downcast::<millstream_core::Error>() {
                Ok(error) => error.into(),
                Err(error) => Self::chained(Code::Failure, error.as_ref()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_one_line_and_repeats_nothing() {
        let inner = millstream_core::Error::stop("x", "the disk is gone");
        let outer =
            millstream_core::Error::stop("y", "cannot append: the disk is gone").because(inner);
        let error = Error::chained(Code::Failure, &outer);
        assert_eq!(error.message, "cannot append: the disk is gone");
    }

    #[test]
    fn a_wrong_name_is_the_users_mistake_and_a_full_disk_is_not() {
        let missing = millstream_log::Error::NoTopic("x".into());
        assert_eq!(Error::from(missing).code, Code::Mistake);
        assert_eq!(Error::from(millstream_log::Error::Closed).code, Code::Failure);
    }
}
