//! Commands that write, and what their answers say of each row.

use crate::cluster::{Acknowledged, WriteConcern};
use crate::encode::{Form, Statement};
use crate::error;
use crate::write::{self, Digits};
use millstream_core::{Error, Result};
use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf};
use std::time::Duration;

/// A command that carries these statements.
pub(crate) fn command<'a>(
    form: &Form,
    collection: &str,
    statements: impl Iterator<Item = &'a Statement>,
    ordered: bool,
    concern: &WriteConcern,
    timeout: Duration,
) -> Result<RawDocumentBuf, String> {
    let (name, list): (&[u8], &[u8]) = match form {
        Form::Insert => (b"insert", b"documents"),
        Form::Upsert | Form::Update { .. } => (b"update", b"updates"),
        Form::Delete => (b"delete", b"deletes"),
    };
    let mut out = Vec::with_capacity(64 << 10);
    let whole = write::begin(&mut out);
    write::words(name, collection, &mut out)?;
    let array = write::begin_array(list, &mut out);
    for (at, statement) in statements.enumerate() {
        let mut digits = Digits::default();
        let index = digits.of(at);
        out.push(DOCUMENT);
        out.extend_from_slice(index);
        out.push(0);
        out.extend_from_slice(&statement.bytes);
    }
    write::end(&mut out, array)?;
    write::boolean(b"ordered", ordered, &mut out);
    // The server gives up before we do, so that nothing is written after the next try began.
    let patience = i64::try_from((timeout * 9 / 10).as_millis().max(1)).unwrap_or(i64::MAX);
    let of_concern = write::begin_document(b"writeConcern", &mut out);
    match &concern.acknowledged {
        Acknowledged::Majority => write::words(b"w", "majority", &mut out)?,
        Acknowledged::Nodes(nodes) => {
            write::int(b"w", i32::try_from(nodes.get()).unwrap_or(i32::MAX), &mut out);
        }
        Acknowledged::Named(name) => write::words(b"w", name, &mut out)?,
    }
    if let Some(journal) = concern.journal {
        write::boolean(b"j", journal, &mut out);
    }
    write::long(b"wtimeout", patience, &mut out);
    write::end(&mut out, of_concern)?;
    write::long(b"maxTimeMS", patience, &mut out);
    write::end(&mut out, whole)?;
    RawDocumentBuf::from_bytes(out).map_err(|e| e.to_string())
}

/// The type of an element that is a document.
const DOCUMENT: u8 = 0x03;

/// What the server says of a command that it took.
#[derive(Debug)]
pub(crate) struct Answer {
    /// How many statements did something.
    pub done: u64,
    pub refused: Vec<Refused>,
    /// The rows are written, but not as durably as they have to be.
    pub unsure: Option<Error>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Which of the command's statements.
    pub at: usize,
    pub code: i32,
    pub why: String,
}

impl Answer {
    pub fn of(answer: &Document, sent: usize, what: &str) -> Result<Answer> {
        let malformed = || Error::retry("store", format!("{what}: the answer is malformed"));
        let mut refused = Vec::new();
        if let Some(errors) = answer.get("writeErrors") {
            for error in errors.as_array().ok_or_else(malformed)? {
                let error = error.as_document().ok_or_else(malformed)?;
                let at = number(error.get("index")).and_then(|at| usize::try_from(at).ok());
                let at = at.filter(|at| *at < sent).ok_or_else(malformed)?;
                let code = number(error.get("code")).and_then(|code| i32::try_from(code).ok());
                let words = error.get_str("errmsg").unwrap_or_default();
                let code = code.unwrap_or_default();
                let why = match words.is_empty() {
                    true => format!("MongoDB refuses it with the code {code}"),
                    false => error::shortened(words).to_owned(),
                };
                refused.push(Refused { at, code, why });
            }
        }
        let unsure = answer.get("writeConcernError").map(|error| {
            let error = error.as_document();
            let code = error.and_then(|error| number(error.get("code"))).unwrap_or_default();
            let words = error.and_then(|error| error.get_str("errmsg").ok()).unwrap_or_default();
            let said = format!("{what}: the write concern is not met: {}", error::shortened(words));
            // No such concern, or one that no number of members meets.
            match code {
                79 => Error::stop("write_concern", said),
                _ => Error::retry("write_concern", said),
            }
        });
        let done = match number(answer.get("n")) {
            Some(n) => u64::try_from(n).map_err(|_| malformed())?,
            None => match &refused[..] {
                [] => return Err(malformed()),
                [_] if sent == 1 => 0,
                // A server that does not count does not say which row it means either.
                [first, ..] => {
                    let (disposition, kind) = error::of_code(first.code, || false);
                    return Err(Error::new(disposition, kind, format!("{what}: {}", first.why)));
                }
            },
        };
        Ok(Answer { done, refused, unsure })
    }
}

fn number(value: Option<&Bson>) -> Option<i64> {
    match value? {
        Bson::Int32(n) => Some(i64::from(*n)),
        Bson::Int64(n) => Some(*n),
        Bson::Double(n) => Some(*n as i64),
        _ => None,
    }
}

