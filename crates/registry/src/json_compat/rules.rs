//! What in a newer schema keeps out data that an older one let in.

use super::TooLarge;
use super::graph::{Array, Criterion, Id, Kind, Number, Object, Rest, Schema, Text};
use serde_json::Value;
use std::collections::HashSet;
use std::fmt::Display;

/// How many pairs of parts are compared before it is given up.
pub(super) const STEPS_MAX: usize = 200_000;
/// How deep parts may lie in each other, references followed.
const DEPTH_MAX: usize = 200;
/// How many differences are worth listing.
const DIFFERENCES_MAX: usize = 100;

/// A change that does harm.
#[derive(Debug)]
pub(super) struct Difference {
    /// Confluent's word for it.
    pub word: &'static str,
    /// Where in the schema.
    pub path: String,
}

/// Why data of `old` may not fit `new`; empty when all of it does.
pub(super) fn differences(old: &Schema, new: &Schema) -> Result<Vec<Difference>, TooLarge> {
    let mut differ = Differ {
        old,
        new,
        path: Vec::new(),
        found: Vec::new(),
        around: HashSet::new(),
        depth: 0,
        steps: 0,
    };
    differ.compare(old.root, new.root)?;
    differ.found.truncate(DIFFERENCES_MAX);
    Ok(differ.found)
}

struct Differ<'a> {
    old: &'a Schema,
    new: &'a Schema,
    path: Vec<String>,
    found: Vec<Difference>,
    /// The pairs that the one at hand lies in: what holds of them need not be shown again.
    around: HashSet<(Id, Id)>,
    /// How deep this comparison lies in others.
    depth: usize,
    steps: usize,
}

type Compared = Result<(), TooLarge>;

impl<'a> Differ<'a> {
    fn compare(&mut self, old: Id, new: Id) -> Compared {
        let (old, new) = (self.old.follow(old), self.new.follow(new));
        self.steps += 1;
        if self.steps > STEPS_MAX || self.depth + self.around.len() > DEPTH_MAX {
            return Err(TooLarge);
        }
        if !self.around.insert((old, new)) {
            return Ok(());
        }
        let compared = self.pair(old, new);
        self.around.remove(&(old, new));
        compared
    }

    /// Whether one lets in what the other does; leaves no difference behind.
    fn fits(&mut self, old: Id, new: Id) -> Result<bool, TooLarge> {
        let known = self.found.len();
        self.compare(old, new)?;
        let fits = self.found.len() == known;
        self.found.truncate(known);
        Ok(fits)
    }

    fn pair(&mut self, old: Id, new: Id) -> Compared {
        let (a, b) = (&self.old.nodes[old].kind, &self.new.nodes[new].kind);
        match (a, b) {
            (Kind::Combined(..), Kind::Combined(..)) => {}
            (_, Kind::Combined(criterion, parts))
                if parts.len() == 1 || *criterion != Criterion::All =>
            {
                for part in parts {
                    if self.fits(old, *part)? {
                        return Ok(());
                    }
                }
            }
            (Kind::Combined(criterion, parts), _)
                if parts.len() == 1 || *criterion == Criterion::All =>
            {
                for part in parts {
                    if self.fits(*part, new)? {
                        return Ok(());
                    }
                }
            }
            _ => {}
        }
        match (a, b) {
            (Kind::Never, _) | (_, Kind::Any) => {}
            (Kind::Null, Kind::Null) | (Kind::Boolean, Kind::Boolean) => {}
            (Kind::Number(old), Kind::Number(new)) => self.numbers(old, new),
            (Kind::Text(old), Kind::Text(new)) => self.texts(old, new),
            (Kind::Enum(old), Kind::Enum(new)) => self.enums(old, new),
            (Kind::Const(old), Kind::Const(new)) => {
                if old != new {
                    self.differs("ENUM_ARRAY_CHANGED", "const");
                }
            }
            (Kind::Not(old), Kind::Not(new)) => self.nots(*old, *new)?,
            (Kind::Object(old), Kind::Object(new)) => self.objects(old, new)?,
            (Kind::Array(old), Kind::Array(new)) => self.arrays(old, new)?,
            (Kind::Combined(of, old), Kind::Combined(to, new)) => {
                self.combined((*of, old), (*to, new))?;
            }
            (Kind::Unknown(old), Kind::Unknown(new)) if old == new => {}
            // References that lead to nothing but themselves say nothing.
            (Kind::Reference(_), Kind::Reference(_)) => {}
            _ => self.differs("TYPE_CHANGED", ""),
        }
        Ok(())
    }

