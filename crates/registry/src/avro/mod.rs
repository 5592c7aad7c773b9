//! Avro schemas as a graph: what the registry compares, prints and checks.
//!
//! A schema is an arena of nodes; a named type that is used again, or uses itself, is the same
//! node. The parser bounds how deep types nest, through names and references too, so that whoever
//! walks the graph downwards cannot run out of stack.
//!
//! Follows the [Avro 1.12 specification](https://avro.apache.org/docs/1.12.0/specification/).

mod defaults;
mod parse;
mod print;

pub use parse::Parser;
use serde_json::{Map, Value};

/// Index of a node in its [`Schema`].
pub type Id = usize;

/// A parsed schema: its own types and those of the schemas it references.
#[derive(Debug, Clone)]
pub struct Schema {
    pub(crate) nodes: Vec<Node>,
    pub(crate) root: Id,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub kind: Kind,
    /// Attributes that Avro does not define, such as `logicalType`; in the order written.
    pub props: Map<String, Value>,
    /// How many types nest below this one, itself included; a recursive use counts nothing.
    pub height: usize,
    /// Defined by a referenced schema, so printed by name only.
    pub external: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Record { named: Named, error: bool, fields: Vec<Field> },
    Enum { named: Named, symbols: Vec<String>, default: Option<String> },
    Fixed { named: Named, size: u64 },
    Array(Id),
    Map(Id),
    Union(Vec<Id>),
}

#[derive(Debug, Clone)]
pub(crate) struct Named {
    /// With its namespace: `com.example.User`.
    pub name: String,
    /// With their namespaces.
    pub aliases: Vec<String>,
    pub doc: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub name: String,
    pub node: Id,
    pub doc: Option<String>,
    pub default: Option<Value>,
    pub order: Option<String>,
    pub aliases: Vec<String>,
    pub props: Map<String, Value>,
}

impl Schema {
    pub(crate) fn kind(&self, id: Id) -> &Kind {
        &self.nodes[id].kind
    }
}

impl Named {
    pub fn short(&self) -> &str {
        split(&self.name).1
    }
}

impl Kind {
    pub fn named(&self) -> Option<&Named> {
        match self {
            Kind::Record { named, .. } | Kind::Enum { named, .. } | Kind::Fixed { named, .. } => {
                Some(named)
            }
            _ => None,
        }
    }

    /// The word that a schema writes for this type.
    pub fn word(&self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Boolean => "boolean",
            Kind::Int => "int",
            Kind::Long => "long",
            Kind::Float => "float",
            Kind::Double => "double",
            Kind::Bytes => "bytes",
            Kind::String => "string",
            Kind::Record { error: false, .. } => "record",
            Kind::Record { error: true, .. } => "error",
            Kind::Enum { .. } => "enum",
            Kind::Fixed { .. } => "fixed",
            Kind::Array(_) => "array",
            Kind::Map(_) => "map",
            Kind::Union(_) => "union",
        }
    }

    pub(crate) fn primitive(word: &str) -> Option<Kind> {
        Some(match word {
            "null" => Kind::Null,
            "boolean" => Kind::Boolean,
            "int" => Kind::Int,
            "long" => Kind::Long,
            "float" => Kind::Float,
            "double" => Kind::Double,
            "bytes" => Kind::Bytes,
            "string" => Kind::String,
            _ => return None,
        })
    }
}

/// Namespace (empty when there is none) and simple name.
pub(crate) fn split(full: &str) -> (&str, &str) {
    full.rsplit_once('.').unwrap_or(("", full))
}
