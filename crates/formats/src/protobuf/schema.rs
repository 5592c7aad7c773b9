//! A file and what it imports, with every name resolved.

use super::parse::{self, Label};
use super::{descriptor, parse::File};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Files that every compiler brings along, as far as they change how bytes are read. Options, which
/// the empty ones declare, do not.
const BUILT_IN: [(&str, &str); 12] = [
    ("timestamp", "message Timestamp { int64 seconds = 1; int32 nanos = 2; }"),
    ("duration", "message Duration { int64 seconds = 1; int32 nanos = 2; }"),
    ("any", "message Any { string type_url = 1; bytes value = 2; }"),
    ("empty", "message Empty {}"),
    ("field_mask", "message FieldMask { repeated string paths = 1; }"),
    ("source_context", "message SourceContext { string file_name = 1; }"),
    (
        "struct",
        "message Struct { map<string, Value> fields = 1; }
         message Value { oneof kind {
             NullValue null_value = 1; double number_value = 2; string string_value = 3;
             bool bool_value = 4; Struct struct_value = 5; ListValue list_value = 6; } }
         enum NullValue { NULL_VALUE = 0; }
         message ListValue { repeated Value values = 1; }",
    ),
    (
        "wrappers",
        "message DoubleValue { double value = 1; } message FloatValue { float value = 1; }
         message Int64Value { int64 value = 1; } message UInt64Value { uint64 value = 1; }
         message Int32Value { int32 value = 1; } message UInt32Value { uint32 value = 1; }
         message BoolValue { bool value = 1; } message StringValue { string value = 1; }
         message BytesValue { bytes value = 1; }",
    ),
    ("descriptor", ""),
    ("api", ""),
    ("type", ""),
    ("java_features", ""),
];

/// What a schema may bring in all.
const FIELDS_MAX: usize = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    String,
    Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Scalar(Scalar),
    Enum(usize),
    Message(usize),
}

/// The messages that are more than their fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WellKnown {
    Timestamp,
    Duration,
    Wrapper(Scalar),
    Struct,
    Value,
    ListValue,
}

#[derive(Debug)]
pub(super) struct Field {
    pub name: String,
    pub number: u32,
    pub kind: Kind,
    /// The keys of a map, whose values are `kind`.
    pub key: Option<Scalar>,
    pub label: Label,
    /// How repeated numbers are written; both ways are read.
    pub packed: bool,
    pub oneof: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Message {
    /// With the package and the messages around it.
    pub name: String,
    pub fields: Vec<Field>,
    pub known: Option<WellKnown>,
    /// Where each is declared in this one, and which it is.
    nested: Vec<(usize, usize)>,
}

#[derive(Debug)]
pub(super) struct Enum {
    pub names: HashMap<i32, String>,
    pub numbers: HashMap<String, i32>,
    /// What stands for an absent value.
    pub zero: String,
}

#[derive(Debug)]
pub(super) struct Schema {
    pub messages: Vec<Message>,
    pub enums: Vec<Enum>,
    /// The messages of the file itself, in its order.
    roots: Vec<usize>,
}

impl Schema {
    /// `references` are the imported files under the names that `import` gives them.
    pub fn parse(text: &str, references: &[(String, Arc<str>)]) -> Result<Schema, String> {
        let main = read(text)?;
        let mut files = Vec::new();
        let mut due: Vec<String> = main.imports.clone();
        let mut seen: HashSet<String> = HashSet::new();
        while let Some(name) = due.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let given = references.iter().find(|(given, _)| *given == name);
            let file = match given {
                Some((_, text)) => read(text).map_err(|why| format!("import `{name}`: {why}"))?,
                None => built_in(&name).ok_or_else(|| {
                    format!("it imports `{name}`, which is none of the schema's references")
                })??,
            };
            due.extend(file.imports.iter().cloned());
            files.push(file);
        }
        files.insert(0, main);
        resolve(&files)
    }

    /// A message by its full name, or its name in the file's package; the file's first without one.
    pub fn named(&self, name: Option<&str>) -> Result<usize, String> {
        let Some(name) = name else {
            return self.roots.first().copied().ok_or_else(|| "it has no message".to_owned());
        };
        let full = self.messages.iter().position(|message| message.name == name);
        let within = |message: &Message| {
            message.name.strip_suffix(name).is_some_and(|package| package.ends_with('.'))
        };
        let found = full.or_else(|| self.messages.iter().position(within));
        found.ok_or_else(|| {
            let all: Vec<&str> =
                self.roots.iter().take(20).map(|at| self.messages[*at].name.as_str()).collect();
            format!("it has no message `{name}`; it has {}", all.join(", "))
        })
    }

