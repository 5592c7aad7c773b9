//! Avro schemas with their names resolved: what the planner, the reader and the writer walk.
//!
//! Types live in one arena and refer to each other by index, so that a recursive schema is a graph
//! and not an endless tree. The rules are those of the Avro 1.12 specification; a logical type
//! that does not fit the type it stands on is ignored, as the specification asks.

use serde_json::Value;
use std::collections::HashMap;

/// How deep a schema may nest.
const DEPTH_MAX: usize = 64;

/// A type within its [`Schema`].
pub(crate) type Id = usize;

#[derive(Debug, Clone)]
pub(crate) struct Schema {
    nodes: Vec<Node>,
    pub root: Id,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub kind: Type,
    pub logical: Option<Logical>,
    /// The fewest bytes that a value takes.
    pub bytes_min: usize,
}

#[derive(Debug, Clone)]
pub(crate) enum Type {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Array(Id),
    Map(Id),
    Union(Vec<Id>),
    Record(Names, Vec<Field>),
    Enum(Names, Vec<String>, Option<usize>),
    Fixed(Names, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logical {
    Date,
    TimeMillis,
    TimeMicros,
    TimestampMillis,
    TimestampMicros,
    TimestampNanos,
    LocalTimestampMillis,
    LocalTimestampMicros,
    LocalTimestampNanos,
    Decimal { precision: u8, scale: i8 },
    Uuid,
    Duration,
}

/// The full name of a named type, and the other names it answers to.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub full: String,
    pub aliases: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub name: String,
    pub aliases: Vec<String>,
    pub type_id: Id,
    pub default: Option<Value>,
}

impl Schema {
    /// Parses a schema; what it refers to must be given before it, dependencies first. The error
    /// is a sentence.
    pub fn parse<'a>(
        text: &str,
        references: impl IntoIterator<Item = &'a str>,
    ) -> Result<Schema, String> {
        let mut parser = Parser { nodes: Vec::new(), names: HashMap::new() };
        for reference in references {
            parser.text(reference)?;
        }
        let root = parser.text(text)?;
        let mut schema = Schema { nodes: parser.nodes, root };
        schema.measure();
        Ok(schema)
    }

    #[inline]
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    #[inline]
    pub fn kind(&self, id: Id) -> &Type {
        &self.nodes[id].kind
    }

    /// The fields of the record at the root.
    pub fn root_fields(&self) -> Result<&[Field], String> {
        match self.kind(self.root) {
            Type::Record(_, fields) => Ok(fields),
            _ => Err(format!("the schema is {}, but rows need a record", self.describe(self.root))),
        }
    }

    /// A type in a few words, for messages.
    pub fn describe(&self, id: Id) -> String {
        match self.kind(id) {
            Type::Record(names, _) => format!("record {}", names.full),
            Type::Enum(names, ..) => format!("enum {}", names.full),
            Type::Fixed(names, size) => format!("fixed {} of {size} bytes", names.full),
            Type::Array(items) => format!("array of {}", self.brief(*items)),
            Type::Map(values) => format!("map of {}", self.brief(*values)),
            Type::Union(branches) => {
                let branches: Vec<_> = branches.iter().map(|b| self.brief(*b)).collect();
                format!("union of {}", branches.join(", "))
            }
            other => other.word().to_owned(),
        }
    }

    fn brief(&self, id: Id) -> String {
        match self.kind(id) {
            kind @ (Type::Array(_) | Type::Map(_) | Type::Union(_)) => kind.word().to_owned(),
            _ => self.describe(id),
        }
    }

    /// For a union of one type with null: the place of null and the type.
    pub fn optional(&self, id: Id) -> Option<(usize, Id)> {
        let Type::Union(branches) = self.kind(id) else { return None };
        let [a, b] = branches.as_slice() else { return None };
        match (self.kind(*a), self.kind(*b)) {
            (Type::Null, Type::Null) => None,
            (Type::Null, _) => Some((0, *b)),
            (_, Type::Null) => Some((1, *a)),
            _ => None,
        }
    }

    /// Whether a value of this type may hold another of it.
    pub fn is_recursive(&self, id: Id) -> bool {
        let mut seen = vec![false; self.nodes.len()];
        let mut open = vec![id];
        while let Some(next) = open.pop() {
            let parts: Vec<Id> = match self.kind(next) {
                Type::Array(part) | Type::Map(part) => vec![*part],
                Type::Union(branches) => branches.clone(),
                Type::Record(_, fields) => fields.iter().map(|f| f.type_id).collect(),
                _ => Vec::new(),
            };
            for part in parts {
                if part == id {
                    return true;
                }
                if !std::mem::replace(&mut seen[part], true) {
                    open.push(part);
                }
            }
        }
        false
    }

