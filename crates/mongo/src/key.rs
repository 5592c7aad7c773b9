//! Keys in one form, whatever type their number has: MongoDB finds 5, 5.0 and NumberDecimal("5.0") by
//! each other, so that documents are matched to keys by what the values mean.

use crate::read::whole;
use crate::text::uuid;
use mongodb::bson::{RawBsonRef, RawDocument};

/// Appends a value's form, with its length before it; false for what no key equals.
pub(crate) fn canonical(value: RawBsonRef<'_>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    match value {
        RawBsonRef::Boolean(value) => out.extend_from_slice(&[b'f', u8::from(value)]),
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) => {
            out.push(b's');
            out.extend_from_slice(text.as_bytes());
        }
        RawBsonRef::ObjectId(id) => {
            out.push(b'o');
            out.extend_from_slice(&id.bytes());
        }
        RawBsonRef::DateTime(at) => {
            out.push(b'd');
            out.extend_from_slice(&at.timestamp_millis().to_le_bytes());
        }
        RawBsonRef::Binary(binary) => {
            out.extend_from_slice(&[b'b', u8::from(uuid(binary).is_some())]);
            out.extend_from_slice(binary.bytes);
        }
        number => match whole(number) {
            Some(n) => {
                out.push(b'n');
                out.extend_from_slice(&n.to_le_bytes());
            }
            None => {
                out.truncate(start);
                return false;
            }
        },
    }
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    true
}

/// The forms of the values at a path: those of an array are all its elements', and the path goes
/// through every document of an array.
pub(crate) fn at_path(value: RawBsonRef<'_>, path: &[String], found: &mut Vec<Vec<u8>>) {
    match (value, path.split_first()) {
        (RawBsonRef::Array(array), _) => {
            for value in array.into_iter().flatten() {
                match path.is_empty() {
                    // An array in an array is a value of its own, which no key equals.
                    true => push(value, found),
                    false => at_path(value, path, found),
                }
            }
        }
        (value, None) => push(value, found),
        (RawBsonRef::Document(document), Some((first, rest))) => {
            if let Ok(Some(value)) = document.get(first) {
                at_path(value, rest, found);
            }
        }
        _ => {}
    }
}

pub(crate) fn in_document(document: &RawDocument, path: &[String]) -> Vec<Vec<u8>> {
    let mut found = Vec::with_capacity(1);
    at_path(RawBsonRef::Document(document), path, &mut found);
    found
}

fn push(value: RawBsonRef<'_>, found: &mut Vec<Vec<u8>>) {
    let mut form = Vec::with_capacity(16);
    if canonical(value, &mut form) && !found.contains(&form) {
        found.push(form);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};

    fn forms(document: Document, path: &str) -> Vec<Vec<u8>> {
        let document = RawDocumentBuf::try_from(&document).unwrap();
        in_document(&document, &crate::read::path(path))
    }

    #[test]
    fn equal_numbers_have_one_form() {
        let five = forms(doc! { "k": 5 }, "k");
        assert_eq!(five.len(), 1);
        let decimal = Bson::Decimal128("5.0".parse().unwrap());
        for same in [doc! { "k": 5_i64 }, doc! { "k": 5.0 }, doc! { "k": decimal }] {
            assert_eq!(forms(same, "k"), five);
        }
        assert!(forms(doc! { "k": 5.5 }, "k").is_empty());
        assert_ne!(forms(doc! { "k": "5" }, "k"), five);
        assert!(forms(doc! { "k": Bson::Null }, "k").is_empty());
        assert!(forms(doc! {}, "k").is_empty());
    }

    #[test]
    fn an_array_is_found_by_each_element() {
        assert_eq!(forms(doc! { "k": ["a", "b", "a", 1.5] }, "k").len(), 2);
        assert_eq!(forms(doc! { "k": [["a"]] }, "k").len(), 0);
        let nested = doc! { "k": [{ "id": 1 }, { "id": [2, 3] }, 4] };
        assert_eq!(forms(nested, "k.id").len(), 3);
    }
}
