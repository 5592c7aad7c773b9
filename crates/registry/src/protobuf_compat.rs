//! Whether data of one Protobuf file can be read with another: Confluent's rules, decided on the
//! files alone.
//!
//! Messages are matched by name, fields by number. A number keeps its way of being written: numbers
//! as varints may take each other's place, as may text and bytes, but not a number and a text. A
//! field may come and go unless it is required; a message must stay; fields that could be set
//! together must not come into one `oneof`. Names of fields, and enums, do not matter.

use crate::level::Level;
use millstream_schemas::protobuf::parse::{self, Field, File, Kind, Label, Message};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// How many pairs of messages are compared before it is given up.
const STEPS_MAX: usize = 100_000;
/// How deep messages of imported files may lie in each other.
const DEPTH_MAX: usize = 100;
/// How many differences are worth listing.
const DIFFERENCES_MAX: usize = 100;

/// A file with what it imports.
#[derive(Debug)]
pub(crate) struct Schema {
    /// The file itself comes first.
    files: Vec<File>,
}

/// The two schemas are too large to compare.
#[derive(Debug, thiserror::Error)]
#[error("comparing the schemas takes more than {STEPS_MAX} steps")]
pub(crate) struct TooLarge;

/// Messages for what `level` finds wrong between a new schema and an old one.
pub(crate) fn check(new: &Schema, old: &Schema, level: Level) -> Result<Vec<String>, TooLarge> {
    let mut messages = Vec::new();
    let mut add = |(reader, writer): (&Schema, &Schema), (reads, wrote): (&str, &str)| {
        for (word, path) in differences(writer, reader)? {
            messages.push(format!(
                "{{errorType:'{word}', description:'The {reads} schema cannot read, at path \
                 '{path}', what the {wrote} schema writes', additionalInfo:''}}"
            ));
        }
        Ok(())
    };
    if level.backward() {
        add((new, old), ("new", "old"))?;
    }
    if level.forward() {
        add((old, new), ("old", "new"))?;
    }
    Ok(messages)
}

impl Schema {
    pub fn parse(text: &str, references: &[(String, Arc<str>)]) -> Result<Schema, String> {
        let mut files = vec![parse::file(text)?];
        for (name, text) in references {
            // A file that some serializers register as a descriptor says nothing here.
            if !is_descriptor(text) {
                files.push(parse::file(text).map_err(|why| format!("import `{name}`: {why}"))?);
            }
        }
        Ok(Schema { files })
    }
}

/// Whether a schema is a compiled file in base64, which is not compared.
pub(crate) fn is_descriptor(text: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte);
    text.trim().bytes().all(digit)
}

type Difference = (&'static str, String);

fn differences(old: &Schema, new: &Schema) -> Result<Vec<Difference>, TooLarge> {
    let mut differ = Differ {
        old: Types::of(&old.files),
        new: Types::of(&new.files),
        found: Vec::new(),
        around: HashSet::new(),
        steps: 0,
    };
    let (old, new) = (&old.files[0], &new.files[0]);
    if old.package != new.package {
        differ.found.push(("PACKAGE_CHANGED", "#/".to_owned()));
    }
    let scopes = (old.package.as_str(), new.package.as_str());
    differ.messages(&old.messages, &new.messages, scopes, "#")?;
    differ.found.truncate(DIFFERENCES_MAX);
    Ok(differ.found)
}

/// The declarations of some files, by their full names.
struct Types<'a> {
    by_name: HashMap<String, Declared<'a>>,
}

#[derive(Clone, Copy)]
enum Declared<'a> {
    Enum,
    Message { message: &'a Message, package: &'a str, imported: bool },
}

/// What a field is, as far as its bytes go.
enum Written<'a> {
    Scalar(Scalar),
    Map(&'a str, &'a str),
    /// A message by its full name, where it is known.
    Message(String, Option<Declared<'a>>),
}

/// Scalars that may take each other's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scalar {
    Varint,
    Zigzag,
    Bytes,
    Fixed32,
    Fixed64,
    Float,
    Double,
}