    /// Finds `bytes_min` for every type; a recursive reference counts as nothing.
    fn measure(&mut self) {
        // From below: a pass settles one more level of nesting.
        for _ in 0..DEPTH_MAX {
            let mut changed = false;
            for id in 0..self.nodes.len() {
                let min = self.bytes_min_of(id);
                changed |= min != self.nodes[id].bytes_min;
                self.nodes[id].bytes_min = min;
            }
            if !changed {
                return;
            }
        }
    }

    fn bytes_min_of(&self, id: Id) -> usize {
        match self.kind(id) {
            Type::Null => 0,
            Type::Float => 4,
            Type::Double => 8,
            Type::Fixed(_, size) => *size,
            Type::Record(_, fields) => fields
                .iter()
                .fold(0, |sum: usize, f| sum.saturating_add(self.nodes[f.type_id].bytes_min))
                // A record that holds itself without end can have no value at all.
                .min(1 << 40),
            Type::Union(branches) => {
                1 + branches.iter().map(|b| self.nodes[*b].bytes_min).min().unwrap_or(0)
            }
            _ => 1,
        }
    }
}

impl Type {
    pub fn word(&self) -> &'static str {
        match self {
            Type::Null => "null",
            Type::Boolean => "boolean",
            Type::Int => "int",
            Type::Long => "long",
            Type::Float => "float",
            Type::Double => "double",
            Type::Bytes => "bytes",
            Type::String => "string",
            Type::Array(_) => "array",
            Type::Map(_) => "map",
            Type::Union(_) => "union",
            Type::Record(..) => "record",
            Type::Enum(..) => "enum",
            Type::Fixed(..) => "fixed",
        }
    }

    pub fn names(&self) -> Option<&Names> {
        match self {
            Type::Record(names, _) | Type::Enum(names, ..) | Type::Fixed(names, _) => Some(names),
            _ => None,
        }
    }
}

impl Names {
    /// The name without its namespace.
    pub fn short(&self) -> &str {
        last_part(&self.full)
    }

    /// Whether a reader's type by this name reads what was written under `writer`: unqualified
    /// names are compared, and the reader's aliases count.
    pub fn reads(&self, writer: &Names) -> bool {
        self.short() == writer.short()
            || self.aliases.iter().any(|a| last_part(a) == writer.short())
    }
}

fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

struct Parser {
    nodes: Vec<Node>,
    names: HashMap<String, Id>,
}

