//! Whether data written with one Avro schema can be read with another: Avro's schema resolution,
//! decided on the schemas alone.
//!
//! A pair (reader type, writer type) is readable when its own rule holds and the pairs below it
//! are readable; a union on the reader's side asks for one readable branch. The pairs that can be
//! reached are collected first, once each, then the unreadable ones are spread upwards until
//! nothing changes. What is left is readable: recursive types end, and no call recurses.
//!
//! Logical types do not take part, as in Avro's own checker: `decimal(4, 2)` reads as
//! `decimal(4, 3)`.

use crate::avro::{Field, Id, Kind, Named, Schema};
use crate::level::Level;
use std::collections::HashMap;

/// How many pairs of types two schemas may give before comparing them is refused.
const PAIRS_MAX: usize = 200_000;
/// How many reasons are worth listing for one pair of schemas.
const REASONS_MAX: usize = 100;

/// One reason why data cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incompatibility {
    pub kind: Reason,
    /// Where in the reader's schema, as a JSON pointer.
    pub path: String,
    /// The missing field, symbols or branch, or the two things that differ.
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    NameMismatch,
    FixedSizeMismatch,
    MissingEnumSymbols,
    ReaderFieldMissingDefaultValue,
    TypeMismatch,
    MissingUnionBranch,
}

/// The two schemas are too large to compare.
#[derive(Debug, thiserror::Error)]
#[error("the schemas give more than {PAIRS_MAX} pairs of types to compare")]
pub struct TooLarge;

/// Which of the two schemas of a check is the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The new schema reads data of the old one.
    Backward,
    /// The old schema reads data of the new one.
    Forward,
}

/// Why `reader` cannot read data written with `writer`; empty when it can.
pub fn unreadable(reader: &Schema, writer: &Schema) -> Result<Vec<Incompatibility>, TooLarge> {
    let mut graph = Graph { reader, writer, pairs: Vec::new(), known: HashMap::new() };
    graph.collect()?;
    let readable = graph.settle();
    Ok(graph.reasons(&readable))
}

/// Messages for what `level` finds wrong between a new schema and an old one, as Confluent's
/// registry words their frame.
pub fn check(new: &Schema, old: &Schema, level: Level) -> Result<Vec<String>, TooLarge> {
    let mut messages = Vec::new();
    if level.backward() {
        let found = unreadable(new, old)?;
        messages.extend(found.iter().map(|reason| reason.message(Direction::Backward)));
    }
    if level.forward() {
        let found = unreadable(old, new)?;
        messages.extend(found.iter().map(|reason| reason.message(Direction::Forward)));
    }
    Ok(messages)
}

impl Incompatibility {
    pub fn message(&self, direction: Direction) -> String {
        let (reader, writer) = match direction {
            Direction::Backward => ("new", "old"),
            Direction::Forward => ("old", "new"),
        };
        let Self { path, detail, .. } = self;
        let description = match self.kind {
            Reason::NameMismatch => {
                format!(
                    "The {reader} schema's type at path '{path}' has another name than the {writer} schema's"
                )
            }
            Reason::FixedSizeMismatch => format!(
                "The fixed at path '{path}' has another size in the {reader} schema than in the \
                 {writer} schema"
            ),
            Reason::MissingEnumSymbols => format!(
                "The {reader} schema lacks, at path '{path}', enum symbols of the {writer} schema, \
                 and has no enum default"
            ),
            Reason::ReaderFieldMissingDefaultValue => format!(
                "The field '{detail}' at path '{path}' in the {reader} schema has no default value \
                 and is missing in the {writer} schema"
            ),
            Reason::TypeMismatch => format!(
                "The type at path '{path}' in the {reader} schema cannot read that of the {writer} \
                 schema"
            ),
            Reason::MissingUnionBranch => format!(
                "The {reader} schema's union at path '{path}' has no branch for a type of the \
                 {writer} schema"
            ),
        };
        format!(
            "{{errorType:'{}', description:'{description}', additionalInfo:'{detail}'}}",
            self.kind.word()
        )
    }
}

impl Reason {
    /// Confluent's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Reason::NameMismatch => "NAME_MISMATCH",
            Reason::FixedSizeMismatch => "FIXED_SIZE_MISMATCH",
            Reason::MissingEnumSymbols => "MISSING_ENUM_SYMBOLS",
            Reason::ReaderFieldMissingDefaultValue => "READER_FIELD_MISSING_DEFAULT_VALUE",
            Reason::TypeMismatch => "TYPE_MISMATCH",
            Reason::MissingUnionBranch => "MISSING_UNION_BRANCH",
        }
    }
}

