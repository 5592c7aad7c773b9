//! What an error of the driver's asks for.

use millstream_core::Error;
use scylla::errors::{
    BadQuery, DbError, ExecutionError, MetadataError, NewSessionError, PrepareError,
    RequestAttemptError,
};

/// The error of a statement. `what` says which, for the reader.
pub(crate) fn of_execution(error: ExecutionError, what: &str) -> Error {
    match &error {
        ExecutionError::BadQuery(BadQuery::ValuesTooLongForKey(..)) => {
            Error::reject("too_large", format!("{what}: the key is too long for CQL"))
        }
        ExecutionError::BadQuery(_) => Error::stop("cql", what).because(error),
        ExecutionError::LastAttemptError(attempt) => of_attempt(attempt, what),
        ExecutionError::PrepareError(prepare) => of_prepare(prepare, what),
        // These say their causes themselves.
        ExecutionError::RequestTimeout(_) => Error::retry("timeout", format!("{what}: {error}")),
        _ => Error::retry("unreachable", format!("{what}: {error}")),
    }
}

pub(crate) fn of_prepare(error: &PrepareError, what: &str) -> Error {
    match error {
        PrepareError::AllAttemptsFailed { first_attempt } => of_attempt(first_attempt, what),
        _ => Error::retry("unreachable", format!("{what}: {error}")),
    }
}

pub(crate) fn of_session(error: NewSessionError, what: &str) -> Error {
    let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(_)) = &error else {
        return Error::retry("unreachable", what).because(error);
    };
    // The driver's words are the only place that says why no connection came to be.
    if error.to_string().contains("uthentication") {
        return Error::stop("unauthorized", what).because(error);
    }
    Error::retry("unreachable", what).because(error)
}

fn of_attempt(error: &RequestAttemptError, what: &str) -> Error {
    let (answer, words) = match error {
        RequestAttemptError::DbError(answer, words) => (answer, words),
        RequestAttemptError::RepreparedIdChanged { .. }
        | RequestAttemptError::RepreparedIdMissingInBatch => {
            return Error::retry("unprepared", what).because(error.clone());
        }
        _ => return Error::retry("connection", format!("{what}: {error}")),
    };
    let said = match words.is_empty() {
        true => format!("{what}: {answer}"),
        false => format!("{what}: {words}"),
    };
    match answer {
        DbError::Unavailable { .. } => Error::retry("unavailable", said),
        DbError::Overloaded | DbError::RateLimitReached { .. } => Error::retry("overloaded", said),
        DbError::ReadTimeout { .. } | DbError::WriteTimeout { .. } => Error::retry("timeout", said),
        // A password that is being changed comes right; until then rows wait.
        DbError::AuthenticationError | DbError::Unauthorized => Error::retry("unauthorized", said),
        // A table that was dropped may be made again.
        DbError::Invalid if is_absent(words) => Error::retry("no_table", said),
        DbError::Invalid => Error::reject("invalid", said),
        DbError::SyntaxError | DbError::ConfigError | DbError::ProtocolError => {
            Error::stop("cql", said)
        }
        _ => Error::retry("store", said),
    }
}

fn is_absent(words: &str) -> bool {
    let words = words.to_lowercase();
    ["unconfigured table", "does not exist", "undefined column", "unknown keyspace"]
        .iter()
        .any(|part| words.contains(part))
}
