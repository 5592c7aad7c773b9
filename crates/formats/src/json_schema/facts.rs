//! What a schema says of a value's type, with `$ref` followed and `allOf` merged.

use millstream_schemas::json::{Documents, Place};
use serde_json::Value;

/// How many `$ref` and `allOf` may lie between a schema and what it says.
const STEPS_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

/// What is left unsaid is empty.
#[derive(Debug, Default)]
pub(super) struct Facts<'a> {
    pub types: Option<Vec<Type>>,
    pub properties: Vec<(&'a str, Place<'a>)>,
    pub required: Vec<&'a str>,
    /// The schema of properties that have no name here.
    pub additional: Option<Place<'a>>,
    /// Properties without a name here are not allowed.
    pub closed: bool,
    pub patterns: Vec<Place<'a>>,
    pub items: Option<Place<'a>>,
    /// Items have types by their place.
    pub tuple: bool,
    /// `enum` and `const`.
    pub listed: Option<Vec<&'a Value>>,
    pub format: Option<&'a str>,
    pub base64: bool,
    pub decimal: Option<(u8, i8)>,
    pub default: Option<&'a Value>,
    /// Each `oneOf` and `anyOf`.
    pub alternatives: Vec<Vec<Place<'a>>>,
    /// OpenAPI's word beside a type.
    pub nullable: bool,
    /// `false`, or what cannot be told: no type fits.
    pub untold: bool,
    /// The schemas that references led to.
    pub through: Vec<&'a Value>,
}

impl Type {
    fn parse(word: &str) -> Option<Type> {
        Some(match word {
            "null" => Type::Null,
            "boolean" => Type::Boolean,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "string" => Type::String,
            "array" => Type::Array,
            "object" => Type::Object,
            _ => return None,
        })
    }

    pub fn of(value: &Value) -> Type {
        match value {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Boolean,
            Value::Number(number) if is_integral(number) => Type::Integer,
            Value::Number(_) => Type::Number,
            Value::String(_) => Type::String,
            Value::Array(_) => Type::Array,
            Value::Object(_) => Type::Object,
        }
    }
}

fn is_integral(number: &serde_json::Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|value| value.fract() == 0.0)
}

