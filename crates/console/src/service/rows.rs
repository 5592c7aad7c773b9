//! Columns as JSON objects, and bytes as text, for people and for `--json`.

use crate::{Error, Result};
use arrow_array::RecordBatch;
use millstream_core::Encoder;
use millstream_formats::json::JsonEncoder;
use serde_json::Value;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// One object a row, as the JSON format of a pipeline writes it.
pub fn objects(batch: &RecordBatch) -> Result<Vec<Value>> {
    let mut encoder = JsonEncoder::new(batch.schema())?;
    let encoded = encoder.encode(batch)?;
    if let Some((_, why)) = encoded.rejected.first() {
        return Err(Error::failure(format!("a row cannot be shown: {why}")));
    }
    (0..encoded.len())
        .map(|row| {
            serde_json::from_slice(encoded.row(row))
                .map_err(|error| Error::failure(format!("a row cannot be shown: {error}")))
        })
        .collect()
}

/// As text where it is text, in base64 where it is not; the flag says which.
pub fn text(bytes: &[u8]) -> (String, bool) {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => (text.to_owned(), false),
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
    }
}