struct Graph<'a> {
    reader: &'a Schema,
    writer: &'a Schema,
    pairs: Vec<Pair>,
    known: HashMap<(Id, Id), usize>,
}

#[derive(Default)]
struct Pair {
    ids: (Id, Id),
    /// What is wrong here, whatever is below.
    faults: Vec<(Reason, String, String)>,
    /// Pairs that must all be readable, with their step in the path.
    all: Vec<(usize, String)>,
    /// Pairs of which one must be readable, when the reader has a union here.
    any: Option<Vec<usize>>,
}

impl Graph<'_> {
    fn collect(&mut self) -> Result<(), TooLarge> {
        self.pair(self.reader.root, self.writer.root)?;
        let mut next = 0;
        while next < self.pairs.len() {
            self.expand(next)?;
            next += 1;
        }
        Ok(())
    }

    /// The index of a pair, which is new when it was not met before.
    fn pair(&mut self, reader: Id, writer: Id) -> Result<usize, TooLarge> {
        if let Some(index) = self.known.get(&(reader, writer)) {
            return Ok(*index);
        }
        let index = self.pairs.len();
        if index == PAIRS_MAX {
            return Err(TooLarge);
        }
        self.known.insert((reader, writer), index);
        self.pairs.push(Pair { ids: (reader, writer), ..Pair::default() });
        Ok(index)
    }

    fn expand(&mut self, index: usize) -> Result<(), TooLarge> {
        let (reader, writer) = (self.reader, self.writer);
        let ids = self.pairs[index].ids;
        let mut pair = Pair { ids, ..Pair::default() };
        match (reader.kind(ids.0), writer.kind(ids.1)) {
            // Data may be of any branch of the writer's union: each must be readable.
            (_, Kind::Union(branches)) => {
                for (at, branch) in branches.iter().enumerate() {
                    pair.all.push((self.pair(ids.0, *branch)?, format!("/{at}")));
                }
            }
            (Kind::Union(branches), _) => {
                let pairs = branches.iter().map(|branch| self.pair(*branch, ids.1));
                pair.any = Some(pairs.collect::<Result<_, _>>()?);
            }
            (
                Kind::Record { named: new, fields, .. },
                Kind::Record { named: old, fields: old_fields, .. },
            ) => {
                if names_match(&mut pair, new, old) {
                    self.fields(&mut pair, fields, old_fields)?;
                }
            }
            (
                Kind::Enum { named: new, symbols, default },
                Kind::Enum { named: old, symbols: old_symbols, .. },
            ) => {
                if names_match(&mut pair, new, old) && default.is_none() {
                    let have: std::collections::HashSet<&String> = symbols.iter().collect();
                    let missing: Vec<_> = old_symbols
                        .iter()
                        .filter(|symbol| !have.contains(symbol))
                        .map(String::as_str)
                        .collect();
                    if !missing.is_empty() {
                        let detail = format!("[{}]", missing.join(", "));
                        pair.fault(Reason::MissingEnumSymbols, "/symbols", detail);
                    }
                }
            }
            (Kind::Fixed { named: new, size }, Kind::Fixed { named: old, size: old_size }) => {
                if names_match(&mut pair, new, old) && size != old_size {
                    let detail = format!("expected: {old_size}, found: {size}");
                    pair.fault(Reason::FixedSizeMismatch, "/size", detail);
                }
            }
            (Kind::Array(new), Kind::Array(old)) => {
                pair.all.push((self.pair(*new, *old)?, "/items".into()));
            }
            (Kind::Map(new), Kind::Map(old)) => {
                pair.all.push((self.pair(*new, *old)?, "/values".into()));
            }
            (new, old) if reads(new, old) => {}
            (new, old) => {
                let (new, old) = (new.word().to_uppercase(), old.word().to_uppercase());
                let detail = format!("reader type: {new} not compatible with writer type: {old}");
                pair.fault(Reason::TypeMismatch, "", detail);
            }
        }
        self.pairs[index] = pair;
        Ok(())
    }

    fn fields(&mut self, pair: &mut Pair, new: &[Field], old: &[Field]) -> Result<(), TooLarge> {
        let by_name: HashMap<&str, &Field> =
            old.iter().map(|field| (field.name.as_str(), field)).collect();
        for (at, field) in new.iter().enumerate() {
            let names = std::iter::once(&field.name).chain(&field.aliases);
            let written = names.into_iter().find_map(|name| by_name.get(name.as_str()));
            match written {
                Some(written) => {
                    let below = self.pair(field.node, written.node)?;
                    pair.all.push((below, format!("/fields/{at}/type")));
                }
                None if field.default.is_some() => {}
                None => {
                    let path = format!("/fields/{at}");
                    let reason = Reason::ReaderFieldMissingDefaultValue;
                    pair.fault(reason, &path, field.name.clone());
                }
            }
        }
        Ok(())
    }

    /// For every pair, whether it is readable: the largest answer that fits the rules.
    fn settle(&self) -> Vec<bool> {
        let mut readable = vec![true; self.pairs.len()];
        let mut above: Vec<Vec<usize>> = vec![Vec::new(); self.pairs.len()];
        let mut left: Vec<usize> = Vec::with_capacity(self.pairs.len());
        let mut fallen = Vec::new();
        for (index, pair) in self.pairs.iter().enumerate() {
            for (below, _) in &pair.all {
                above[*below].push(index);
            }
            for below in pair.any.iter().flatten() {
                above[*below].push(index);
            }
            left.push(pair.any.as_ref().map_or(0, Vec::len));
            if !pair.faults.is_empty() {
                readable[index] = false;
                fallen.push(index);
            }
        }
        while let Some(below) = fallen.pop() {
            for index in above[below].iter().copied() {
                if self.pairs[index].any.is_some() {
                    left[index] -= 1;
                    if left[index] > 0 {
                        continue;
                    }
                }
                if std::mem::replace(&mut readable[index], false) {
                    fallen.push(index);
                }
            }
        }
        readable
    }

    /// Walks down from the root over unreadable pairs and says what is wrong at each.
    fn reasons(&self, readable: &[bool]) -> Vec<Incompatibility> {
        let mut found = Vec::new();
        let mut seen = vec![false; self.pairs.len()];
        let mut stack = vec![(0, String::new())];
        while let Some((index, path)) = stack.pop() {
            if readable[index] || std::mem::replace(&mut seen[index], true) {
                continue;
            }
            if found.len() >= REASONS_MAX {
                break;
            }
            let pair = &self.pairs[index];
            for (kind, step, detail) in &pair.faults {
                let path = format!("{path}{step}");
                let path = if path.is_empty() { "/".into() } else { path };
                found.push(Incompatibility { kind: *kind, path, detail: detail.clone() });
            }
            if let Some(branches) = &pair.any {
                let word = self.writer.kind(pair.ids.1).word().to_uppercase();
                found.push(Incompatibility {
                    kind: Reason::MissingUnionBranch,
                    path: if path.is_empty() { "/".into() } else { path.clone() },
                    detail: format!("reader union lacking writer type: {word}"),
                });
                // A branch of the same name says more: what in it does not fit.
                for (at, below) in branches.iter().enumerate() {
                    if self.same_named(*below) {
                        stack.push((*below, format!("{path}/{at}")));
                    }
                }
            }
            for (below, step) in pair.all.iter().rev() {
                stack.push((*below, format!("{path}{step}")));
            }
        }
        found
    }

    fn same_named(&self, index: usize) -> bool {
        let (reader, writer) = self.pairs[index].ids;
        match (self.reader.kind(reader), self.writer.kind(writer)) {
            (Kind::Record { named: new, .. }, Kind::Record { named: old, .. })
            | (Kind::Enum { named: new, .. }, Kind::Enum { named: old, .. })
            | (Kind::Fixed { named: new, .. }, Kind::Fixed { named: old, .. }) => same(new, old),
            _ => false,
        }
    }
}

impl Pair {
    fn fault(&mut self, reason: Reason, step: &str, detail: String) {
        self.faults.push((reason, step.to_owned(), detail));
    }
}

fn names_match(pair: &mut Pair, new: &Named, old: &Named) -> bool {
    let same = same(new, old);
    if !same {
        pair.fault(Reason::NameMismatch, "/name", format!("expected: {}", old.name));
    }
    same
}

/// Names match without their namespaces; an alias of the reader is a whole name.
fn same(new: &Named, old: &Named) -> bool {
    new.short() == old.short() || new.aliases.contains(&old.name)
}

/// The promotions of primitive types.
fn reads(reader: &Kind, writer: &Kind) -> bool {
    use Kind::*;
    matches!(
        (reader, writer),
        (Null, Null)
            | (Boolean, Boolean)
            | (Int, Int)
            | (Long, Int | Long)
            | (Float, Int | Long | Float)
            | (Double, Int | Long | Float | Double)
            | (Bytes | String, Bytes | String)
    )
}