impl<'a> Types<'a> {
    fn of(files: &'a [File]) -> Types<'a> {
        let mut types = Types { by_name: HashMap::new() };
        for (at, file) in files.iter().enumerate() {
            types.declare(&file.package, &file.messages, &file.package, at > 0);
            types.enums(&file.package, &file.enums);
        }
        types
    }

    fn declare(&mut self, scope: &str, messages: &'a [Message], package: &'a str, imported: bool) {
        for message in messages {
            let name = joined(scope, &message.name);
            self.declare(&name, &message.messages, package, imported);
            self.enums(&name, &message.enums);
            self.by_name.entry(name).or_insert(Declared::Message { message, package, imported });
        }
    }

    fn enums(&mut self, scope: &str, enums: &[parse::Enum]) {
        for found in enums {
            self.by_name.entry(joined(scope, &found.name)).or_insert(Declared::Enum);
        }
    }

    fn written<'n>(&self, scope: &str, kind: &'n Kind) -> Written<'n>
    where
        'a: 'n,
    {
        match kind {
            Kind::Map(key, value) => Written::Map(key, value),
            Kind::Named(name) => self.named(scope, name),
        }
    }

    /// Looks outwards from the scope that a name is used in.
    fn named<'n>(&self, scope: &str, name: &str) -> Written<'n>
    where
        'a: 'n,
    {
        if let Some(scalar) = Scalar::of(name) {
            return Written::Scalar(scalar);
        }
        let whole = name.strip_prefix('.');
        let mut scope = if whole.is_some() { "" } else { scope };
        let name = whole.unwrap_or(name);
        loop {
            let full = joined(scope, name);
            match self.by_name.get(&full) {
                Some(Declared::Enum) => return Written::Scalar(Scalar::Varint),
                Some(message) => return Written::Message(full, Some(*message)),
                None => {}
            }
            scope = match scope.rfind('.') {
                Some(dot) => &scope[..dot],
                None if scope.is_empty() => return Written::Message(name.to_owned(), None),
                None => "",
            };
        }
    }
}

impl Scalar {
    fn of(word: &str) -> Option<Scalar> {
        Some(match word {
            "int32" | "int64" | "uint32" | "uint64" | "bool" => Scalar::Varint,
            "sint32" | "sint64" => Scalar::Zigzag,
            "string" | "bytes" => Scalar::Bytes,
            "fixed32" | "sfixed32" => Scalar::Fixed32,
            "fixed64" | "sfixed64" => Scalar::Fixed64,
            "float" => Scalar::Float,
            "double" => Scalar::Double,
            _ => return None,
        })
    }
}

struct Differ<'a> {
    old: Types<'a>,
    new: Types<'a>,
    found: Vec<Difference>,
    /// The pairs of messages that the one at hand lies in.
    around: HashSet<(*const Message, *const Message)>,
    steps: usize,
}

type Compared = Result<(), TooLarge>;
/// Full names that the old and the new names are looked up from.
type Scopes<'s> = (&'s str, &'s str);

impl<'a> Differ<'a> {
    fn messages(
        &mut self,
        old: &'a [Message],
        new: &'a [Message],
        scopes: Scopes<'_>,
        path: &str,
    ) -> Compared {
        let by_name: HashMap<&str, &Message> =
            new.iter().map(|message| (message.name.as_str(), message)).collect();
        for before in old {
            let path = format!("{path}/{}", before.name);
            match by_name.get(before.name.as_str()) {
                None => self.found.push(("MESSAGE_REMOVED", path)),
                Some(after) => {
                    let (from, to) =
                        (joined(scopes.0, &before.name), joined(scopes.1, &after.name));
                    self.message(before, after, (&from, &to), &path)?;
                }
            }
        }
        Ok(())
    }

    fn message(
        &mut self,
        old: &'a Message,
        new: &'a Message,
        scopes: Scopes<'_>,
        path: &str,
    ) -> Compared {
        self.steps += 1;
        if self.steps > STEPS_MAX || self.around.len() > DEPTH_MAX {
            return Err(TooLarge);
        }
        let pair: (*const Message, *const Message) = (old, new);
        if !self.around.insert(pair) {
            return Ok(());
        }
        let compared = self.fields(old, new, scopes, path);
        self.around.remove(&pair);
        compared?;
        self.messages(&old.messages, &new.messages, scopes, path)
    }

