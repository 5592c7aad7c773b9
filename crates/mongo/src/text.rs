//! A value as text: what a `string` column shows of values that are no text. Documents and arrays are
//! JSON, and in them what JSON has no word for is as in MongoDB's relaxed extended JSON.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{RawArray, RawBinaryRef, RawBsonRef, RawDocument};
use std::fmt::Write;

/// How deep documents may nest, as in MongoDB itself.
const DEPTH_MAX: usize = 100;

/// Appends a value; the error says why it cannot be shown.
pub(crate) fn write(value: RawBsonRef<'_>, out: &mut String) -> Result<(), String> {
    match value {
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) | RawBsonRef::JavaScriptCode(text) => {
            out.push_str(text);
            Ok(())
        }
        RawBsonRef::ObjectId(id) => shown(out, id.to_hex()),
        RawBsonRef::Decimal128(number) => shown(out, number),
        RawBsonRef::DateTime(at) => match at.try_to_rfc3339_string() {
            Ok(text) => shown(out, text),
            Err(_) => shown(out, at.timestamp_millis()),
        },
        RawBsonRef::Binary(binary) => match uuid(binary) {
            Some(uuid) => shown(out, uuid),
            None => shown(out, BASE64_STANDARD.encode(binary.bytes)),
        },
        RawBsonRef::RegularExpression(regex) => {
            shown(out, format_args!("/{}/{}", regex.pattern, regex.options))
        }
        RawBsonRef::MinKey => shown(out, "MinKey"),
        RawBsonRef::MaxKey => shown(out, "MaxKey"),
        other => json(other, out, 0),
    }
}

/// A UUID, which is a binary of its own subtype.
pub(crate) fn uuid(binary: RawBinaryRef<'_>) -> Option<uuid::Uuid> {
    match binary.subtype {
        BinarySubtype::Uuid => uuid::Uuid::from_slice(binary.bytes).ok(),
        _ => None,
    }
}

fn shown(out: &mut String, what: impl std::fmt::Display) -> Result<(), String> {
    write!(out, "{what}").map_err(|_| "the value cannot be shown".to_owned())
}

fn json(value: RawBsonRef<'_>, out: &mut String, depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("documents nest at most {DEPTH_MAX} deep"));
    }
    match value {
        RawBsonRef::Document(document) => object(document, out, depth),
        RawBsonRef::Array(array) => list(array, out, depth),
        RawBsonRef::Null | RawBsonRef::Undefined => shown(out, "null"),
        RawBsonRef::Boolean(value) => shown(out, value),
        RawBsonRef::Int32(value) => shown(out, value),
        RawBsonRef::Int64(value) => shown(out, value),
        // Debug keeps the point of 1.0.
        RawBsonRef::Double(value) if value.is_finite() => shown(out, format_args!("{value:?}")),
        RawBsonRef::Double(value) => tagged("$numberDouble", &infinite(value), out),
        RawBsonRef::String(text) => quoted(text, out),
        RawBsonRef::Symbol(text) => tagged("$symbol", text, out),
        RawBsonRef::JavaScriptCode(code) => tagged("$code", code, out),
        RawBsonRef::JavaScriptCodeWithScope(code) => tagged("$code", code.code, out),
        RawBsonRef::ObjectId(id) => tagged("$oid", &id.to_hex(), out),
        RawBsonRef::Decimal128(number) => tagged("$numberDecimal", &number.to_string(), out),
        RawBsonRef::DateTime(at) => match at.try_to_rfc3339_string() {
            Ok(text) => tagged("$date", &text, out),
            Err(_) => tagged("$date", &at.timestamp_millis().to_string(), out),
        },
        RawBsonRef::Binary(binary) => match uuid(binary) {
            Some(uuid) => tagged("$uuid", &uuid.to_string(), out),
            None => tagged("$binary", &BASE64_STANDARD.encode(binary.bytes), out),
        },
        RawBsonRef::Timestamp(at) => shown(
            out,
            format_args!("{{\"$timestamp\":{{\"t\":{},\"i\":{}}}}}", at.time, at.increment),
        ),
        RawBsonRef::RegularExpression(regex) => {
            let text = format!("/{}/{}", regex.pattern, regex.options);
            tagged("$regularExpression", &text, out)
        }
        RawBsonRef::MinKey => shown(out, "{\"$minKey\":1}"),
        RawBsonRef::MaxKey => shown(out, "{\"$maxKey\":1}"),
        RawBsonRef::DbPointer(_) => Err("a DBPointer is not known".into()),
    }
}

fn object(document: &RawDocument, out: &mut String, depth: usize) -> Result<(), String> {
    out.push('{');
    for (at, element) in document.iter().enumerate() {
        let (name, value) = element.map_err(|e| e.to_string())?;
        if at > 0 {
            out.push(',');
        }
        quoted(name.as_str(), out)?;
        out.push(':');
        json(value, out, depth + 1)?;
    }
    out.push('}');
    Ok(())
}

fn list(array: &RawArray, out: &mut String, depth: usize) -> Result<(), String> {
    out.push('[');
    for (at, value) in array.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        json(value.map_err(|e| e.to_string())?, out, depth + 1)?;
    }
    out.push(']');
    Ok(())
}

fn tagged(name: &str, text: &str, out: &mut String) -> Result<(), String> {
    shown(out, format_args!("{{\"{name}\":"))?;
    quoted(text, out)?;
    out.push('}');
    Ok(())
}

fn quoted(text: &str, out: &mut String) -> Result<(), String> {
    out.push_str(&serde_json::to_string(text).map_err(|e| e.to_string())?);
    Ok(())
}

fn infinite(value: f64) -> String {
    match (value.is_nan(), value > 0.0) {
        (true, _) => "NaN".into(),
        (false, true) => "Infinity".into(),
        (false, false) => "-Infinity".into(),
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Bson, DateTime, RawDocumentBuf, doc, oid::ObjectId};

    #[test]
    fn every_value_has_a_text() {
        let id = ObjectId::parse_str("0123456789abcdef01234567").unwrap();
        let nested = doc! {
            "s": "a \"b\"", "n": [1_i32, 2_i64, 1.0, f64::NAN], "id": id, "no": Bson::Null,
            "at": DateTime::from_millis(1), "d": { "yes": true },
        };
        let shown = |value: Bson| {
            let document = RawDocumentBuf::try_from(&doc! { "v": value }).unwrap();
            let mut out = String::new();
            super::write(document.get("v").unwrap().unwrap(), &mut out).unwrap();
            out
        };
        assert_eq!(
            shown(nested.into()),
            "{\"s\":\"a \\\"b\\\"\",\"n\":[1,2,1.0,{\"$numberDouble\":\"NaN\"}],\
             \"id\":{\"$oid\":\"0123456789abcdef01234567\"},\"no\":null,\
             \"at\":{\"$date\":\"1970-01-01T00:00:00.001Z\"},\"d\":{\"yes\":true}}"
        );
        assert_eq!(shown(id.into()), "0123456789abcdef01234567");
        assert_eq!(shown("plain".into()), "plain");
        assert_eq!(shown(Bson::Decimal128("1.50".parse().unwrap())), "1.50");
        assert_eq!(shown(7.into()), "7");
    }
}
