//! The error that crosses a boundary: it tells its caller what to do and its reader what to change.

use crate::redact;
use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error asks its caller to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The same call may succeed later: wait, then try again. The source is held meanwhile.
    Retry,
    /// These rows can never succeed: they become dead letters.
    Reject,
    /// Going on would lose or corrupt data, or the configuration is wrong: hold and say so.
    Stop,
}

/// An error of a source, format, lookup or sink.
///
/// `Display` gives this layer's words only; the chain is in `source()`.
#[derive(Debug)]
pub struct Error {
    disposition: Disposition,
    /// A short stable word for metrics: `disk_full`, `unknown_schema`, …
    kind: &'static str,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub fn new(disposition: Disposition, kind: &'static str, message: impl Into<String>) -> Self {
        Self { disposition, kind, message: message.into(), source: None }
    }

    pub fn retry(kind: &'static str, message: impl Into<String>) -> Self {
        Self::new(Disposition::Retry, kind, message)
    }

    pub fn reject(kind: &'static str, message: impl Into<String>) -> Self {
        Self::new(Disposition::Reject, kind, message)
    }

    pub fn stop(kind: &'static str, message: impl Into<String>) -> Self {
        Self::new(Disposition::Stop, kind, message)
    }

    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// With `***` in place of these in this layer's words: a server may repeat what it was sent.
    pub fn without<'a>(mut self, secrets: impl IntoIterator<Item = &'a str>) -> Self {
        self.message = redact(&self.message, secrets);
        self
    }

    pub fn disposition(&self) -> Disposition {
        self.disposition
    }

    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// This error and everything below it, in one line.
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            line.push_str(": ");
            line.push_str(&error.to_string());
            next = error.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
