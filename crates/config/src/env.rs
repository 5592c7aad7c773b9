//! `${VAR}` and `${VAR:-default}` in values, and where each character of the result came from.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;

/// The largest file that a secret is read from.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// What a file may ask of its surroundings; injected, so that tests have their own.
pub trait Env {
    fn var(&self, name: &str) -> Option<String>;

    /// The content of a file that holds a secret.
    fn read(&self, path: &Path) -> io::Result<String> {
        let mut text = String::new();
        std::fs::File::open(path)?.take(SECRET_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    }
}

/// The environment of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnv;

/// A text whose variables were replaced.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expanded {
    pub text: String,
    pub pieces: Vec<Piece>,
}

/// One replacement, in characters: where it stood, and where its value stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    raw: (usize, usize),
    out: (usize, usize),
}

/// A `${…}` that cannot be replaced; `at` and `len` in characters.
pub(crate) struct Unexpanded {
    pub at: usize,
    pub len: usize,
    pub message: String,
    pub hint: String,
}

/// Replaces the variables of a text. `None` when there is none.
pub(crate) fn expand(raw: &str, env: &dyn Env) -> Option<(Expanded, Vec<Unexpanded>)> {
    if !raw.contains("${") {
        return None;
    }
    let mut out = Expanded::default();
    let mut wrong = Vec::new();
    let (mut at, mut out_at) = (0, 0);
    let mut rest = raw;
    while !rest.is_empty() {
        let (taken, value) = if rest.starts_with("$${") {
            (3, "${".to_owned())
        } else if rest.starts_with("${") {
            match variable(rest, env) {
                Ok(found) => found,
                Err((taken, message, hint)) => {
                    let len = rest[..taken].chars().count();
                    wrong.push(Unexpanded { at, len, message, hint });
                    (taken, String::new())
                }
            }
        } else {
            // Up to the next `$`, as it stands.
            let next = rest.char_indices().skip(1).find(|(_, c)| *c == '$');
            let end = next.map_or(rest.len(), |(index, _)| index);
            let chars = rest[..end].chars().count();
            out.text.push_str(&rest[..end]);
            (at, out_at, rest) = (at + chars, out_at + chars, &rest[end..]);
            continue;
        };
        let (raw_len, out_len) = (rest[..taken].chars().count(), value.chars().count());
        out.pieces.push(Piece { raw: (at, at + raw_len), out: (out_at, out_at + out_len) });
        out.text.push_str(&value);
        (at, out_at, rest) = (at + raw_len, out_at + out_len, &rest[taken..]);
    }
    Some((out, wrong))
}

impl Expanded {
    /// Where a character of the text stood before its variables were replaced.
    pub fn raw_of(&self, out: usize) -> usize {
        let mut shift: isize = 0;
        for piece in &self.pieces {
            if out < piece.out.0 {
                break;
            }
            if out < piece.out.1 {
                return piece.raw.0;
            }
            shift = piece.raw.1 as isize - piece.out.1 as isize;
        }
        out.saturating_add_signed(shift)
    }
}

/// The variable that a text begins with: the bytes it takes, and its value.
fn variable(text: &str, env: &dyn Env) -> Result<(usize, String), (usize, String, String)> {
    let line_end = text.find('\n').unwrap_or(text.len());
    let Some(end) = text.find('}') else {
        let hint = "close it with `}`, or write `$${` for the characters themselves".to_owned();
        return Err((line_end, "a `${` is never closed".into(), hint));
    };
    let inner = &text[2..end];
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !valid {
        let message = format!("`{}` is not the name of a variable", name.escape_debug());
        let hint = "write `${NAME}` or `${NAME:-default}`, or `$${` for the characters themselves";
        return Err(((end + 1).min(line_end), message, hint.into()));
    }
    // As in a shell, `:-` also stands in for a variable that is empty.
    match (env.var(name), default) {
        (Some(value), None) => Ok((end + 1, value)),
        (Some(value), Some(_)) if !value.is_empty() => Ok((end + 1, value)),
        (_, Some(default)) => Ok((end + 1, default.to_owned())),
        (None, None) => Err((
            end + 1,
            format!("the environment variable `{name}` is not set"),
            format!("set it, or give a default: `${{{name}:-default}}`"),
        )),
    }
}

impl Env for ProcessEnv {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

impl Env for HashMap<String, String> {
    fn var(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }
}

impl<F: Fn(&str) -> Option<String>> Env for F {
    fn var(&self, name: &str) -> Option<String> {
        self(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("alpha".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced() {
        for (raw, wanted) in [
            ("${A}", "alpha"),
            ("x${A}y${A}", "xalphayalpha"),
            ("${B:-b c}", "b c"),
            ("${A:-b}", "alpha"),
            ("${EMPTY}|${EMPTY:-e}", "|e"),
            ("$${A} $A ${B:-}", "${A} $A "),
            ("$$${A}", "$${A}"),
        ] {
            let (expanded, wrong) = expand(raw, &env).unwrap();
            assert!(wrong.is_empty(), "{raw}");
            assert_eq!(expanded.text, wanted, "{raw}");
        }
        assert!(expand("$A $$ } {", &env).is_none());
    }

    #[test]
    fn a_character_knows_where_it_stood() {
        let (expanded, _) = expand("é${A}z", &env).unwrap();
        assert_eq!(expanded.text, "éalphaz");
        assert_eq!([0, 1, 5, 6, 7].map(|out| expanded.raw_of(out)), [0, 1, 1, 5, 6]);
    }

    #[test]
    fn what_cannot_be_replaced_is_named() {
        for (raw, at, len) in [("x ${B}", 2, 4), ("${A", 0, 3), ("${1}", 0, 4), ("${A\nb}", 0, 3)] {
            let (_, wrong) = expand(raw, &env).unwrap();
            assert_eq!((wrong[0].at, wrong[0].len), (at, len), "{raw}");
        }
    }
}
