//! JSON text from outside, with its depth bounded before anything recurses over it.

use serde_json::Value;

/// How deep arrays and objects may nest. The parser's own bound is 128.
pub const DEPTH_MAX: usize = 120;

/// Parses JSON; the error is a sentence.
pub fn parse(text: &str) -> Result<Value, String> {
    if deeper_than(text.as_bytes(), DEPTH_MAX) {
        return Err(format!("it nests more than {DEPTH_MAX} levels of arrays and objects"));
    }
    serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))
}

pub fn deeper_than(text: &[u8], max: usize) -> bool {
    let mut depth = 0usize;
    let mut quoted = false;
    let mut escaped = false;
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > max {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// With the keys of every object in order.
pub fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut entries: Vec<_> = object.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            entries.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings_only() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(&nested(DEPTH_MAX)).is_ok());
        assert!(parse(&nested(DEPTH_MAX + 1)).unwrap_err().contains("nests"));
        assert!(parse(&format!("\"\\\"{}\"", "[".repeat(500))).is_ok());
        assert!(parse("[1,").unwrap_err().contains("not JSON"));
    }
}
