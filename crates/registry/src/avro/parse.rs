//! Reads Avro schemas from JSON text, with the schemas they reference, and says what is wrong.

use super::{Field, Id, Kind, Named, Node, Schema, defaults, split};
use crate::json;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// How many types may nest inside each other, counted through names and references.
const HEIGHT_MAX: usize = 128;

/// Attributes that Avro defines for a type; all others are kept as properties.
const TYPE_WORDS: [&str; 10] =
    ["type", "name", "namespace", "doc", "aliases", "fields", "symbols", "size", "items", "values"];
const FIELD_WORDS: [&str; 6] = ["name", "type", "doc", "default", "order", "aliases"];

/// Reads the referenced schemas first, dependencies before those that use them, then the schema.
#[derive(Debug, Default)]
pub struct Parser {
    nodes: Vec<Node>,
    names: HashMap<String, Id>,
    primitives: HashMap<&'static str, Id>,
    /// Where in the schema the parser is, for messages: record and field names.
    path: Vec<String>,
    external: bool,
}

impl Parser {
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a schema whose types the next ones may use by name.
    pub fn reference(&mut self, text: &str) -> Result<(), String> {
        self.external = true;
        self.read(text).map(drop)
    }

    /// Reads the schema itself. `defaults` says whether every default must fit its field.
    pub fn finish(mut self, text: &str, defaults: bool) -> Result<Schema, String> {
        self.external = false;
        let root = self.read(text)?;
        let schema = Schema { nodes: self.nodes, root };
        if defaults {
            defaults::check(&schema)?;
        }
        Ok(schema)
    }

    fn read(&mut self, text: &str) -> Result<Id, String> {
        let value = match json::parse(text) {
            Ok(value) => value,
            // A bare word names a primitive type, as Avro's own tools allow.
            Err(_) if Kind::primitive(text.trim()).is_some() => Value::from(text.trim()),
            Err(error) => return Err(error),
        };
        self.path.clear();
        self.schema(&value, "").map_err(|error| match self.path.is_empty() {
            true => error,
            false => format!("{}: {error}", self.path.join(".")),
        })
    }

    /// On an error the path is left where it happened.
    fn schema(&mut self, value: &Value, space: &str) -> Result<Id, String> {
        match value {
            Value::String(word) => self.word(word, space),
            Value::Array(branches) => self.union(branches, space),
            Value::Object(object) => self.object(object, space),
            other => Err(format!(
                "a schema is a type's name, an object or an array of branches, not `{}`",
                excerpt(other)
            )),
        }
    }

    fn word(&mut self, word: &str, space: &str) -> Result<Id, String> {
        if let Some(kind) = Kind::primitive(word) {
            return Ok(self.primitive(kind));
        }
        let inside = qualify(word, space);
        if let Some(id) = self.names.get(&inside).or_else(|| self.names.get(word)) {
            return Ok(*id);
        }
        Err(match word {
            "record" | "error" | "enum" | "fixed" | "array" | "map" => {
                format!("`{word}` needs an object: {{\"type\": \"{word}\", …}}")
            }
            _ => format!(
                "`{inside}` is neither a type of Avro nor a name defined before this point or in a \
                 reference"
            ),
        })
    }

    fn primitive(&mut self, kind: Kind) -> Id {
        let word = kind.word();
        if let Some(id) = self.primitives.get(word) {
            return *id;
        }
        let id = self.push(kind, Map::new(), 1);
        self.primitives.insert(word, id);
        id
    }

