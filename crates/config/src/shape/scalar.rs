//! Scalars by a schema: what YAML takes them for, what the field wants, and whether they fit.

use super::wording::describe;
use super::{At, Reader, is_free};
use crate::formats::{Format, shown};
use crate::places::Text;
use crate::schema::words;
use crate::yaml::{Kind, Node};
use saphyr_parser::ScalarStyle;
use serde_json::{Number, Value};

/// What a scalar is once its variables are replaced.
pub(super) struct Plain {
    pub text: String,
    /// By the rules of YAML, unless it is quoted.
    pub resolved: Resolved,
    /// It holds what must not be shown.
    pub private: bool,
    pub raw: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Resolved {
    Null,
    Bool(bool),
    Number(Number),
    Text,
}

impl Reader<'_> {
    pub(super) fn scalar(&mut self, node: &Node, scalar: Plain, schema: &Value, at: &At) -> Value {
        if is_free(schema) {
            return match scalar.resolved {
                Resolved::Null => Value::Null,
                Resolved::Bool(value) => Value::Bool(value),
                Resolved::Number(number) => Value::Number(number),
                Resolved::Text => Value::String(scalar.text),
            };
        }
        if let Some(known) = words(schema) {
            if !known.contains(&scalar.text.as_str()) {
                self.unknown_word(node, &scalar, &known, at);
            }
            return Value::String(scalar.text);
        }
        let types: Vec<&str> = match &schema["type"] {
            Value::String(only) => vec![only],
            Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if types.contains(&"boolean")
            && let Resolved::Bool(value) = scalar.resolved
        {
            if schema.get("const").is_some_and(|only| *only != value) {
                let hint = "write `true`, or remove it".to_owned();
                self.mistake(node.extent, format!("`{}` cannot be {value}", at.name), Some(hint));
            }
            return Value::Bool(value);
        }
        if types.contains(&"string") {
            let text_wanted = types == ["string"];
            let typed = scalar.resolved != Resolved::Text && !scalar.private;
            let format = schema["format"].as_str().and_then(Format::named);
            let own_words = format.is_some_and(|f| {
                matches!(f.name, "duration_text" | "delimiter" | "moment") && !is_bool(&scalar)
            });
            if !text_wanted || !typed || own_words {
                self.check_format(node, &scalar, schema, at);
                return Value::String(scalar.text);
            }
            let hint = format!("put it in quotes: \"{}\"", shown(&scalar.text));
            return self.wrong_type(node, &scalar, schema, at, Some(hint));
        }
        if types.contains(&"integer")
            && let Some(number) = integer(&scalar.text)
            && scalar.resolved != Resolved::Null
            && (scalar.private || !scalar_is_quoted(&node.kind))
        {
            self.check_range(node, &scalar, schema, at);
            return Value::Number(number);
        }
        if types.contains(&"number") {
            let number = match &scalar.resolved {
                Resolved::Number(number) => Some(number.clone()),
                _ if scalar.private => float(&scalar.text),
                _ => None,
            };
            if let Some(number) = number {
                self.check_range(node, &scalar, schema, at);
                return Value::Number(number);
            }
        }
        self.wrong_type(node, &scalar, schema, at, None)
    }

    pub(super) fn check_range(&mut self, node: &Node, scalar: &Plain, schema: &Value, at: &At) {
        let Ok(number) = scalar.text.replace('_', "").parse::<f64>() else { return };
        let (least, most) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
        let message = match (least, most) {
            (Some(least), Some(most)) if !(least..=most).contains(&number) => {
                format!("`{}` must be between {least} and {most}", at.name)
            }
            (Some(least), None) if number < least => {
                format!("`{}` must be at least {least}", at.name)
            }
            (None, Some(most)) if number > most => format!("`{}` must be at most {most}", at.name),
            _ => return,
        };
        self.mistake(node.extent, message, None);
    }

    pub(super) fn check_format(&mut self, node: &Node, scalar: &Plain, schema: &Value, at: &At) {
        let Some(format) = schema["format"].as_str().and_then(Format::named) else { return };
        match (format.check)(&scalar.text) {
            Err(_) if scalar.private => {
                let message =
                    format!("what `{}` gives cannot be `{}`", shown(&scalar.raw), at.name);
                self.mistake(node.extent, message, Some(format.wanted.into()));
            }
            Err(wrong) => {
                let hint = wrong.hint.or_else(|| describe(schema));
                self.mistake(node.extent, wrong.message, hint);
            }
            Ok(()) => {
                let zero = !scalar.text.chars().any(|c| ('1'..='9').contains(&c));
                if schema["x-positive"] == true && zero {
                    let message = format!("`{}` must be more than 0", at.name);
                    self.mistake(node.extent, message, None);
                }
            }
        }
    }
}

impl Plain {
    /// The value as a message may quote it.
    pub(super) fn shown(&self) -> String {
        shown(if self.private { &self.raw } else { &self.text })
    }

    /// What was found, as a message says it.
    pub(super) fn found(&self) -> String {
        match &self.resolved {
            _ if self.private => format!("what `{}` gives", self.shown()),
            Resolved::Null => "nothing".into(),
            Resolved::Bool(value) => format!("`{value}`"),
            Resolved::Number(_) => format!("the number `{}`", self.shown()),
            Resolved::Text => format!("the text `{}`", self.shown()),
        }
    }
}

pub(super) fn plain(text: Text) -> Plain {
    let private = text.expanded.is_some();
    let value = text.expanded.map_or_else(|| text.raw.clone(), |expanded| expanded.text);
    let resolved = match text.style {
        ScalarStyle::Plain => resolve_plain(&value),
        // Inside `{ }` a variable cannot do without quotes.
        _ if private && text.raw.starts_with("${") => match resolve_plain(&value) {
            Resolved::Bool(value) => Resolved::Bool(value),
            _ => Resolved::Text,
        },
        _ => Resolved::Text,
    };
    Plain { text: value, resolved, private, raw: text.raw }
}

/// What YAML's core schema takes a plain scalar for.
pub(super) fn resolve_plain(text: &str) -> Resolved {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Resolved::Null,
        "true" | "True" | "TRUE" => return Resolved::Bool(true),
        "false" | "False" | "FALSE" => return Resolved::Bool(false),
        _ => {}
    }
    let number = match text.get(..2) {
        Some("0x") => i64::from_str_radix(&text[2..], 16).ok().map(Number::from),
        Some("0o") => i64::from_str_radix(&text[2..], 8).ok().map(Number::from),
        _ if text.contains('_') => None,
        _ => integer(text).or_else(|| float(text)),
    };
    number.map_or(Resolved::Text, Resolved::Number)
}

pub(super) fn integer(text: &str) -> Option<Number> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let plain = text.strip_prefix('+').unwrap_or(text).replace('_', "");
    let signed = plain.parse::<i64>().ok().map(Number::from);
    signed.or_else(|| plain.parse::<u64>().ok().map(Number::from))
}

pub(super) fn float(text: &str) -> Option<Number> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    // `inf`, `nan` and `1_0.0` are texts, and JSON has no infinity.
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') || digits == "." {
        return None;
    }
    text.parse().ok().and_then(Number::from_f64)
}

pub(super) fn is_bool(scalar: &Plain) -> bool {
    matches!(scalar.resolved, Resolved::Bool(_))
}

pub(super) fn scalar_is_quoted(kind: &Kind) -> bool {
    matches!(kind, Kind::Scalar(scalar) if scalar.style != ScalarStyle::Plain)
}
