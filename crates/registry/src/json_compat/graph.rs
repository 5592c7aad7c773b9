//! A JSON Schema taken apart into nodes of one kind each, as Confluent's comparison sees it: what
//! says several things at once (a type and an `enum`, say) is `allOf` them.

use millstream_schemas::json::{Documents, Place};
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

pub(crate) type Id = usize;

/// A schema may have no more parts.
const NODES_MAX: usize = 100_000;
/// What one pattern may take when it is compiled.
const PATTERN_BYTES_MAX: usize = 1 << 16;

#[derive(Debug)]
pub(crate) struct Schema {
    pub(super) nodes: Vec<Node>,
    pub(super) root: Id,
}

#[derive(Debug)]
pub(super) struct Node {
    pub kind: Kind,
    pub has_default: bool,
}

#[derive(Debug)]
pub(super) enum Kind {
    Any,
    Never,
    Null,
    Boolean,
    Number(Number),
    Text(Text),
    Enum(Vec<Value>),
    Const(Value),
    Object(Box<Object>),
    Array(Box<Array>),
    Combined(Criterion, Vec<Id>),
    Not(Id),
    Reference(Id),
    /// A reference that leads nowhere.
    Unknown(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Criterion {
    All,
    AnyOf,
    OneOf,
}

#[derive(Debug)]
pub(super) struct Number {
    pub integer: bool,
    pub maximum: Option<f64>,
    pub minimum: Option<f64>,
    pub exclusive_maximum: Option<f64>,
    pub exclusive_minimum: Option<f64>,
    pub multiple_of: Option<f64>,
}

#[derive(Debug)]
pub(super) struct Text {
    pub max_length: Option<f64>,
    pub min_length: Option<f64>,
    pub pattern: Option<String>,
}

/// What goes beyond the properties or items that a schema names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    Anything,
    Nothing,
    Of(Id),
}

#[derive(Debug)]
pub(super) struct Object {
    pub properties: BTreeMap<String, Id>,
    pub required: BTreeSet<String>,
    /// Those of its patterns that can be read.
    pub patterns: Vec<(Regex, Id)>,
    pub rest: Rest,
    pub max_properties: Option<f64>,
    pub min_properties: Option<f64>,
    /// The properties that must come with one.
    pub dependent: BTreeMap<String, BTreeSet<String>>,
    pub dependent_schemas: BTreeMap<String, Id>,
}

#[derive(Debug)]
pub(super) struct Array {
    /// The schema of every item.
    pub items: Option<Id>,
    /// Those of the first ones.
    pub tuple: Vec<Id>,
    pub rest: Rest,
    pub max_items: Option<f64>,
    pub min_items: Option<f64>,
    pub unique: bool,
    pub max_contains: Option<f64>,
    pub min_contains: Option<f64>,
}

impl Schema {
    pub fn parse(text: &str, references: &[(String, Arc<str>)]) -> Result<Schema, String> {
        let documents = Documents::parse(text, references)?;
        let mut builder = Builder {
            documents: &documents,
            nodes: Vec::new(),
            targets: HashMap::new(),
            due: Vec::new(),
        };
        let root = builder.node(documents.root())?;
        // What references lead to is taken apart from here, so that no chain of them recurses.
        while let Some((at, place)) = builder.due.pop() {
            let target = builder.node(place)?;
            builder.nodes[at].kind = Kind::Reference(target);
        }
        Ok(Schema { nodes: builder.nodes, root })
    }