impl Parser {
    fn text(&mut self, text: &str) -> Result<Id, String> {
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            // A bare primitive name is often stored without its quotes.
            Err(_) if primitive(text.trim()).is_some() => Value::String(text.trim().into()),
            Err(error) => return Err(format!("the schema is not JSON: {error}")),
        };
        self.parse(&value, "", 0)
    }

    fn push(&mut self, kind: Type, logical: Option<Logical>) -> Id {
        self.nodes.push(Node { kind, logical, bytes_min: 0 });
        self.nodes.len() - 1
    }

    fn parse(&mut self, value: &Value, namespace: &str, depth: usize) -> Result<Id, String> {
        if depth > DEPTH_MAX {
            return Err(format!("the schema nests more than {DEPTH_MAX} deep"));
        }
        match value {
            Value::String(name) => match primitive(name) {
                Some(kind) => Ok(self.push(kind, None)),
                None => self.named(name, namespace),
            },
            Value::Array(branches) => {
                let mut ids = Vec::with_capacity(branches.len());
                for branch in branches {
                    let id = self.parse(branch, namespace, depth + 1)?;
                    if matches!(self.nodes[id].kind, Type::Union(_)) {
                        return Err("a union directly within a union".into());
                    }
                    if ids.iter().any(|other| self.same_branch(*other, id)) {
                        return Err(format!(
                            "a union has two branches of type {}",
                            self.nodes[id].kind.word()
                        ));
                    }
                    ids.push(id);
                }
                if ids.is_empty() {
                    return Err("a union has no branches".into());
                }
                Ok(self.push(Type::Union(ids), None))
            }
            Value::Object(object) => {
                let word = match object.get("type") {
                    Some(Value::String(word)) => word,
                    // `{"type": {"type": …}}`: the outer layer says nothing more.
                    Some(inner) => return self.parse(inner, namespace, depth + 1),
                    None => return Err("a type without `type`".into()),
                };
                self.object(word, object, namespace, depth)
            }
            other => Err(format!("`{other}` is not a type")),
        }
    }

    fn object(
        &mut self,
        word: &str,
        object: &serde_json::Map<String, Value>,
        namespace: &str,
        depth: usize,
    ) -> Result<Id, String> {
        match word {
            "array" => {
                let items = object.get("items").ok_or("an array without `items`")?;
                let items = self.parse(items, namespace, depth + 1)?;
                Ok(self.push(Type::Array(items), None))
            }
            "map" => {
                let values = object.get("values").ok_or("a map without `values`")?;
                let values = self.parse(values, namespace, depth + 1)?;
                Ok(self.push(Type::Map(values), None))
            }
            "record" | "error" => {
                let (names, inner) = read_names(object, namespace)?;
                let full = names.full.clone();
                // Registered before its fields, which may refer to it.
                let id = self.push(Type::Record(names.clone(), Vec::new()), None);
                self.register(&full, id)?;
                let Some(Value::Array(list)) = object.get("fields") else {
                    return Err(format!("record {full} without `fields`"));
                };
                let mut fields: Vec<Field> = Vec::with_capacity(list.len());
                for field in list {
                    let name = field["name"]
                        .as_str()
                        .ok_or_else(|| format!("a field of {full} without a name"))?;
                    let type_value = field
                        .get("type")
                        .ok_or_else(|| format!("field {full}.{name} without a type"))?;
                    if fields.iter().any(|f| f.name == name) {
                        return Err(format!("record {full} has two fields named {name}"));
                    }
                    let type_id = self
                        .parse(type_value, &inner, depth + 1)
                        .map_err(|why| format!("{full}.{name}: {why}"))?;
                    fields.push(Field {
                        name: name.to_owned(),
                        aliases: strings(field.get("aliases")),
                        type_id,
                        default: field.get("default").cloned(),
                    });
                }
                self.nodes[id].kind = Type::Record(names, fields);
                Ok(id)
            }
            "enum" => {
                let (names, _) = read_names(object, namespace)?;
                let symbols = strings(object.get("symbols"));
                let default = match object.get("default").and_then(Value::as_str) {
                    Some(symbol) => {
                        Some(symbols.iter().position(|s| s == symbol).ok_or_else(|| {
                            format!("the default {symbol} of {} is not a symbol", names.full)
                        })?)
                    }
                    None => None,
                };
                let full = names.full.clone();
                let id = self.push(Type::Enum(names, symbols, default), None);
                self.register(&full, id)?;
                Ok(id)
            }
            "fixed" => {
                let (names, _) = read_names(object, namespace)?;
                let size = object
                    .get("size")
                    .and_then(Value::as_u64)
                    .filter(|size| *size <= i32::MAX as u64)
                    .ok_or_else(|| format!("fixed {} without a usable size", names.full))?;
                let full = names.full.clone();
                let kind = Type::Fixed(names, size as usize);
                let logical = logical(&kind, object);
                let id = self.push(kind, logical);
                self.register(&full, id)?;
                Ok(id)
            }
            name => match primitive(name) {
                Some(kind) => {
                    let logical = logical(&kind, object);
                    Ok(self.push(kind, logical))
                }
                None => self.named(name, namespace),
            },
        }
    }

    fn named(&self, name: &str, namespace: &str) -> Result<Id, String> {
        let qualified = qualify(name, namespace);
        self.names
            .get(&qualified)
            .or_else(|| self.names.get(name))
            .copied()
            .ok_or_else(|| format!("`{name}` is neither a type nor defined before its use"))
    }

    fn register(&mut self, full: &str, id: Id) -> Result<(), String> {
        match self.names.insert(full.to_owned(), id) {
            Some(_) => Err(format!("{full} is defined twice")),
            None => Ok(()),
        }
    }

    fn same_branch(&self, a: Id, b: Id) -> bool {
        let (a, b) = (&self.nodes[a].kind, &self.nodes[b].kind);
        match (a.names(), b.names()) {
            (Some(a), Some(b)) => a.full == b.full,
            (None, None) => std::mem::discriminant(a) == std::mem::discriminant(b),
            _ => false,
        }
    }
}

fn primitive(name: &str) -> Option<Type> {
    Some(match name {
        "null" => Type::Null,
        "boolean" => Type::Boolean,
        "int" => Type::Int,
        "long" => Type::Long,
        "float" => Type::Float,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "string" => Type::String,
        _ => return None,
    })
}

