//! What an error of the server's asks for, by its SQLSTATE.
//!
//! | class | | |
//! |---|---|---|
//! | 08, 25, 40, 53, 55, 57, 58, XX | the server, its load, locks | later again |
//! | 21, 22, 23, 38, 39, 44, 54, P0 | values, constraints, triggers | the row's fault |
//! | 28, `42501` | who we are | hold, and look again: it is mended elsewhere |
//! | `42P01`, 3F | a table that may be made again | later again |
//! | 0A, 3D, 42 | the statement | hold |

use millstream_core::{Disposition, Error};
use tokio_postgres::error::{DbError, SqlState};

/// The error of a statement or a connection. `what` says which, for the reader.
pub(crate) fn of(error: &tokio_postgres::Error, what: &str) -> Error {
    let Some(answer) = error.as_db_error() else {
        return Error::retry("connection", format!("{what}: {}", chain(error)));
    };
    let (disposition, kind) = verdict(answer.code());
    Error::new(disposition, kind, format!("{what}: {}", said(answer)))
}

/// The server's words, and its name for what it is.
fn said(answer: &DbError) -> String {
    let mut said = answer.message().to_owned();
    if let Some(constraint) = answer.constraint()
        && !said.contains(constraint)
    {
        said.push_str(&format!(", constraint {constraint}"));
    }
    format!("{said} ({})", answer.code().code())
}

/// The driver's words and those below them.
fn chain(error: &tokio_postgres::Error) -> String {
    let mut said = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let words = cause.to_string();
        if !said.contains(&words) {
            said.push_str(": ");
            said.push_str(&words);
        }
        next = cause.source();
    }
    said
}

fn verdict(code: &SqlState) -> (Disposition, &'static str) {
    use Disposition::{Reject, Retry, Stop};
    let class = code.code().get(..2).unwrap_or_default();
    match (class, code.code()) {
        (_, "42501") => (Stop, "not_authorised"),
        (_, "42P01") | ("3F", _) => (Retry, "no_table"),
        (_, "57014") => (Retry, "timeout"),
        (_, "53100") => (Retry, "disk_full"),
        (_, "40P01" | "55P03") | ("40", _) => (Retry, "conflict"),
        ("28", _) => (Stop, "authentication"),
        ("08", _) => (Retry, "connection"),
        ("53", _) => (Retry, "overloaded"),
        ("57", _) => (Retry, "shutting_down"),
        ("25", _) => (Retry, "read_only"),
        ("23", _) => (Reject, "constraint"),
        ("21" | "22" | "38" | "39" | "44" | "54" | "P0", _) => (Reject, "invalid"),
        ("0A" | "3D" | "42", _) => (Stop, "sql"),
        _ => (Retry, "store"),
    }
}

/// The table is not what the statement was made for.
pub(crate) fn is_stale(error: &tokio_postgres::Error) -> bool {
    let code = error.as_db_error().map(|answer| answer.code().code());
    // A cached plan whose columns changed, a statement that is gone, a column that is gone or is of
    // another type, a binary value of another type.
    matches!(code, Some("0A000" | "26000" | "42703" | "42804" | "42P18" | "22P03" | "42P01"))
}

/// The column that refuses a null.
pub(crate) fn refuses_null(error: &tokio_postgres::Error) -> Option<&str> {
    let answer = error.as_db_error()?;
    if *answer.code() != SqlState::NOT_NULL_VIOLATION {
        return None;
    }
    answer.column()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_asks_for_something() {
        use Disposition::{Reject, Retry, Stop};
        for (code, disposition) in [
            ("08006", Retry),
            ("40001", Retry),
            ("40P01", Retry),
            ("53300", Retry),
            ("55P03", Retry),
            ("57P01", Retry),
            ("57014", Retry),
            ("25006", Retry),
            ("42P01", Retry),
            ("22001", Reject),
            ("22003", Reject),
            ("23502", Reject),
            ("23505", Reject),
            ("P0001", Reject),
            ("54000", Reject),
            ("42703", Stop),
            ("42501", Stop),
            ("28P01", Stop),
            ("3D000", Stop),
        ] {
            assert_eq!(verdict(&SqlState::from_code(code)).0, disposition, "{code}");
        }
    }
}
