//! The sentences about mistakes that the reader finds.

use super::scalar::{Plain, integer};
use super::{At, Reader};
use crate::formats::{nearest, shown};
use crate::mistake::Found;
use crate::schema::resolve;
use crate::source::Extent;
use crate::yaml::{Entry, Kind, Node};
use serde_json::Value;

impl Reader<'_> {
    pub(super) fn unknown_field(
        &mut self,
        entry: &Entry,
        known: &[&str],
        owners: &[&Value],
        at: &At,
    ) {
        let near = nearest(&entry.key, known.iter().copied());
        // A misspelled secret is still one.
        let root = self.schema_root();
        let secret = owners.iter().any(|owner| {
            let field = near.map(|near| resolve(root, &owner["properties"][near]));
            field.is_some_and(|field| field.get("x-secret").is_some())
        });
        if secret {
            self.source.hide(entry.value.extent);
        }
        let place = if at.path.is_empty() { String::new() } else { format!(" in `{}`", at.name) };
        let message = format!("unknown field `{}`{place}", shown(&entry.key));
        let hint = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "there are no options here".into(),
            None => format!("known fields are {}", list(known)),
        };
        self.mistake(entry.key_extent, message, Some(hint));
    }

    pub(super) fn unknown_word(&mut self, node: &Node, word: &Plain, known: &[&str], at: &At) {
        let near = nearest(&word.text, known.iter().copied()).filter(|_| !word.private);
        let hint = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known are {}", list(known)),
        };
        let message = format!("`{}` is not a known `{}`", word.shown(), at.name);
        self.mistake(node.extent, message, Some(hint));
    }

    pub(super) fn missing(
        &mut self,
        node: &Node,
        name: &str,
        schema: &Value,
        entries: &[Entry],
        at: &At,
    ) {
        // A misspelled field is reported as such, once.
        if entries.iter().any(|entry| nearest(&entry.key, [name]).is_some()) {
            return;
        }
        let place = if at.path.is_empty() { String::new() } else { format!(" in `{}`", at.name) };
        let what = describe(schema).or_else(|| describe(resolve(self.schema_root(), schema)));
        let hint = what.map(|what| format!("add `{name}: …`: {what}"));
        let extent = at.key.unwrap_or(first_line(node));
        self.mistake(extent, format!("`{name}` is missing{place}"), hint);
    }

    pub(super) fn wrong_type(
        &mut self,
        node: &Node,
        scalar: &Plain,
        schema: &Value,
        at: &At,
        hint: Option<String>,
    ) -> Value {
        let wanted = kind_name(schema);
        let hint = hint.or_else(|| match (wanted, scalar.text.to_lowercase().as_str()) {
            ("true or false", "yes" | "on") => Some("write `true`".into()),
            ("true or false", "true" | "false") => Some("remove the quotes".into()),
            ("true or false", "no" | "off") => Some("write `false`".into()),
            ("a list", _) if !scalar.private => Some(format!("write `[{}]`", scalar.shown())),
            ("a whole number", text) if integer(text).is_some() => Some("remove the quotes".into()),
            _ => describe(schema),
        });
        self.mistake_of_kind(node, wanted, at, &scalar.found(), hint)
    }

    pub(super) fn wrong_kind(
        &mut self,
        node: &Node,
        wanted: &str,
        schema: &Value,
        at: &At,
        found: Option<Plain>,
    ) -> Value {
        let found = match (&node.kind, found) {
            (_, Some(scalar)) => scalar.found(),
            (Kind::List(_), _) => "a list".into(),
            _ => "an object".into(),
        };
        self.mistake_of_kind(node, wanted, at, &found, describe(schema))
    }

    pub(super) fn mistake_of_kind(
        &mut self,
        node: &Node,
        wanted: &str,
        at: &At,
        found: &str,
        hint: Option<String>,
    ) -> Value {
        let name = if at.path.is_empty() { at.name.clone() } else { format!("`{}`", at.name) };
        let extent = match &node.kind {
            Kind::Scalar(_) => node.extent,
            _ => at.key.unwrap_or(first_line(node)),
        };
        self.mistake(extent, format!("{name} must be {wanted}, not {found}"), hint);
        Value::Null
    }

    pub(super) fn mistake(&mut self, extent: Extent, message: String, hint: Option<String>) {
        self.found.push(Found { extent, message, hint });
    }
}

pub(super) fn kind_name(schema: &Value) -> &'static str {
    let first = match &schema["type"] {
        Value::Array(types) => types.first().and_then(Value::as_str),
        Value::String(only) => Some(only.as_str()),
        _ => None,
    };
    match (schema["format"].as_str(), first) {
        (Some("duration_text"), _) => "a duration",
        (Some("size"), _) => "a size",
        (Some("ratio"), _) => "a ratio",
        (Some("moment"), _) => "a time",
        (Some("column_type"), _) => "the name of a type",
        (_, Some("integer")) => "a whole number",
        (_, Some("number")) => "a number",
        (_, Some("boolean")) => "true or false",
        (_, Some("array")) => "a list",
        (_, Some("object")) => "an object",
        _ => "a text",
    }
}

/// The first sentence of a field's help, as it stands inside another.
pub(super) fn describe(schema: &Value) -> Option<String> {
    let help = schema["description"].as_str()?.replace('\n', " ");
    let sentence = help.split_once(". ").map_or(help.as_str(), |(first, _)| first);
    let sentence = sentence.trim_end_matches('.');
    let first = sentence.chars().next()?;
    Some(format!("{}{}", first.to_lowercase(), &sentence[first.len_utf8()..]))
}

pub(super) fn list(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
}

pub(super) fn one_of(at: &At, quoted: &[String]) -> String {
    format!("`{}` needs {}", at.name, quoted.join(" or "))
}

pub(super) fn one_of_hint(choices: &[&Value]) -> Option<String> {
    let each = choices.iter().filter_map(|choice| {
        let by = choice["x-chosen-by"].as_str()?;
        let what = describe(&choice["properties"][by])?;
        Some(format!("`{by}` ({what})"))
    });
    Some(format!("add one of {}", each.collect::<Vec<_>>().join(", ")))
}

pub(super) fn article(name: &str, quoted: &[String]) -> String {
    let name = name.split('[').next().unwrap_or(name);
    format!("`{name}` takes exactly one of {}", quoted.join(", "))
}

/// An object or list is marked at its first line.
pub(super) fn first_line(node: &Node) -> Extent {
    match &node.kind {
        Kind::Map(entries) => entries.first().map_or(node.extent, |entry| entry.key_extent),
        _ => node.extent,
    }
}