    fn fields(
        &mut self,
        old: &'a Message,
        new: &'a Message,
        scopes: Scopes<'_>,
        path: &str,
    ) -> Compared {
        let before: BTreeMap<u32, &Field> = old.fields.iter().map(|f| (f.number, f)).collect();
        let after: BTreeMap<u32, &Field> = new.fields.iter().map(|f| (f.number, f)).collect();
        self.oneofs(&before, new, path);
        // A oneof that is gone whole does no harm; a part of one may be what was set.
        let kept: HashSet<usize> = old
            .fields
            .iter()
            .filter(|field| after.contains_key(&field.number))
            .filter_map(|field| field.oneof)
            .collect();
        let numbers: BTreeSet<u32> = before.keys().chain(after.keys()).copied().collect();
        for number in numbers {
            let path = format!("{path}/{number}");
            match (before.get(&number), after.get(&number)) {
                (Some(old), Some(new)) => self.field(old, new, scopes, &path)?,
                (Some(old), None) if old.label == Label::Required => {
                    self.found.push(("REQUIRED_FIELD_REMOVED", path));
                }
                (Some(old), None) if old.oneof.is_some_and(|oneof| kept.contains(&oneof)) => {
                    self.found.push(("ONEOF_FIELD_REMOVED", path));
                }
                (None, Some(new)) if new.label == Label::Required => {
                    self.found.push(("REQUIRED_FIELD_ADDED", path));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Fields that could be set together must not exclude each other now.
    fn oneofs(&mut self, before: &BTreeMap<u32, &Field>, new: &Message, path: &str) {
        for oneof in 0..new.oneofs {
            let mut groups = BTreeSet::new();
            let mut alone = 0;
            for field in new.fields.iter().filter(|field| field.oneof == Some(oneof)) {
                match before.get(&field.number) {
                    Some(Field { oneof: Some(of), .. }) => drop(groups.insert((true, *of))),
                    Some(old) => {
                        groups.insert((false, old.number as usize));
                        alone += 1;
                    }
                    None => {}
                }
            }
            if groups.len() > 1 {
                let word = match alone {
                    2.. => "MULTIPLE_FIELDS_MOVED_TO_ONEOF",
                    _ => "FIELD_MOVED_TO_EXISTING_ONEOF",
                };
                self.found.push((word, path.to_owned()));
            }
        }
    }

    fn field(
        &mut self,
        old: &'a Field,
        new: &'a Field,
        scopes: Scopes<'_>,
        path: &str,
    ) -> Compared {
        let from = self.old.written(scopes.0, &old.kind);
        let to = self.new.written(scopes.1, &new.kind);
        if let (Written::Scalar(from), Written::Scalar(to)) = (&from, &to)
            && from == to
            && *from != Scalar::Bytes
            && let (Some(from), Some(to)) = (label(old), label(new))
            && from != to
        {
            self.found.push(("FIELD_NUMERIC_LABEL_CHANGED", path.to_owned()));
        }
        self.kinds(from, to, scopes, path)
    }

    fn kinds(
        &mut self,
        old: Written<'a>,
        new: Written<'a>,
        scopes: Scopes<'_>,
        path: &str,
    ) -> Compared {
        match (old, new) {
            (Written::Scalar(old), Written::Scalar(new)) => {
                if old != new {
                    self.found.push(("FIELD_SCALAR_KIND_CHANGED", path.to_owned()));
                }
                Ok(())
            }
            (Written::Map(old_key, old), Written::Map(new_key, new)) => {
                for (old, new) in [(old_key, new_key), (old, new)] {
                    let (old, new) = (self.old.named(scopes.0, old), self.new.named(scopes.1, new));
                    self.kinds(old, new, scopes, path)?;
                }
                Ok(())
            }
            (Written::Message(old, from), Written::Message(new, to)) => {
                self.named((&old, from), (&new, to), path)
            }
            _ => {
                self.found.push(("FIELD_KIND_CHANGED", path.to_owned()));
                Ok(())
            }
        }
    }

    fn named(
        &mut self,
        (old_name, old): (&str, Option<Declared<'a>>),
        (new_name, new): (&str, Option<Declared<'a>>),
        path: &str,
    ) -> Compared {
        if local(old_name, old) != local(new_name, new) {
            self.found.push(("FIELD_NAMED_TYPE_CHANGED", path.to_owned()));
            return Ok(());
        }
        let (
            Some(Declared::Message { message: before, imported: from, .. }),
            Some(Declared::Message { message: after, imported: to, .. }),
        ) = (old, new)
        else {
            return Ok(());
        };
        // Those of the files themselves are compared by their names.
        if !from && !to {
            return Ok(());
        }
        let known = self.found.len();
        self.message(before, after, (old_name, new_name), path)?;
        if self.found.len() > known {
            self.found.push(("FIELD_NAMED_TYPE_CHANGED", path.to_owned()));
        }
        Ok(())
    }
}

/// A message's name in its package.
fn local<'n>(name: &'n str, declared: Option<Declared<'_>>) -> &'n str {
    match declared {
        Some(Declared::Message { package, .. }) if !package.is_empty() => {
            name.strip_prefix(package).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name)
        }
        _ => name,
    }
}

/// The word before a field's type, where there is one.
fn label(field: &Field) -> Option<Label> {
    match field.label {
        Label::Implicit => None,
        Label::Explicit if field.oneof.is_some() => None,
        label => Some(label),
    }
}

fn joined(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}