/// Whether a document that is there is the one that was to be inserted: the same fields with the same
/// values, in any order.
pub(crate) fn is_same(ours: &RawDocument, theirs: &RawDocument) -> bool {
    let mut count = 0;
    for element in ours {
        let Ok((name, value)) = element else { return false };
        let Ok(Some(other)) = theirs.get(name.as_str()) else { return false };
        if !is_equal(value, other) {
            return false;
        }
        count += 1;
    }
    theirs.iter_elements().count() == count
}

fn is_equal(ours: RawBsonRef<'_>, theirs: RawBsonRef<'_>) -> bool {
    match (ours, theirs) {
        (RawBsonRef::Double(a), RawBsonRef::Double(b)) if a.is_nan() => b.is_nan(),
        _ => ours == theirs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_core::Disposition;
    use mongodb::bson::doc;
    use std::num::NonZeroU32;

    fn raw(document: &Document) -> RawDocumentBuf {
        RawDocumentBuf::try_from(document).unwrap()
    }

    #[test]
    fn a_command_says_how_durable_and_how_long() {
        let statement = Statement { row: 0, bytes: raw(&doc! { "_id": 7 }).into_bytes() };
        let concern = WriteConcern {
            acknowledged: Acknowledged::Nodes(NonZeroU32::new(2).unwrap()),
            journal: Some(true),
        };
        let timeout = Duration::from_secs(10);
        let twice = [&statement, &statement];
        let sent =
            command(&Form::Insert, "c", twice.into_iter(), false, &concern, timeout).unwrap();
        let expected = doc! {
            "insert": "c",
            "documents": [{ "_id": 7 }, { "_id": 7 }],
            "ordered": false,
            "writeConcern": { "w": 2, "j": true, "wtimeout": 9000_i64 },
            "maxTimeMS": 9000_i64,
        };
        assert_eq!(Document::try_from(&sent).unwrap(), expected);
        let concern = WriteConcern { acknowledged: Acknowledged::Majority, journal: None };
        let one = [&statement].into_iter();
        let sent = command(&Form::Delete, "c", one, true, &concern, timeout).unwrap();
        let sent = Document::try_from(&sent).unwrap();
        let concern = sent.get_document("writeConcern").unwrap();
        assert_eq!(concern, &doc! { "w": "majority", "wtimeout": 9000_i64 });
        assert!(sent.get_bool("ordered").unwrap() && sent.contains_key("deletes"));
    }

    #[test]
    fn an_answer_says_which_rows_are_refused() {
        let answer = doc! {
            "n": 1, "ok": 1.0,
            "writeErrors": [
                { "index": 2, "code": 11000, "errmsg": "E11000 duplicate key" },
                { "index": 0, "code": 121 },
            ],
        };
        let answer = Answer::of(&answer, 3, "writing").unwrap();
        assert_eq!((answer.done, answer.unsure.is_some()), (1, false));
        let refused: Vec<_> = answer.refused.iter().map(|r| (r.at, r.code)).collect();
        assert_eq!(refused, [(2, 11000), (0, 121)]);
        assert_eq!(answer.refused[1].why, "MongoDB refuses it with the code 121");
        // FerretDB says of every update that it refuses that it was the first.
        let uncounted = doc! { "ok": 1, "writeErrors": [{ "index": 0, "code": 2 }] };
        let whole = Answer::of(&uncounted, 3, "writing").unwrap_err();
        assert_eq!(whole.disposition(), Disposition::Reject);
        assert_eq!(Answer::of(&uncounted, 1, "writing").unwrap().refused.len(), 1);
        for wrong in [
            doc! { "ok": 1 },
            doc! { "n": -1 },
            doc! { "n": 1, "writeErrors": [{ "index": 3, "code": 1 }] },
            doc! { "n": 1, "writeErrors": "x" },
        ] {
            let error = Answer::of(&wrong, 3, "writing").unwrap_err();
            assert_eq!(error.disposition(), Disposition::Retry);
        }
    }

    #[test]
    fn a_write_concern_that_is_not_met_is_tried_again() {
        for (code, expected) in [
            (64, Disposition::Retry),
            (100, Disposition::Retry),
            (91, Disposition::Retry),
            (79, Disposition::Stop),
        ] {
            let error = doc! { "code": code, "errmsg": "waiting for replication timed out" };
            let answer = doc! { "n": 3_i64, "ok": 1, "writeConcernError": error };
            let answer = Answer::of(&answer, 3, "writing").unwrap();
            let unsure = answer.unsure.unwrap();
            assert_eq!((unsure.disposition(), unsure.kind()), (expected, "write_concern"));
        }
    }

    #[test]
    fn a_document_is_the_same_in_any_order_of_its_fields() {
        let ours = raw(&doc! { "v": "x", "n": f64::NAN, "_id": 1, "d": { "a": 1, "b": 2 } });
        let same = |theirs| is_same(&ours, &raw(&theirs));
        let nested = doc! { "a": 1, "b": 2 };
        assert!(same(doc! { "_id": 1, "v": "x", "n": f64::NAN, "d": nested.clone() }));
        assert!(!same(doc! { "_id": 1, "v": "y", "n": f64::NAN, "d": nested.clone() }));
        assert!(!same(doc! { "_id": 1, "v": "x", "n": f64::NAN }));
        assert!(!same(doc! { "_id": 1, "v": "x", "n": f64::NAN, "d": nested, "more": 1 }));
        assert!(!same(doc! { "_id": 1_i64, "v": "x", "n": f64::NAN, "d": { "a": 1, "b": 2 } }));
    }
}
