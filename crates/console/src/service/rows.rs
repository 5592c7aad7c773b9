//! Columns as JSON objects, and bytes as text, for people and for `--json`.

use crate::{Error, Result};
use arrow_array::RecordBatch;
use arrow_cast::display::array_value_to_string;
use millstream_core::Encoder;
use millstream_formats::json::JsonEncoder;
use serde_json::Value;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// One object a row, as the JSON format of a pipeline writes it.
pub fn objects(batch: &RecordBatch) -> Result<Vec<Value>> {
    let mut encoder = JsonEncoder::new(batch.schema())?;
    let encoded = encoder.encode(batch)?;
    let mut refused = encoded.rejected.iter().map(|(row, _)| *row as usize).peekable();
    (0..encoded.len())
        .map(|row| {
            if refused.next_if_eq(&row).is_some() {
                return value_by_value(&batch.slice(row, 1));
            }
            serde_json::from_slice(encoded.row(row))
                .map_err(|error| Error::failure(format!("a row cannot be shown: {error}")))
        })
        .collect()
}

/// A row with a value that JSON does not have (NaN, a year beyond 9999): that value as text.
fn value_by_value(row: &RecordBatch) -> Result<Value> {
    let mut object = serde_json::Map::new();
    for (at, field) in row.schema().fields().iter().enumerate() {
        let alone = row.project(&[at]).map_err(anyhow::Error::from)?;
        let encoded = JsonEncoder::new(alone.schema())?.encode(&alone)?;
        let value = match encoded.rejected.is_empty() {
            true => serde_json::from_slice::<Value>(encoded.row(0))
                .ok()
                .and_then(|mut value| value.get_mut(field.name()).map(Value::take))
                .unwrap_or(Value::Null),
            false => {
                let text = array_value_to_string(alone.column(0), 0);
                Value::String(text.map_err(anyhow::Error::from)?)
            }
        };
        object.insert(field.name().clone(), value);
    }
    Ok(Value::Object(object))
}

/// As text where it is text, in base64 where it is not; the flag says which. What would steer a
/// terminal is not text.
pub fn text(bytes: &[u8]) -> (String, bool) {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(steers) => (text.to_owned(), false),
        _ => (base64(bytes), true),
    }
}

/// RFC 4648, with padding.
pub fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            match place <= chunk.len() {
                true => {
                    let index = (word >> (18 - 6 * place)) & 63;
                    text.push(char::from(BASE64[index as usize]));
                }
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        assert_eq!(text(b"plain"), ("plain".to_owned(), false));
        assert_eq!(text(&[0, 0, 0, 0, 1]), ("AAAAAAE=".to_owned(), true));
        assert_eq!(text(&[0xff]), ("/w==".to_owned(), true));
        assert!(text(b"\x1b[31mred").1);
    }

    #[test]
    fn a_value_that_json_has_not_is_shown_as_text() {
        let numbers = arrow_array::Float64Array::from(vec![1.5, f64::NAN]);
        let names = arrow_array::StringArray::from(vec!["a", "b"]);
        let batch = RecordBatch::try_from_iter([
            ("n", std::sync::Arc::new(numbers) as arrow_array::ArrayRef),
            ("name", std::sync::Arc::new(names) as arrow_array::ArrayRef),
        ])
        .unwrap();
        let rows = objects(&batch).unwrap();
        assert_eq!(rows[0], serde_json::json!({"n": 1.5, "name": "a"}));
        assert_eq!(rows[1], serde_json::json!({"n": "NaN", "name": "b"}));
    }
}
