//! Reads a YAML tree by a schema: collects every mistake with its place, replaces variables, and
//! gives the JSON value that serde makes the options of.
//!
//! A value is given even where there are mistakes, as far as it could be read, so that the checks
//! across fields find theirs in the same run. Values that come from the environment or from
//! secrets never appear in a message.

mod scalar;
mod wording;

use crate::env::{Env, Expanded, expand};
use crate::formats::{Format, nearest, shown};
use crate::mistake::Found;
use crate::places::{Places, Spot, Text, character};
use crate::schema::{choices, resolve, words};
use crate::source::{Extent, Source};
use crate::yaml::{Entry, Kind, Node, Scalar};
use saphyr_parser::ScalarStyle;
use scalar::{Resolved, plain, resolve_plain};
use serde_json::{Map, Value, json};
use wording::{article, describe, first_line, kind_name, list, one_of, one_of_hint};

pub(crate) struct Reader<'a> {
    pub schema: &'a Value,
    pub env: &'a dyn Env,
    pub source: &'a mut Source,
    pub places: Places,
    pub found: Vec<Found>,
}

/// Where the reader is.
#[derive(Clone)]
struct At {
    path: String,
    /// What messages call the value: its field's name.
    name: String,
    key: Option<Extent>,
}

impl Reader<'_> {
    pub fn read(&mut self, root: &Node) -> Value {
        let at = At { path: String::new(), name: "the file".into(), key: None };
        let schema = self.schema;
        self.value(root, schema, &at)
    }

    /// Notes a mistake at a value.
    pub fn at_value(&mut self, path: &str, message: impl Into<String>, hint: Option<String>) {
        let extent = self.places.value(path);
        self.found.push(Found { extent, message: message.into(), hint });
    }

    /// Keeps a value out of every excerpt.
    pub fn hide(&mut self, path: &str) {
        let extent = self.places.value(path);
        self.source.hide(extent);
    }

    /// Notes a mistake at a field's name.
    pub fn at_key(&mut self, path: &str, message: impl Into<String>, hint: Option<String>) {
        let extent = self.places.key(path);
        self.found.push(Found { extent, message: message.into(), hint });
    }

    fn value(&mut self, node: &Node, schema: &Value, at: &At) -> Value {
        let before = self.found.len();
        let text = match &node.kind {
            Kind::Scalar(scalar) => {
                let expanded = self.expanded(node, scalar);
                Some(Text { raw: scalar.text.clone(), style: scalar.style, expanded })
            }
            _ => None,
        };
        self.places.insert(&at.path, Spot { key: at.key, value: node.extent, text: text.clone() });
        if self.found.len() > before {
            // What a variable would have given is not known, so nothing more is said of it.
            return Value::Null;
        }

        let schema = resolve(self.schema_root(), schema);
        if let Some(text) = &text
            && self.is_missing(text)
            && !is_free(schema)
        {
            // `{ v: struct<a int, b int> }` ends a value at its first comma.
            let hint = match at.name.contains(['>', ')']) {
                true => Some("put the value before it in quotes: a comma ends it here".to_owned()),
                false => describe(schema).map(|what| format!("give it one: {what}")),
            };
            self.mistake(
                at.key.unwrap_or(node.extent),
                format!("`{}` has no value", at.name),
                hint,
            );
            return Value::Null;
        }
        if schema.get("x-secret").is_some() {
            return self.secret(node, at, text);
        }
        if words(schema).is_none()
            && let Some(choices) = choices(schema)
        {
            return self.choice(node, schema, choices, at, text);
        }
        match (&node.kind, text) {
            (Kind::Scalar(_), Some(text)) => self.scalar(node, plain(text), schema, at),
            (Kind::List(items), _) => self.list(node, items, schema, at),
            (Kind::Map(entries), _) => self.map(node, entries, schema, at),
            (Kind::Scalar(_), None) => Value::Null,
        }
    }

    /// Replaces the variables of a scalar and notes those that cannot be.
    fn expanded(&mut self, node: &Node, scalar: &Scalar) -> Option<Expanded> {
        let (expanded, wrong) = expand(&scalar.text, self.env)?;
        let text = Text { raw: scalar.text.clone(), style: scalar.style, expanded: None };
        for wrong in wrong {
            let place = character(self.source, node.extent, &text, wrong.at);
            let extent = Extent {
                line: place.line,
                column: place.column,
                end_line: place.line,
                end_column: place.column + wrong.len as u32,
            };
            self.mistake(extent, wrong.message, Some(wrong.hint));
        }
        Some(expanded)
    }

    fn secret(&mut self, node: &Node, at: &At, text: Option<Text>) -> Value {
        if let Some(text) = text {
            if text.expanded.is_none() {
                self.source.hide(node.extent);
            }
            return Value::String(plain(text).text);
        }
        let file = match &node.kind {
            Kind::Map(entries) => match entries.as_slice() {
                [Entry { key, value, .. }] if key == "file" => Some(value),
                _ => None,
            },
            _ => None,
        };
        let Some(Kind::Scalar(scalar)) = file.map(|file| &file.kind) else {
            self.source.hide(node.extent);
            let hint = "write `${VAR}`, or `{ file: path }` with a file that holds it";
            self.mistake(node.extent, format!("`{}` must be a secret", at.name), Some(hint.into()));
            return Value::Null;
        };
        let path = self.expanded(node, scalar).map_or(scalar.text.clone(), |e| e.text);
        let path = self.source.beside(path.as_ref());
        match self.env.read(&path) {
            Ok(text) => {
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text);
                match path.to_str() {
                    Some(file) => json!({ "text": text, "file": file }),
                    None => Value::String(text.to_owned()),
                }
            }
            Err(error) => {
                let message =
                    format!("the file of the secret `{}` cannot be read: {error}", at.name);
                self.mistake(node.extent, message, None);
                Value::Null
            }
        }
    }

    fn choice(
        &mut self,
        node: &Node,
        schema: &Value,
        choices: &[Value],
        at: &At,
        text: Option<Text>,
    ) -> Value {
        let root = self.schema_root();
        let choices: Vec<&Value> = choices.iter().map(|choice| resolve(root, choice)).collect();
        if choices.iter().all(|choice| choice.get("x-chosen-by").is_some()) {
            return match &node.kind {
                Kind::Map(entries) => self.chosen(node, entries, &choices, at),
                _ => self.wrong_kind(node, "an object", schema, at, text.map(plain)),
            };
        }
        if let Some(short) = schema.get("x-shorthand").and_then(Value::as_array) {
            return self.tagged(node, short, &choices, at, text);
        }
        let kind = match &node.kind {
            Kind::Scalar(_) => "string",
            Kind::List(_) => "array",
            Kind::Map(_) => "object",
        };
        match choices.iter().find(|choice| choice["type"] == kind) {
            Some(choice) => self.value(node, choice, at),
            None => {
                let known: Vec<&str> = choices.iter().map(|choice| kind_name(choice)).collect();
                self.wrong_kind(node, &known.join(" or "), schema, at, text.map(plain))
            }
        }
    }

    /// One of several objects, told apart by a field that only it has.
    fn chosen(&mut self, node: &Node, entries: &[Entry], choices: &[&Value], at: &At) -> Value {
        let by: Vec<&str> = choices.iter().filter_map(|c| c["x-chosen-by"].as_str()).collect();
        let given: Vec<&Entry> = entries.iter().filter(|e| by.contains(&e.key.as_str())).collect();
        let quoted: Vec<String> = by.iter().map(|name| format!("`{name}`")).collect();
        let chosen = match given.as_slice() {
            [] => {
                let near = entries.iter().find_map(|e| nearest(&e.key, by.iter().copied()));
                if near.is_none() {
                    let (message, what) = (one_of(at, &quoted), one_of_hint(choices));
                    let extent = at.key.unwrap_or(first_line(node));
                    self.mistake(extent, message, what);
                }
                near
            }
            [only] => Some(only.key.as_str()),
            [first, others @ ..] => {
                for other in others {
                    let message = format!("`{}` and `{}` exclude each other", first.key, other.key);
                    let hint = format!("keep one of them: {}", article(&at.name, &quoted));
                    self.mistake(other.key_extent, message, Some(hint));
                }
                Some(first.key.as_str())
            }
        };
        // Without a choice each field is read by the first object that has it.
        let index = by.iter().position(|name| chosen == Some(*name));
        let excused = |key: &str| match index {
            None => by.contains(&key),
            Some(index) => given.len() != 1 && by[index] == key,
        };
        let mut fields = Map::new();
        for entry in entries {
            let owner = match index {
                Some(index) => Some(choices[index]).filter(|c| has_field(c, &entry.key)),
                None => choices.iter().find(|c| has_field(c, &entry.key)).copied(),
            };
            if let Some(owner) = owner {
                let value = self.field(entry, &owner["properties"][&entry.key], at);
                fields.insert(entry.key.clone(), value);
                continue;
            }
            if given.iter().any(|other| other.key == entry.key) {
                continue;
            }
            let elsewhere = choices.iter().position(|c| has_field(c, &entry.key));
            match (chosen, elsewhere) {
                (Some(chosen), Some(other)) if given.len() == 1 => {
                    let message = format!("`{}` does not go with `{chosen}`", entry.key);
                    let hint = format!("remove it: it goes with `{}`", by[other]);
                    self.mistake(entry.key_extent, message, Some(hint));
                }
                (_, Some(_)) => {}
                _ => {
                    let known: Vec<&str> = match index {
                        Some(index) => field_names(choices[index]),
                        None => choices.iter().flat_map(|c| field_names(c)).collect(),
                    };
                    self.unknown_field(entry, &known, choices, at);
                }
            }
        }
        let required = match index {
            Some(index) => choices[index],
            None => choices[0],
        };
        let in_all = |name: &str| choices.iter().all(|c| requires(c, name));
        for name in required_names(required) {
            let asked = index.is_some() || in_all(name);
            if asked && !excused(name) && !entries.iter().any(|entry| entry.key == name) {
                self.missing(node, name, &required["properties"][name], entries, at);
            }
        }
        Value::Object(fields)
    }

    /// A word, or an object with that word as its only field and options in it.
    fn tagged(
        &mut self,
        node: &Node,
        short: &[Value],
        choices: &[&Value],
        at: &At,
        text: Option<Text>,
    ) -> Value {
        let known: Vec<&str> = choices.iter().flat_map(|choice| field_names(choice)).collect();
        match (&node.kind, text) {
            (Kind::Scalar(_), Some(text)) => {
                let word = plain(text);
                if short.iter().any(|short| *short == word.text) {
                    return serde_json::json!({ word.text: {} });
                }
                if known.contains(&word.text.as_str()) {
                    let message = format!("`{}` needs its options", word.text);
                    let hint = format!("write `{}: {{ {}: {{ … }} }}`", at.name, word.text);
                    self.mistake(node.extent, message, Some(hint));
                } else {
                    self.unknown_word(node, &word, &known, at);
                }
                Value::Null
            }
            (Kind::Map(entries), _) => {
                let hint = || Some(format!("known are {}", list(&known)));
                let Some(first) = entries.first() else {
                    self.mistake(node.extent, format!("`{}` is empty", at.name), hint());
                    return Value::Null;
                };
                for more in &entries[1..] {
                    let hint = format!("options of `{0}` go inside it: `{0}: {{ … }}`", first.key);
                    let message = format!("`{}` has two kinds", at.name);
                    self.mistake(more.key_extent, message, Some(hint));
                }
                let Some(choice) = choices.iter().find(|choice| has_field(choice, &first.key))
                else {
                    self.unknown_field(first, &known, choices, at);
                    return Value::Null;
                };
                let value = self.field(first, &choice["properties"][&first.key], at);
                serde_json::json!({ first.key.as_str(): value })
            }
            _ => self.wrong_kind(node, &format!("one of {}", list(&known)), &Value::Null, at, None),
        }
    }

    fn map(&mut self, node: &Node, entries: &[Entry], schema: &Value, at: &At) -> Value {
        if is_free(schema) {
            let free = Value::Bool(true);
            let fields = entries.iter().map(|e| (e.key.clone(), self.field(e, &free, at)));
            return Value::Object(fields.collect());
        }
        if schema["type"] != "object" {
            return self.wrong_kind(node, kind_name(schema), schema, at, None);
        }
        let rest = &schema["additionalProperties"];
        let mut fields = Map::new();
        for entry in entries {
            if has_field(schema, &entry.key) {
                let value = self.field(entry, &schema["properties"][&entry.key], at);
                fields.insert(entry.key.clone(), value);
            } else if rest.is_object() || *rest == Value::Bool(true) {
                self.check_key(entry, schema);
                fields.insert(entry.key.clone(), self.field(entry, rest, at));
            } else {
                self.unknown_field(entry, &field_names(schema), &[schema], at);
            }
        }
        for name in required_names(schema) {
            if !entries.iter().any(|entry| entry.key == name) {
                self.missing(node, name, &schema["properties"][name], entries, at);
            }
        }
        if entries.is_empty() && schema["minProperties"].as_u64().is_some_and(|min| min > 0) {
            self.mistake(node.extent, format!("`{}` is empty", at.name), describe(schema));
        }
        Value::Object(fields)
    }

    fn field(&mut self, entry: &Entry, schema: &Value, at: &At) -> Value {
        let path = format!("{}/{}", at.path, entry.key.replace('~', "~0").replace('/', "~1"));
        let at = At { path, name: shown(&entry.key), key: Some(entry.key_extent) };
        self.value(&entry.value, schema, &at)
    }

    fn list(&mut self, node: &Node, items: &[std::rc::Rc<Node>], schema: &Value, at: &At) -> Value {
        let free = Value::Bool(true);
        let of = match schema.get("items") {
            _ if is_free(schema) => &free,
            Some(items) if schema["type"] == "array" => items,
            _ => return self.wrong_kind(node, kind_name(schema), schema, at, None),
        };
        let least = schema["minItems"].as_u64().unwrap_or(0) as usize;
        let most = schema["maxItems"].as_u64().unwrap_or(u64::MAX) as usize;
        if items.len() < least || items.len() > most {
            let number = if least == most {
                format!("exactly {least} items")
            } else if items.len() < least {
                format!(
                    "at least {}",
                    if least == 1 { "one item".into() } else { least.to_string() }
                )
            } else {
                format!("at most {most} items")
            };
            let message = format!("`{}` must have {number}", at.name);
            self.mistake(at.key.unwrap_or(node.extent), message, describe(schema));
        }
        let items = items.iter().enumerate().map(|(index, item)| {
            let path = format!("{}/{index}", at.path);
            let name = format!("{}[{index}]", at.name);
            self.value(item, of, &At { path, name, key: None })
        });
        Value::Array(items.collect())
    }

    fn check_key(&mut self, entry: &Entry, schema: &Value) {
        if entry.key.trim().is_empty() {
            self.mistake(entry.key_extent, "a name is empty".into(), None);
        } else if let Some(format) = schema["propertyNames"]["format"].as_str()
            && let Some(format) = Format::named(format)
            && let Err(wrong) = (format.check)(&entry.key)
        {
            self.mistake(entry.key_extent, wrong.message, wrong.hint);
        }
    }

    /// A value is missing when nothing was written; what a variable gives is always a value.
    fn is_missing(&self, text: &Text) -> bool {
        text.expanded.is_none()
            && text.style == ScalarStyle::Plain
            && resolve_plain(&text.raw) == Resolved::Null
    }
}

impl<'a> Reader<'a> {
    fn schema_root(&self) -> &'a Value {
        self.schema
    }
}

/// Any value is right here.
fn is_free(schema: &Value) -> bool {
    match schema {
        Value::Bool(_) => true,
        Value::Object(object) => {
            !["type", "enum", "oneOf", "anyOf", "const"].iter().any(|key| object.contains_key(*key))
        }
        _ => true,
    }
}

fn has_field(schema: &Value, name: &str) -> bool {
    schema["properties"].get(name).is_some()
}

fn field_names(schema: &Value) -> Vec<&str> {
    schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
}

fn required_names(schema: &Value) -> impl Iterator<Item = &str> {
    schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn requires(schema: &Value, name: &str) -> bool {
    required_names(schema).any(|required| required == name)
}