    fn object(&mut self, object: &Map<String, Value>, space: &str) -> Result<Id, String> {
        let word = match object.get("type") {
            Some(Value::String(word)) => word.as_str(),
            // `{"type": {…}}` is the inner schema.
            Some(inner @ (Value::Object(_) | Value::Array(_))) => return self.schema(inner, space),
            Some(other) => {
                return Err(format!("`type` must be a name or a schema, not `{}`", excerpt(other)));
            }
            None => return Err(format!("`type` is missing in `{}`", excerpt_of(object))),
        };
        match word {
            "record" | "error" => self.record(object, space, word == "error"),
            "enum" => self.enumeration(object, space),
            "fixed" => self.fixed(object, space),
            "array" | "map" => {
                let part = if word == "array" { "items" } else { "values" };
                let inner = object
                    .get(part)
                    .ok_or_else(|| format!("`{part}` is missing in this {word}"))?;
                let inner = self.schema(inner, space)?;
                let height = self.above(inner)?;
                let kind = if word == "array" { Kind::Array(inner) } else { Kind::Map(inner) };
                Ok(self.push(kind, props(object, &TYPE_WORDS), height))
            }
            _ => match Kind::primitive(word) {
                Some(kind) => {
                    let props = props(object, &TYPE_WORDS);
                    match props.is_empty() {
                        true => Ok(self.primitive(kind)),
                        false => Ok(self.push(kind, props, 1)),
                    }
                }
                None => self.word(word, space),
            },
        }
    }

    fn union(&mut self, branches: &[Value], space: &str) -> Result<Id, String> {
        if branches.is_empty() {
            return Err("a union needs at least one branch".into());
        }
        let mut ids = Vec::with_capacity(branches.len());
        let mut seen = HashSet::new();
        let mut height = 0;
        for branch in branches {
            let id = self.schema(branch, space)?;
            let kind = &self.nodes[id].kind;
            if let Kind::Union(_) = kind {
                return Err("a union cannot hold a union directly".into());
            }
            let key = kind.named().map_or(kind.word(), |named| &named.name).to_owned();
            if !seen.insert(key.clone()) {
                return Err(format!("the union has `{key}` twice"));
            }
            height = height.max(self.above(id)?);
            ids.push(id);
        }
        Ok(self.push(Kind::Union(ids), Map::new(), height))
    }

    fn record(
        &mut self,
        object: &Map<String, Value>,
        space: &str,
        error: bool,
    ) -> Result<Id, String> {
        let named = self.named(object, space)?;
        self.path.push(named.name.clone());
        let Some(Value::Array(list)) = object.get("fields") else {
            return Err("`fields` must be an array of fields".into());
        };
        let space = split(&named.name).0.to_owned();
        let props = props(object, &TYPE_WORDS);
        let name = named.name.clone();
        // Height 0 while its fields are read: a use of it in there is recursion, not nesting.
        let id = self.push(Kind::Record { named, error, fields: Vec::new() }, props, 0);
        self.names.insert(name, id);
        let mut fields: Vec<Field> = Vec::with_capacity(list.len());
        let mut seen = HashSet::new();
        let mut height = 1;
        for field in list {
            let field = self.field(field, &space)?;
            if !seen.insert(field.name.clone()) {
                return Err(format!("the field `{}` is there twice", field.name));
            }
            height = height.max(self.above(field.node)?);
            fields.push(field);
        }
        if let Kind::Record { fields: slot, .. } = &mut self.nodes[id].kind {
            *slot = fields;
        }
        self.nodes[id].height = height;
        self.path.pop();
        Ok(id)
    }

    fn field(&mut self, field: &Value, space: &str) -> Result<Field, String> {
        let Value::Object(object) = field else {
            return Err(format!("a field must be an object, not `{}`", excerpt(field)));
        };
        let name = text(object, "name")?.ok_or("a field has no `name`")?;
        check_name(&name)?;
        self.path.push(name.clone());
        let Some(schema) = object.get("type") else {
            return Err("the field has no `type`".into());
        };
        let node = self.schema(schema, space)?;
        let order = text(object, "order")?;
        if let Some(order) = order.as_deref()
            && !["ascending", "descending", "ignore"].contains(&order)
        {
            return Err(format!("`order` is ascending, descending or ignore, not `{order}`"));
        }
        let field = Field {
            name,
            node,
            doc: text(object, "doc")?,
            default: object.get("default").cloned(),
            order: order.filter(|order| order != "ascending"),
            aliases: texts(object, "aliases")?.unwrap_or_default(),
            props: props(object, &FIELD_WORDS),
        };
        self.path.pop();
        Ok(field)
    }