    /// The node that references lead to.
    pub(super) fn follow(&self, mut id: Id) -> Id {
        // A reference to itself has no end; a few steps are enough for any other.
        for _ in 0..64 {
            match self.nodes[id].kind {
                Kind::Reference(target) => id = target,
                _ => return id,
            }
        }
        id
    }
}

struct Builder<'a> {
    documents: &'a Documents,
    nodes: Vec<Node>,
    /// The node that stands for each schema that a reference leads to.
    targets: HashMap<*const Value, Id>,
    due: Vec<(Id, Place<'a>)>,
}

const COMBINED: [(&str, Criterion); 3] =
    [("allOf", Criterion::All), ("anyOf", Criterion::AnyOf), ("oneOf", Criterion::OneOf)];

/// Keywords that say which type is meant where there is no `type`.
const OBJECT_WORDS: [&str; 9] = [
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "maxProperties",
    "minProperties",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
];
const ARRAY_WORDS: [&str; 6] =
    ["items", "additionalItems", "prefixItems", "maxItems", "minItems", "uniqueItems"];
const TEXT_WORDS: [&str; 3] = ["maxLength", "minLength", "pattern"];
const NUMBER_WORDS: [&str; 5] =
    ["maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum", "multipleOf"];

impl<'a> Builder<'a> {
    /// The depth is bounded by that of JSON.
    fn node(&mut self, place: Place<'a>) -> Result<Id, String> {
        let object = match place.value {
            Value::Object(object) => object,
            Value::Bool(true) => return self.add(Kind::Any, false),
            Value::Bool(false) => return self.add(Kind::Never, false),
            other => return Err(format!("`{other}` is no schema: it is an object, true or false")),
        };
        let has_default = object.contains_key("default");
        if let Some(Value::String(reference)) = object.get("$ref") {
            let Ok(target) = self.documents.resolve(place, reference) else {
                return self.add(Kind::Unknown(reference.clone()), has_default);
            };
            let address: *const Value = target.value;
            let stand_in = match self.targets.get(&address) {
                Some(known) => *known,
                None => {
                    let at = self.add(Kind::Any, false)?;
                    self.targets.insert(address, at);
                    self.due.push((at, target));
                    at
                }
            };
            return self.add(Kind::Reference(stand_in), has_default);
        }
        let mut parts = Vec::new();
        self.typed(place, object, &mut parts)?;
        if let Some(Value::Array(values)) = object.get("enum") {
            parts.push(self.add(Kind::Enum(values.clone()), false)?);
        }
        if let Some(value) = object.get("const") {
            parts.push(self.add(Kind::Const(value.clone()), false)?);
        }
        if let Some(not) = object.get("not") {
            let not = self.part(place, not)?;
            parts.push(self.add(Kind::Not(not), false)?);
        }
        for (word, criterion) in COMBINED {
            let Some(Value::Array(values)) = object.get(word) else { continue };
            let mut ids = Vec::new();
            for (at, value) in values.iter().enumerate() {
                if !values[..at].contains(value) {
                    ids.push(self.part(place, value)?);
                }
            }
            parts.push(self.add(Kind::Combined(criterion, ids), false)?);
        }
        match parts.as_slice() {
            [] => self.add(Kind::Any, has_default),
            [one] => {
                self.nodes[*one].has_default |= has_default;
                Ok(*one)
            }
            _ => self.add(Kind::Combined(Criterion::All, parts), has_default),
        }
    }

    fn add(&mut self, kind: Kind, has_default: bool) -> Result<Id, String> {
        if self.nodes.len() == NODES_MAX {
            return Err(format!("it has more than {NODES_MAX} parts"));
        }
        self.nodes.push(Node { kind, has_default });
        Ok(self.nodes.len() - 1)
    }

    fn part(&mut self, place: Place<'a>, value: &'a Value) -> Result<Id, String> {
        self.node(self.documents.enter(place, value))
    }

    /// A node for what is said of types.
    fn typed(
        &mut self,
        place: Place<'a>,
        object: &'a Map<String, Value>,
        parts: &mut Vec<Id>,
    ) -> Result<(), String> {
        match object.get("type") {
            Some(Value::String(word)) => parts.push(self.of_type(place, object, word)?),
            Some(Value::Array(words)) => {
                let mut ids = Vec::new();
                for word in words.iter().filter_map(Value::as_str) {
                    ids.push(self.of_type(place, object, word)?);
                }
                match ids.as_slice() {
                    [] => {}
                    [one] => parts.push(*one),
                    _ => parts.push(self.add(Kind::Combined(Criterion::AnyOf, ids), false)?),
                }
            }
            _ => {
                let says = |words: &[&str]| words.iter().any(|word| object.contains_key(*word));
                for (word, keywords) in [
                    ("string", &TEXT_WORDS[..]),
                    ("array", &ARRAY_WORDS[..]),
                    ("object", &OBJECT_WORDS[..]),
                    ("number", &NUMBER_WORDS[..]),
                ] {
                    if says(keywords) {
                        parts.push(self.of_type(place, object, word)?);
                    }
                }
            }
        }
        Ok(())
    }