impl<'a> Facts<'a> {
    pub fn of(documents: &'a Documents, place: Place<'a>) -> Result<Facts<'a>, String> {
        let mut facts = Facts::default();
        let mut steps = 0;
        facts.collect(documents, place, &mut steps)?;
        if facts.types.is_none() {
            facts.types = facts.meant();
        }
        Ok(facts)
    }

    /// Whether a value may be null.
    pub fn allows_null(&self) -> bool {
        let typed = self.types.as_ref().is_none_or(|types| types.contains(&Type::Null));
        let listed = self.listed.as_ref().is_none_or(|values| values.iter().any(|v| v.is_null()));
        (typed && listed) || self.nullable
    }

    fn collect(
        &mut self,
        documents: &'a Documents,
        place: Place<'a>,
        steps: &mut usize,
    ) -> Result<(), String> {
        *steps += 1;
        if *steps > STEPS_MAX {
            self.untold = true;
            return Ok(());
        }
        let object = match place.value {
            Value::Object(object) => object,
            Value::Bool(true) => return Ok(()),
            Value::Bool(false) => {
                self.untold = true;
                return Ok(());
            }
            other => return Err(format!("`{other}` is no schema: it is an object, true or false")),
        };
        let word = |key: &str| object.get(key).and_then(Value::as_str);
        if let Some(reference) = word("$ref").or_else(|| word("$dynamicRef")) {
            // The schema of schemas says nothing of a value's type.
            if !reference.contains("//json-schema.org/draft") {
                let target = documents.resolve(place, reference)?;
                if self.through.iter().any(|seen| std::ptr::eq(*seen, target.value)) {
                    self.untold = true;
                    return Ok(());
                }
                self.through.push(target.value);
                self.collect(documents, target, steps)?;
            }
        }
        self.types(object.get("type"))?;
        self.values(object);
        if let Some(Value::Object(properties)) = object.get("properties") {
            for (name, part) in properties {
                // The first that says what a property is counts; the others narrow it.
                if !self.properties.iter().any(|(known, _)| known == name) {
                    self.properties.push((name, documents.enter(place, part)));
                }
            }
        }
        if let Some(Value::Array(names)) = object.get("required") {
            self.required.extend(names.iter().filter_map(Value::as_str));
        }
        match object.get("additionalProperties") {
            Some(Value::Bool(false)) => self.closed = true,
            Some(part @ Value::Object(_)) => self.additional = Some(documents.enter(place, part)),
            _ => {}
        }
        if let Some(Value::Object(patterns)) = object.get("patternProperties") {
            self.patterns.extend(patterns.values().map(|part| documents.enter(place, part)));
        }
        match object.get("items") {
            Some(Value::Array(_)) => self.tuple = true,
            Some(part) => self.items = self.items.or(Some(documents.enter(place, part))),
            None => {}
        }
        self.tuple |= object.contains_key("prefixItems");
        for key in ["oneOf", "anyOf"] {
            if let Some(Value::Array(parts)) = object.get(key) {
                let parts = parts.iter().map(|part| documents.enter(place, part)).collect();
                self.alternatives.push(parts);
            }
        }
        if let Some(Value::Array(parts)) = object.get("allOf") {
            for part in parts {
                self.collect(documents, documents.enter(place, part), steps)?;
            }
        }
        Ok(())
    }

    fn types(&mut self, said: Option<&Value>) -> Result<(), String> {
        let words: Vec<&Value> = match said {
            None => return Ok(()),
            Some(Value::Array(words)) => words.iter().collect(),
            Some(word) => vec![word],
        };
        let mut types = Vec::new();
        for word in words {
            match word.as_str().and_then(Type::parse) {
                Some(known) => types.push(known),
                None => return Err(format!("`{word}` is no type of JSON Schema")),
            }
        }
        self.types = Some(match &self.types {
            None => types,
            Some(known) => both(known, &types),
        });
        Ok(())
    }

    fn values(&mut self, object: &'a serde_json::Map<String, Value>) {
        let word = |key: &str| object.get(key).and_then(Value::as_str);
        let listed: Option<Vec<&Value>> = match (object.get("const"), object.get("enum")) {
            (Some(value), _) => Some(vec![value]),
            (None, Some(Value::Array(values))) => Some(values.iter().collect()),
            _ => None,
        };
        if let Some(listed) = listed {
            self.listed = Some(match self.listed.take() {
                None => listed,
                Some(known) => {
                    known.into_iter().filter(|v| listed.iter().any(|l| equal(v, l))).collect()
                }
            });
        }
        self.format = self.format.or(word("format"));
        self.base64 |= word("contentEncoding").is_some_and(|e| e.eq_ignore_ascii_case("base64"))
            || word("connect.type") == Some("bytes");
        let number = |key: &str| object.get(key).and_then(Value::as_u64);
        if let (Some(precision @ 1..=76), Some(scale)) = (number("precision"), number("scale"))
            && scale <= precision
        {
            self.decimal = self.decimal.or(Some((precision as u8, scale as i8)));
        }
        self.default = self.default.or(object.get("default"));
        self.nullable |= object.get("nullable") == Some(&Value::Bool(true));
    }

    /// The types that the other keywords are about, where there is no `type`.
    fn meant(&self) -> Option<Vec<Type>> {
        if let Some(values) = &self.listed {
            let mut types = Vec::new();
            for value in values {
                let found = Type::of(value);
                if !types.contains(&found) {
                    types.push(found);
                }
            }
            return Some(types);
        }
        if !self.properties.is_empty() {
            return Some(vec![Type::Object]);
        }
        None
    }
}

/// Whether two values are the same to JSON Schema: 1 is 1.0.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            a.as_f64() == b.as_f64()
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        (a, b) => a == b,
    }
}

/// The types that both allow; every integer is a number.
fn both(a: &[Type], b: &[Type]) -> Vec<Type> {
    let allows = |types: &[Type], wanted: Type| {
        types.contains(&wanted) || (wanted == Type::Integer && types.contains(&Type::Number))
    };
    let mut types: Vec<Type> = a.iter().copied().filter(|t| allows(b, *t)).collect();
    types.extend(b.iter().copied().filter(|t| allows(a, *t) && !a.contains(t)));
    types
}