    /// A message by where it is declared: its place in the file, then in the message around it.
    pub fn at(&self, path: &[usize]) -> Option<usize> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(*self.roots.get(*first)?, |outer, at| {
            let mut nested = self.messages[outer].nested.iter();
            nested.find(|(place, _)| place == at).map(|(_, message)| *message)
        })
    }

    /// The opposite of [`Schema::at`].
    pub fn path(&self, message: usize) -> Option<Vec<usize>> {
        fn within(schema: &Schema, some: &[(usize, usize)], message: usize) -> Option<Vec<usize>> {
            some.iter().find_map(|(place, at)| {
                let below = match *at == message {
                    true => Vec::new(),
                    false => within(schema, &schema.messages[*at].nested, message)?,
                };
                Some(std::iter::once(*place).chain(below).collect())
            })
        }
        let roots: Vec<_> = self.roots.iter().copied().enumerate().collect();
        within(self, &roots, message)
    }
}

impl Scalar {
    pub fn parse(word: &str) -> Option<Scalar> {
        Some(match word {
            "double" => Scalar::Double,
            "float" => Scalar::Float,
            "int32" => Scalar::Int32,
            "int64" => Scalar::Int64,
            "uint32" => Scalar::Uint32,
            "uint64" => Scalar::Uint64,
            "sint32" => Scalar::Sint32,
            "sint64" => Scalar::Sint64,
            "fixed32" => Scalar::Fixed32,
            "fixed64" => Scalar::Fixed64,
            "sfixed32" => Scalar::Sfixed32,
            "sfixed64" => Scalar::Sfixed64,
            "bool" => Scalar::Bool,
            "string" => Scalar::String,
            "bytes" => Scalar::Bytes,
            _ => return None,
        })
    }

    pub fn is_packable(self) -> bool {
        !matches!(self, Scalar::String | Scalar::Bytes)
    }
}

/// The files that a file imports itself and that are not built in.
pub(super) fn imports(text: &str) -> Result<Vec<String>, String> {
    let mut imports = read(text)?.imports;
    imports.retain(|name| built_in(name).is_none());
    Ok(imports)
}

/// The text of a file, or what some serializers register instead: a descriptor in base64.
fn read(text: &str) -> Result<File, String> {
    match descriptor::decode(text) {
        Some(file) => file,
        None => parse::file(text),
    }
}

fn built_in(name: &str) -> Option<Result<File, String>> {
    let google = |short: &str| {
        let found = BUILT_IN.iter().find(|(name, _)| *name == short)?;
        Some(format!("syntax = \"proto3\"; package google.protobuf; {}", found.1))
    };
    let text = match name {
        "confluent/meta.proto" => String::new(),
        "confluent/type/decimal.proto" => "syntax = \"proto3\"; package confluent.type; \
            message Decimal { bytes value = 1; uint32 precision = 2; int32 scale = 3; }"
            .to_owned(),
        _ => google(name.strip_prefix("google/protobuf/")?.strip_suffix(".proto")?)?,
    };
    Some(parse::file(&text))
}

fn known(name: &str) -> Option<WellKnown> {
    Some(match name.strip_prefix("google.protobuf.")? {
        "Timestamp" => WellKnown::Timestamp,
        "Duration" => WellKnown::Duration,
        "Struct" => WellKnown::Struct,
        "Value" => WellKnown::Value,
        "ListValue" => WellKnown::ListValue,
        "DoubleValue" => WellKnown::Wrapper(Scalar::Double),
        "FloatValue" => WellKnown::Wrapper(Scalar::Float),
        "Int64Value" => WellKnown::Wrapper(Scalar::Int64),
        "UInt64Value" => WellKnown::Wrapper(Scalar::Uint64),
        "Int32Value" => WellKnown::Wrapper(Scalar::Int32),
        "UInt32Value" => WellKnown::Wrapper(Scalar::Uint32),
        "BoolValue" => WellKnown::Wrapper(Scalar::Bool),
        "StringValue" => WellKnown::Wrapper(Scalar::String),
        "BytesValue" => WellKnown::Wrapper(Scalar::Bytes),
        _ => return None,
    })
}

/// Declarations found so far, and the messages whose fields are still to be resolved.
#[derive(Default)]
struct Resolver<'a> {
    types: HashMap<String, Kind>,
    declared: Vec<&'a parse::Message>,
}