    fn of_type(
        &mut self,
        place: Place<'a>,
        object: &'a Map<String, Value>,
        word: &str,
    ) -> Result<Id, String> {
        let number = |key: &str| object.get(key).and_then(Value::as_f64);
        let kind = match word {
            "null" => Kind::Null,
            "boolean" => Kind::Boolean,
            "integer" | "number" => Kind::Number(Number {
                integer: word == "integer",
                maximum: number("maximum"),
                minimum: number("minimum"),
                exclusive_maximum: number("exclusiveMaximum"),
                exclusive_minimum: number("exclusiveMinimum"),
                multiple_of: number("multipleOf"),
            }),
            "string" => Kind::Text(Text {
                max_length: number("maxLength"),
                min_length: number("minLength"),
                pattern: object.get("pattern").and_then(Value::as_str).map(str::to_owned),
            }),
            "object" => Kind::Object(Box::new(self.object(place, object)?)),
            "array" => Kind::Array(Box::new(self.array(place, object)?)),
            other => return Err(format!("`{other}` is no type of JSON Schema")),
        };
        self.add(kind, false)
    }

    fn object(
        &mut self,
        place: Place<'a>,
        object: &'a Map<String, Value>,
    ) -> Result<Object, String> {
        let number = |key: &str| object.get(key).and_then(Value::as_f64);
        let members = |key: &str| object.get(key).and_then(Value::as_object).into_iter().flatten();
        let names = |value: &'a Value| -> BTreeSet<String> {
            let names = value.as_array().into_iter().flatten().filter_map(Value::as_str);
            names.map(str::to_owned).collect()
        };
        let further = |key: &str, other: &str| object.get(key).or_else(|| object.get(other));
        let mut properties = BTreeMap::new();
        for (name, value) in members("properties") {
            properties.insert(name.clone(), self.part(place, value)?);
        }
        let mut patterns = Vec::new();
        for (pattern, value) in members("patternProperties") {
            let id = self.part(place, value)?;
            let pattern = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build();
            patterns.extend(pattern.ok().map(|pattern| (pattern, id)));
        }
        let (mut dependent, mut dependent_schemas) = (BTreeMap::new(), BTreeMap::new());
        for key in ["dependencies", "dependentRequired", "dependentSchemas"] {
            for (name, value) in members(key) {
                match value {
                    Value::Array(_) => drop(dependent.insert(name.clone(), names(value))),
                    _ => drop(dependent_schemas.insert(name.clone(), self.part(place, value)?)),
                }
            }
        }
        Ok(Object {
            properties,
            required: object.get("required").map(names).unwrap_or_default(),
            patterns,
            rest: self.rest(place, further("additionalProperties", "unevaluatedProperties"))?,
            max_properties: number("maxProperties"),
            min_properties: number("minProperties"),
            dependent,
            dependent_schemas,
        })
    }

    fn array(&mut self, place: Place<'a>, object: &'a Map<String, Value>) -> Result<Array, String> {
        let number = |key: &str| object.get(key).and_then(Value::as_f64);
        let items = object.get("items");
        let (tuple, items, rest) = match (object.get("prefixItems"), items) {
            (Some(Value::Array(tuple)), rest) => (tuple.as_slice(), None, rest),
            (_, Some(Value::Array(tuple))) => {
                (tuple.as_slice(), None, object.get("additionalItems"))
            }
            (_, None) => (&[][..], None, object.get("additionalItems")),
            (_, items) => (&[][..], items, None),
        };
        let rest = rest.or_else(|| object.get("unevaluatedItems"));
        let items = match self.rest(place, items)? {
            Rest::Anything => None,
            Rest::Nothing => Some(self.add(Kind::Never, false)?),
            Rest::Of(items) => Some(items),
        };
        Ok(Array {
            items,
            tuple: tuple.iter().map(|part| self.part(place, part)).collect::<Result<_, _>>()?,
            rest: self.rest(place, rest)?,
            max_items: number("maxItems"),
            min_items: number("minItems"),
            unique: object.get("uniqueItems") == Some(&Value::Bool(true)),
            max_contains: number("maxContains"),
            min_contains: number("minContains"),
        })
    }

    fn rest(&mut self, place: Place<'a>, said: Option<&'a Value>) -> Result<Rest, String> {
        Ok(match said {
            None | Some(Value::Bool(true)) => Rest::Anything,
            Some(Value::Bool(false)) => Rest::Nothing,
            Some(Value::Object(empty)) if empty.is_empty() => Rest::Anything,
            Some(part) => Rest::Of(self.part(place, part)?),
        })
    }
}