fn logical(kind: &Type, object: &serde_json::Map<String, Value>) -> Option<Logical> {
    let name = object.get("logicalType")?.as_str()?;
    Some(match (name, kind) {
        ("date", Type::Int) => Logical::Date,
        ("time-millis", Type::Int) => Logical::TimeMillis,
        ("time-micros", Type::Long) => Logical::TimeMicros,
        ("timestamp-millis", Type::Long) => Logical::TimestampMillis,
        ("timestamp-micros", Type::Long) => Logical::TimestampMicros,
        ("timestamp-nanos", Type::Long) => Logical::TimestampNanos,
        ("local-timestamp-millis", Type::Long) => Logical::LocalTimestampMillis,
        ("local-timestamp-micros", Type::Long) => Logical::LocalTimestampMicros,
        ("local-timestamp-nanos", Type::Long) => Logical::LocalTimestampNanos,
        ("uuid", Type::String) => Logical::Uuid,
        ("uuid", Type::Fixed(_, 16)) => Logical::Uuid,
        ("duration", Type::Fixed(_, 12)) => Logical::Duration,
        ("decimal", Type::Bytes | Type::Fixed(..)) => {
            let precision = u8::try_from(object.get("precision")?.as_u64()?).ok()?;
            let scale = match object.get("scale") {
                Some(scale) => i8::try_from(scale.as_u64()?).ok()?,
                None => 0,
            };
            let fits = match kind {
                Type::Fixed(_, size) => {
                    let bits = (*size as f64) * 8.0 - 1.0;
                    f64::from(precision) <= (bits * 2f64.log10()).floor()
                }
                _ => true,
            };
            if precision == 0 || precision > 76 || scale as u8 > precision || !fits {
                return None;
            }
            Logical::Decimal { precision, scale }
        }
        _ => return None,
    })
}

/// The names of a named type, and the namespace that its parts inherit.
fn read_names(
    object: &serde_json::Map<String, Value>,
    enclosing: &str,
) -> Result<(Names, String), String> {
    let name = object
        .get("name")
        .and_then(Value::as_str)
        .filter(|name| !name.is_empty())
        .ok_or("a named type without `name`")?;
    let namespace = match (name.rsplit_once('.'), object.get("namespace")) {
        (Some((namespace, _)), _) => namespace,
        (None, Some(Value::String(namespace))) => namespace,
        _ => enclosing,
    };
    let aliases = strings(object.get("aliases"));
    let names = Names {
        full: qualify(last_part(name), namespace),
        aliases: aliases.iter().map(|alias| qualify(alias, namespace)).collect(),
    };
    Ok((names, namespace.to_owned()))
}

fn qualify(name: &str, namespace: &str) -> String {
    if namespace.is_empty() || name.contains('.') {
        return name.to_owned();
    }
    format!("{namespace}.{name}")
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_schema_is_a_sentence() {
        for (text, part) in [
            ("{", "not JSON"),
            (r#"{"type":"record","name":"R","fields":[{"name":"a","type":"P"}]}"#, "`P`"),
            (r#"["null","null"]"#, "two branches"),
            (r#"["null",["int"]]"#, "within a union"),
            (r#"{"type":"enum","name":"E","symbols":["A"],"default":"B"}"#, "default B"),
            (r#"{"type":"fixed","name":"F","size":-1}"#, "size"),
        ] {
            let error = Schema::parse(text, []).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let mut deep = String::from("\"int\"");
        for _ in 0..100 {
            deep = format!("{{\"type\":\"array\",\"items\":{deep}}}");
        }
        assert!(Schema::parse(&deep, []).unwrap_err().contains("deep"));
        let deeper = "[".repeat(10_000);
        assert!(Schema::parse(&deeper, []).is_err());
    }

    #[test]
    fn names_follow_their_namespaces() {
        let reference = r#"{"type":"enum","name":"x.E","symbols":["A"]}"#;
        let text = r#"{"type":"record","name":"R","namespace":"n","fields":[
            {"name":"p","type":{"type":"record","name":"P","fields":[]}},
            {"name":"q","type":"n.P"},{"name":"r","type":"P"},{"name":"e","type":"x.E"}]}"#;
        let schema = Schema::parse(text, [reference]).unwrap();
        let ids: Vec<_> = schema.root_fields().unwrap().iter().map(|f| f.type_id).collect();
        assert_eq!((ids[0], ids[0]), (ids[1], ids[2]));
        assert_eq!(schema.describe(ids[3]), "enum x.E");
        assert_eq!(schema.node(ids[0]).bytes_min, 0);
    }
}