fn resolve(files: &[File]) -> Result<Schema, String> {
    let mut schema = Schema { messages: Vec::new(), enums: Vec::new(), roots: Vec::new() };
    let mut resolver = Resolver::default();
    for (at, file) in files.iter().enumerate() {
        let roots = resolver.declare(&mut schema, &file.package, &file.messages, &file.enums)?;
        if at == 0 {
            schema.roots = roots;
        }
    }
    let mut left = FIELDS_MAX;
    for (at, message) in resolver.declared.iter().enumerate() {
        let scope = schema.messages[at].name.clone();
        let mut names = HashSet::new();
        let mut numbers = HashSet::new();
        let mut fields = Vec::with_capacity(message.fields.len());
        for field in &message.fields {
            left = left.checked_sub(1).ok_or_else(|| format!("it has over {FIELDS_MAX} fields"))?;
            if !names.insert(&field.name) || !numbers.insert(field.number) {
                return Err(format!(
                    "message `{scope}` has the name or the number of `{}` twice",
                    field.name
                ));
            }
            fields.push(resolver.field(&scope, field)?);
        }
        schema.messages[at].fields = fields;
    }
    Ok(schema)
}

impl<'a> Resolver<'a> {
    fn declare(
        &mut self,
        schema: &mut Schema,
        scope: &str,
        messages: &'a [parse::Message],
        enums: &'a [parse::Enum],
    ) -> Result<Vec<usize>, String> {
        for found in enums {
            let name = joined(scope, &found.name);
            let mut names = HashMap::new();
            for (word, number) in &found.values {
                // The first of several names for a number is the one that is shown.
                names.entry(*number).or_insert_with(|| word.clone());
            }
            let numbers = found.values.iter().cloned().collect();
            let zero = names.get(&0).unwrap_or(&found.values[0].0).clone();
            self.add(name, Kind::Enum(schema.enums.len()))?;
            schema.enums.push(Enum { names, numbers, zero });
        }
        let mut places = Vec::with_capacity(messages.len());
        for message in messages {
            let (name, at) = (joined(scope, &message.name), schema.messages.len());
            self.add(name.clone(), Kind::Message(at))?;
            self.declared.push(message);
            schema.messages.push(Message {
                known: known(&name),
                name: name.clone(),
                fields: Vec::new(),
                nested: Vec::new(),
            });
            let nested = self.declare(schema, &name, &message.messages, &message.enums)?;
            let entries = message.entries_before.iter();
            let nested = nested.into_iter().zip(entries).enumerate();
            schema.messages[at].nested =
                nested.map(|(place, (at, entries))| (place + entries, at)).collect();
            places.push(at);
        }
        Ok(places)
    }

    fn add(&mut self, name: String, kind: Kind) -> Result<(), String> {
        match self.types.insert(name.clone(), kind) {
            Some(_) => Err(format!("`{name}` is declared twice")),
            None => Ok(()),
        }
    }

    fn field(&self, scope: &str, field: &parse::Field) -> Result<Field, String> {
        let place = |why: String| format!("field `{scope}.{}`: {why}", field.name);
        let (key, kind) = match &field.kind {
            parse::Kind::Named(name) => (None, self.kind(scope, name).map_err(place)?),
            parse::Kind::Map(key, value) => {
                let scalar = Scalar::parse(key);
                let fits =
                    |key: &Scalar| !matches!(key, Scalar::Double | Scalar::Float | Scalar::Bytes);
                let scalar = scalar.filter(fits);
                let key = scalar.ok_or_else(|| place(format!("`{key}` cannot be a map's key")))?;
                (Some(key), self.kind(scope, value).map_err(place)?)
            }
        };
        let label = match (field.label, kind) {
            // A message is there or is not, in proto3 too.
            (Label::Implicit, Kind::Message(_)) => Label::Explicit,
            (label, _) => label,
        };
        let packed = field.packed
            && match kind {
                Kind::Scalar(scalar) => scalar.is_packable(),
                Kind::Enum(_) => true,
                Kind::Message(_) => false,
            };
        let (name, number, oneof) = (field.name.clone(), field.number, field.oneof);
        Ok(Field { name, number, kind, key, label, packed, oneof })
    }

    /// Looks outwards from the scope that a name is used in.
    fn kind(&self, scope: &str, name: &str) -> Result<Kind, String> {
        if let Some(scalar) = Scalar::parse(name) {
            return Ok(Kind::Scalar(scalar));
        }
        let unknown = || format!("there is no type `{name}`");
        if let Some(full) = name.strip_prefix('.') {
            return self.types.get(full).copied().ok_or_else(unknown);
        }
        let mut scope = scope;
        loop {
            if let Some(kind) = self.types.get(&joined(scope, name)) {
                return Ok(*kind);
            }
            scope = match scope.rfind('.') {
                Some(dot) => &scope[..dot],
                None if scope.is_empty() => return Err(unknown()),
                None => "",
            };
        }
    }
}

fn joined(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}