    fn enumeration(&mut self, object: &Map<String, Value>, space: &str) -> Result<Id, String> {
        let named = self.named(object, space)?;
        self.path.push(named.name.clone());
        let symbols =
            texts(object, "symbols")?.ok_or("`symbols` must be an array of names in an enum")?;
        let mut seen = HashSet::new();
        for symbol in &symbols {
            check_name(symbol)?;
            if !seen.insert(symbol) {
                return Err(format!("the symbol `{symbol}` is there twice"));
            }
        }
        let default = text(object, "default")?;
        if let Some(default) = &default
            && !symbols.contains(default)
        {
            return Err(format!("the default `{default}` is not one of the symbols"));
        }
        let mut props = props(object, &TYPE_WORDS);
        props.shift_remove("default");
        let name = named.name.clone();
        let id = self.push(Kind::Enum { named, symbols, default }, props, 1);
        self.names.insert(name, id);
        self.path.pop();
        Ok(id)
    }

    fn fixed(&mut self, object: &Map<String, Value>, space: &str) -> Result<Id, String> {
        let named = self.named(object, space)?;
        self.path.push(named.name.clone());
        let size = object
            .get("size")
            .and_then(Value::as_u64)
            .filter(|size| *size <= i32::MAX as u64)
            .ok_or("`size` must be a number of bytes from 0 to 2147483647 in a fixed")?;
        let props = props(object, &TYPE_WORDS);
        let name = named.name.clone();
        let id = self.push(Kind::Fixed { named, size }, props, 1);
        self.names.insert(name, id);
        self.path.pop();
        Ok(id)
    }

    fn named(&self, object: &Map<String, Value>, space: &str) -> Result<Named, String> {
        let word = text(object, "type")?.unwrap_or_default();
        let name = text(object, "name")?.ok_or_else(|| format!("this {word} has no `name`"))?;
        let space = text(object, "namespace")?.unwrap_or_else(|| space.to_owned());
        let name = qualify(&name, &space);
        let (space, short) = split(&name);
        check_name(short)?;
        if !space.is_empty() {
            space.split('.').try_for_each(check_name)?;
        }
        if Kind::primitive(short).is_some() && space.is_empty() {
            return Err(format!("`{short}` is a type of Avro and cannot be a name"));
        }
        if self.names.contains_key(&name) {
            return Err(format!("`{name}` is defined twice"));
        }
        let aliases = texts(object, "aliases")?.unwrap_or_default();
        let aliases = aliases.iter().map(|alias| qualify(alias, space)).collect();
        let doc = text(object, "doc")?;
        Ok(Named { name, aliases, doc })
    }

    /// The height of a type that holds this one.
    fn above(&self, id: Id) -> Result<usize, String> {
        let height = self.nodes[id].height + 1;
        match height > HEIGHT_MAX {
            true => Err(format!("types nest more than {HEIGHT_MAX} deep")),
            false => Ok(height),
        }
    }

    fn push(&mut self, kind: Kind, props: Map<String, Value>, height: usize) -> Id {
        self.nodes.push(Node { kind, props, height, external: self.external });
        self.nodes.len() - 1
    }
}

/// A name with a dot is whole; a leading dot says "no namespace".
fn qualify(name: &str, space: &str) -> String {
    match name.strip_prefix('.') {
        Some(bare) => bare.to_owned(),
        None if name.contains('.') || space.is_empty() => name.to_owned(),
        None => format!("{space}.{name}"),
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if first && chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a name: letters, digits and _, not starting with a digit",
        name.chars().take(64).collect::<String>()
    ))
}

fn text(object: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!("`{key}` must be a string, not `{}`", excerpt(other))),
    }
}

fn texts(object: &Map<String, Value>, key: &str) -> Result<Option<Vec<String>>, String> {
    let Some(value) = object.get(key).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let list = value.as_array().and_then(|list| {
        list.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    });
    match list {
        Some(list) => Ok(Some(list)),
        None => Err(format!("`{key}` must be an array of strings, not `{}`", excerpt(value))),
    }
}

fn props(object: &Map<String, Value>, known: &[&str]) -> Map<String, Value> {
    let unknown = object.iter().filter(|(key, _)| !known.contains(&key.as_str()));
    unknown.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn excerpt(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn excerpt_of(object: &Map<String, Value>) -> String {
    excerpt(&Value::Object(object.clone()))
}