    fn differs(&mut self, word: &'static str, step: &str) {
        let mut path = format!("#/{}", self.path.join("/"));
        if !step.is_empty() {
            if !self.path.is_empty() {
                path.push('/');
            }
            path.push_str(step);
        }
        self.found.push(Difference { word, path });
    }

    fn within(
        &mut self,
        step: impl Display,
        compare: impl FnOnce(&mut Self) -> Compared,
    ) -> Compared {
        self.path.push(step.to_string());
        let compared = compare(self);
        self.path.pop();
        compared
    }

    /// A bound from above that came, or sank.
    fn upper(&mut self, step: &str, old: Option<f64>, new: Option<f64>, words: [&'static str; 2]) {
        match (old, new) {
            (None, Some(_)) => self.differs(words[0], step),
            (Some(old), Some(new)) if new < old => self.differs(words[1], step),
            _ => {}
        }
    }

    /// A bound from below that came, or rose.
    fn lower(&mut self, step: &str, old: Option<f64>, new: Option<f64>, words: [&'static str; 2]) {
        self.upper(step, old.map(|bound| -bound), new.map(|bound| -bound), words);
    }

    fn numbers(&mut self, old: &Number, new: &Number) {
        self.upper("maximum", old.maximum, new.maximum, ["MAXIMUM_ADDED", "MAXIMUM_DECREASED"]);
        self.lower("minimum", old.minimum, new.minimum, ["MINIMUM_ADDED", "MINIMUM_INCREASED"]);
        let words = ["EXCLUSIVE_MAXIMUM_ADDED", "EXCLUSIVE_MAXIMUM_DECREASED"];
        self.upper("exclusiveMaximum", old.exclusive_maximum, new.exclusive_maximum, words);
        let words = ["EXCLUSIVE_MINIMUM_ADDED", "EXCLUSIVE_MINIMUM_INCREASED"];
        self.lower("exclusiveMinimum", old.exclusive_minimum, new.exclusive_minimum, words);
        match (old.multiple_of, new.multiple_of) {
            (None, Some(_)) => self.differs("MULTIPLE_OF_ADDED", "multipleOf"),
            // What divides a divisor divides what it divides.
            (Some(old), Some(new)) if (old / new).fract() == 0.0 => {}
            (Some(old), Some(new)) if (new / old).fract() == 0.0 => {
                self.differs("MULTIPLE_OF_EXPANDED", "multipleOf");
            }
            (Some(_), Some(_)) => self.differs("MULTIPLE_OF_CHANGED", "multipleOf"),
            (_, None) => {}
        }
        if new.integer && !old.integer {
            self.differs("TYPE_NARROWED", "");
        }
    }

    fn texts(&mut self, old: &Text, new: &Text) {
        let words = ["MAX_LENGTH_ADDED", "MAX_LENGTH_DECREASED"];
        self.upper("maxLength", old.max_length, new.max_length, words);
        let words = ["MIN_LENGTH_ADDED", "MIN_LENGTH_INCREASED"];
        self.lower("minLength", old.min_length, new.min_length, words);
        match (&old.pattern, &new.pattern) {
            (None, Some(_)) => self.differs("PATTERN_ADDED", "pattern"),
            (Some(old), Some(new)) if old != new => self.differs("PATTERN_CHANGED", "pattern"),
            _ => {}
        }
    }

    fn enums(&mut self, old: &[Value], new: &[Value]) {
        if old.iter().all(|value| new.contains(value)) {
            return;
        }
        let narrowed = new.iter().all(|value| old.contains(value));
        self.differs(if narrowed { "ENUM_ARRAY_NARROWED" } else { "ENUM_ARRAY_CHANGED" }, "enum");
    }

    /// What must not be may only become less. The two change sides.
    fn nots(&mut self, old: Id, new: Id) -> Compared {
        let mut other = Differ {
            old: self.new,
            new: self.old,
            path: Vec::new(),
            found: Vec::new(),
            around: HashSet::new(),
            depth: self.depth + self.around.len(),
            steps: self.steps,
        };
        let fits = other.fits(new, old)?;
        self.steps = other.steps;
        if !fits {
            self.differs("NOT_TYPE_EXTENDED", "not");
        }
        Ok(())
    }

    fn objects(&mut self, old: &'a Object, new: &'a Object) -> Compared {
        for name in new.required.iter().filter(|name| !old.required.contains(*name)) {
            if let (Some(_), Some(property)) = (old.properties.get(name), new.properties.get(name))
                && !self.has_default(*property)
            {
                self.differs("REQUIRED_ATTRIBUTE_ADDED", &format!("required/{name}"));
            }
        }
        for (name, before) in &old.properties {
            let step = format!("properties/{name}");
            self.within(step, |differ| match new.properties.get(name) {
                Some(after) => differ.compare(*before, *after),
                None => differ.removed(name, *before, new),
            })?;
        }
        for (name, after) in &new.properties {
            if !old.properties.contains_key(name) {
                self.within(format!("properties/{name}"), |differ| {
                    differ.added(name, *after, old, new)
                })?;
            }
        }
        for (name, after) in &new.dependent {
            match old.dependent.get(name) {
                None => self.differs("DEPENDENCY_ARRAY_ADDED", &format!("dependencies/{name}")),
                Some(before) if after.is_subset(before) => {}
                Some(before) => {
                    let extended = before.is_subset(after);
                    let word = if extended {
                        "DEPENDENCY_ARRAY_EXTENDED"
                    } else {
                        "DEPENDENCY_ARRAY_CHANGED"
                    };
                    self.differs(word, &format!("dependencies/{name}"));
                }
            }
        }
        for (name, after) in &new.dependent_schemas {
            let step = format!("dependencies/{name}");
            match old.dependent_schemas.get(name) {
                None => self.differs("DEPENDENCY_SCHEMA_ADDED", &step),
                Some(before) => self.within(step, |differ| differ.compare(*before, *after))?,
            }
        }
        let words = ["ADDITIONAL_PROPERTIES_REMOVED", "ADDITIONAL_PROPERTIES_NARROWED"];
        self.rests("additionalProperties", old.rest, new.rest, words)?;
        let words = ["MAX_PROPERTIES_ADDED", "MAX_PROPERTIES_DECREASED"];
        self.upper("maxProperties", old.max_properties, new.max_properties, words);
        let words = ["MIN_PROPERTIES_ADDED", "MIN_PROPERTIES_INCREASED"];
        self.lower("minProperties", old.min_properties, new.min_properties, words);
        Ok(())
    }

    fn has_default(&self, property: Id) -> bool {
        let target = self.new.follow(property);
        self.new.nodes[property].has_default || self.new.nodes[target].has_default
    }

    /// A property that only the old schema names: what the new one says of further ones decides.
    fn removed(&mut self, name: &str, before: Id, new: &Object) -> Compared {
        match further(new, name) {
            Rest::Anything => {}
            Rest::Of(rest) => {
                if !self.fits(before, rest)? {
                    self.differs(
                        "PROPERTY_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL",
                        "",
                    );
                }
            }
            Rest::Nothing => {
                if !matches!(self.old.nodes[self.old.follow(before)].kind, Kind::Never) {
                    self.differs("PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL", "");
                }
            }
        }
        Ok(())
    }

    /// A property that only the new schema names: data of the old one may have had it already,
    /// where it let further ones in.
    fn added(&mut self, name: &str, after: Id, old: &Object, new: &Object) -> Compared {
        match further(old, name) {
            Rest::Anything => {
                if !matches!(self.new.nodes[self.new.follow(after)].kind, Kind::Any) {
                    self.differs("PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL", "");
                }
                return Ok(());
            }
            Rest::Of(rest) => {
                if !self.fits(rest, after)? {
                    self.differs("PROPERTY_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", "");
                }
            }
            Rest::Nothing => {}
        }
        if new.required.contains(name) && !self.has_default(after) {
            self.differs("REQUIRED_PROPERTY_ADDED_TO_UNOPEN_CONTENT_MODEL", "");
        }
        Ok(())
    }

    fn rests(&mut self, step: &str, old: Rest, new: Rest, words: [&'static str; 2]) -> Compared {
        match (old, new) {
            (_, Rest::Anything) | (Rest::Nothing, _) => Ok(()),
            (_, Rest::Nothing) => {
                self.differs(words[0], step);
                Ok(())
            }
            (Rest::Anything, Rest::Of(_)) => {
                self.differs(words[1], step);
                Ok(())
            }
            (Rest::Of(old), Rest::Of(new)) => self.within(step, |differ| differ.compare(old, new)),
        }
    }

    fn arrays(&mut self, old: &Array, new: &Array) -> Compared {
        match (old.items, new.items) {
            (Some(old), Some(new)) => self.within("items", |differ| differ.compare(old, new))?,
            (None, Some(_)) => self.differs("SCHEMA_ADDED", "items"),
            (_, None) => {}
        }
        for at in 0..old.tuple.len().max(new.tuple.len()) {
            let (before, after) = (old.tuple.get(at).copied(), new.tuple.get(at).copied());
            self.within(format!("items/{at}"), |differ| {
                match (before, after, old.rest, new.rest) {
                    (Some(before), Some(after), ..) => differ.compare(before, after),
                    (Some(before), None, _, rest) => differ.item_removed(before, rest),
                    (None, Some(after), rest, _) => differ.item_added(after, rest),
                    (None, None, ..) => Ok(()),
                }
            })?;
        }
        let words = ["ADDITIONAL_ITEMS_REMOVED", "ADDITIONAL_ITEMS_NARROWED"];
        self.rests("additionalItems", old.rest, new.rest, words)?;
        let words = ["MAX_ITEMS_ADDED", "MAX_ITEMS_DECREASED"];
        self.upper("maxItems", old.max_items, new.max_items, words);
        let words = ["MIN_ITEMS_ADDED", "MIN_ITEMS_INCREASED"];
        self.lower("minItems", old.min_items, new.min_items, words);
        let words = ["MAX_CONTAINS_ADDED", "MAX_CONTAINS_DECREASED"];
        self.upper("maxContains", old.max_contains, new.max_contains, words);
        let words = ["MIN_CONTAINS_ADDED", "MIN_CONTAINS_INCREASED"];
        self.lower("minContains", old.min_contains, new.min_contains, words);
        if new.unique && !old.unique {
            self.differs("UNIQUE_ITEMS_ADDED", "uniqueItems");
        }
        Ok(())
    }

    fn item_removed(&mut self, before: Id, rest: Rest) -> Compared {
        match rest {
            Rest::Anything => {}
            Rest::Of(rest) => {
                if !self.fits(before, rest)? {
                    self.differs("ITEM_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", "");
                }
            }
            Rest::Nothing => {
                if !matches!(self.old.nodes[self.old.follow(before)].kind, Kind::Never) {
                    self.differs("ITEM_REMOVED_FROM_CLOSED_CONTENT_MODEL", "");
                }
            }
        }
        Ok(())
    }

    fn item_added(&mut self, after: Id, rest: Rest) -> Compared {
        match rest {
            Rest::Anything => {
                if !matches!(self.new.nodes[self.new.follow(after)].kind, Kind::Any) {
                    self.differs("ITEM_ADDED_TO_OPEN_CONTENT_MODEL", "");
                }
            }
            Rest::Of(rest) => {
                if !self.fits(rest, after)? {
                    self.differs("ITEM_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", "");
                }
            }
            Rest::Nothing => {}
        }
        Ok(())
    }

    fn combined(&mut self, old: (Criterion, &[Id]), new: (Criterion, &[Id])) -> Compared {
        let ((of, old), (to, new)) = (old, new);
        let extended = match to {
            _ if of == to => true,
            Criterion::AnyOf => true,
            Criterion::OneOf => old.len() == 1 || (of == Criterion::All && new.len() == 1),
            Criterion::All => old.len() == 1 && new.len() == 1,
        };
        if !extended {
            self.differs("COMBINED_TYPE_CHANGED", "");
            return Ok(());
        }
        match to {
            Criterion::All if old.len() < new.len() => self.differs("PRODUCT_TYPE_EXTENDED", ""),
            // What had to fit all of several fits fewer of them too.
            Criterion::AnyOf | Criterion::OneOf
                if old.len() > new.len() && of != Criterion::All =>
            {
                self.differs("SUM_TYPE_NARROWED", "");
            }
            _ => {}
        }
        let mut edges = Vec::with_capacity(old.len());
        for before in old {
            let mut to = Vec::new();
            for (at, after) in new.iter().enumerate() {
                if self.fits(*before, *after)? {
                    to.push(at);
                }
            }
            edges.push(to);
        }
        if matched(&edges, new.len()) < old.len().min(new.len()) {
            self.differs("COMBINED_TYPE_SUBSCHEMAS_CHANGED", "");
        }
        Ok(())
    }
}

/// What an object's schema says of a property that it does not name.
fn further(object: &Object, name: &str) -> Rest {
    let of_pattern = object.patterns.iter().find(|(pattern, _)| pattern.is_match(name));
    match (of_pattern, object.rest) {
        (Some((_, id)), _) => Rest::Of(*id),
        // Confluent's registry takes an object with patterns for closed to other names.
        (None, Rest::Anything) if !object.patterns.is_empty() => Rest::Nothing,
        (None, rest) => rest,
    }
}

/// The most pairs that can be made when each is of two that fit and none is in two.
fn matched(edges: &[Vec<usize>], right: usize) -> usize {
    fn place(
        left: usize,
        edges: &[Vec<usize>],
        of: &mut [Option<usize>],
        seen: &mut [bool],
    ) -> bool {
        for at in &edges[left] {
            if std::mem::replace(&mut seen[*at], true) {
                continue;
            }
            if of[*at].is_none_or(|other| place(other, edges, of, seen)) {
                of[*at] = Some(left);
                return true;
            }
        }
        false
    }
    let mut of = vec![None; right];
    (0..edges.len()).filter(|left| place(*left, edges, &mut of, &mut vec![false; right])).count()
}
