//! What an error of the driver's or the server's asks for.

use millstream_core::{Disposition, Error};
use mongodb::error::{self as driver, ErrorKind};

/// As much of an error's words as is shown: a server lists whole topologies.
const WORDS_MAX: usize = 400;

/// The code of a duplicate in a unique index.
pub(crate) const DUPLICATE: i32 = 11000;

/// The error of a command. `what` says which, for the reader.
pub(crate) fn of_command(error: &driver::Error, what: &str) -> Error {
    let said = format!("{what}: {}", shortened(&error.kind.to_string()));
    match error.kind.as_ref() {
        ErrorKind::Command(command) => {
            let (disposition, kind) = of_code(command.code, || is_labelled(error));
            let said = format!("{what}: {}", shortened(&command.message));
            Error::new(disposition, kind, said)
        }
        // A password that is being changed comes right; until then rows wait.
        ErrorKind::Authentication { .. } => Error::retry("unauthorized", said),
        ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } => {
            Error::retry("connection", said)
        }
        ErrorKind::ServerSelection { .. } | ErrorKind::DnsResolve { .. } => {
            Error::retry("unreachable", said)
        }
        ErrorKind::InvalidTlsConfig { .. } => Error::retry("tls", said),
        ErrorKind::InvalidArgument { .. } => Error::reject("invalid", said),
        ErrorKind::IncompatibleServer { .. } => Error::stop("mongodb", said),
        _ => Error::retry("store", said),
    }
}

/// The error of a first connection: what does not come right by itself is told.
pub(crate) fn of_connect(error: &driver::Error, what: &str) -> Error {
    let said = format!("{what}: {}", shortened(&error.kind.to_string()));
    match error.kind.as_ref() {
        ErrorKind::Authentication { .. } => Error::stop("unauthorized", said),
        ErrorKind::Command(command) if matches!(command.code, 13 | 18) => {
            Error::stop("unauthorized", said)
        }
        ErrorKind::InvalidTlsConfig { .. } => Error::stop("tls", said),
        ErrorKind::InvalidArgument { .. } | ErrorKind::IncompatibleServer { .. } => {
            Error::stop("mongodb", said)
        }
        _ => Error::retry("unreachable", said),
    }
}

fn is_labelled(error: &driver::Error) -> bool {
    [
        driver::RETRYABLE_WRITE_ERROR,
        driver::RETRYABLE_ERROR,
        driver::SYSTEM_OVERLOADED_ERROR,
        driver::TRANSIENT_TRANSACTION_ERROR,
    ]
    .iter()
    .any(|label| error.contains_label(label))
}

/// What the server's codes mean for a whole command.
pub(crate) fn of_code(code: i32, labelled: impl FnOnce() -> bool) -> (Disposition, &'static str) {
    if let Some(kind) = passing(code) {
        return (Disposition::Retry, kind);
    }
    if labelled() {
        return (Disposition::Retry, "store");
    }
    match code {
        // What was sent is wrong: a value, a type, a name, a size, a rule of the collection.
        2 | 9 | 14 | 28 | 40 | 52 | 53 | 54 | 55 | 56 | 57 | 66 | 121 | 10334 | 17280 | 17419
        | 17420 | 16755 | 16837 | 51_024 | 238 | DUPLICATE => (Disposition::Reject, "invalid"),
        // No such command, concern or name: nothing that comes right by itself.
        20 | 59 | 72 | 73 | 79 | 115 => (Disposition::Stop, "mongodb"),
        _ => (Disposition::Retry, "store"),
    }
}

/// What the server's codes mean for one row: it is refused unless the code says that it may come
/// right.
pub(crate) fn of_row(code: i32) -> Option<&'static str> {
    passing(code)
}

/// The codes that come right by themselves.
fn passing(code: i32) -> Option<&'static str> {
    Some(match code {
        // Not the primary, or not yet or no more.
        10107 | 13435 | 10058 => "not_primary",
        11600 | 11602 | 13436 | 189 | 91 => "not_ready",
        6 | 7 | 89 | 9001 | 133 => "connection",
        50 | 202 | 262 => "timeout",
        64 | 75 | 100 => "write_concern",
        13 | 18 | 8000 => "unauthorized",
        14031 => "disk_full",
        24 | 43 | 46 | 112 | 117 | 125 | 134 | 237 | 365 | 384 | 462 => "store",
        _ => return None,
    })
}

pub(crate) fn shortened(words: &str) -> &str {
    match words.char_indices().nth(WORDS_MAX) {
        Some((end, _)) => &words[..end],
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_who_waits_and_who_is_refused() {
        for (code, labelled, expected) in [
            (10107, false, (Disposition::Retry, "not_primary")),
            (189, false, (Disposition::Retry, "not_ready")),
            (91, false, (Disposition::Retry, "not_ready")),
            (50, false, (Disposition::Retry, "timeout")),
            (64, false, (Disposition::Retry, "write_concern")),
            (100, false, (Disposition::Retry, "write_concern")),
            (13, false, (Disposition::Retry, "unauthorized")),
            (14, false, (Disposition::Reject, "invalid")),
            (121, false, (Disposition::Reject, "invalid")),
            (14, true, (Disposition::Retry, "store")),
            (79, false, (Disposition::Stop, "mongodb")),
            // What is not known is not a row's fault.
            (987_654, false, (Disposition::Retry, "store")),
        ] {
            assert_eq!(of_code(code, || labelled), expected, "{code}");
        }
        assert_eq!(of_row(112), Some("store"));
        assert_eq!(of_row(987_654), None);
        assert_eq!(of_row(DUPLICATE), None);
    }

    #[test]
    fn words_are_cut_between_letters() {
        let long = "ü".repeat(WORDS_MAX + 1);
        assert_eq!(shortened(&long).chars().count(), WORDS_MAX);
        assert_eq!(shortened("short"), "short");
    }
}
