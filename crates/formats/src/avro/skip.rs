//! Stepping over values that nobody uses, checking that they are whole.

use super::cursor::{Cursor, Fault, check_depth};
use super::schema::{Id, Schema, Type};

/// A type made ready to be stepped over: fields of a known size next to each other are one.
#[derive(Debug)]
pub(crate) enum Skip {
    Fixed(usize),
    Boolean,
    Int,
    Long,
    Bytes,
    Enum(usize),
    /// The place of null.
    Optional(usize, Box<Skip>),
    Union(Box<[Skip]>),
    Record(Box<[Skip]>),
    /// An optional string, bytes, or number: the place of null.
    OptionalBytes(usize),
    OptionalLong(usize),
    Array(Box<Skip>, usize),
    /// An array of strings.
    ArrayOfBytes,
    Map(Box<Skip>, usize),
    /// A map of strings to strings.
    MapOfBytes,
    /// Stepped over by its schema: a record within itself, or what would make too large a tree.
    Walk(Id),
}

/// A schema whose types refer to others many times over unfolds to more than memory has.
const NODES_MAX: usize = 10_000;

impl Skip {
    pub fn of(schema: &Schema, id: Id) -> Skip {
        Self::within(schema, id, &mut Vec::new(), &mut 0)
    }

    fn within(schema: &Schema, id: Id, open: &mut Vec<Id>, nodes: &mut usize) -> Skip {
        *nodes += 1;
        if *nodes > NODES_MAX {
            return Skip::Walk(id);
        }
        let mut inner = |id: Id| Self::within(schema, id, open, nodes);
        match schema.kind(id) {
            Type::Null => Skip::Fixed(0),
            Type::Boolean => Skip::Boolean,
            Type::Int => Skip::Int,
            Type::Long => Skip::Long,
            Type::Float => Skip::Fixed(4),
            Type::Double => Skip::Fixed(8),
            Type::Bytes | Type::String => Skip::Bytes,
            Type::Fixed(_, size) => Skip::Fixed(*size),
            Type::Enum(_, symbols, _) => Skip::Enum(symbols.len()),
            Type::Array(item) => match inner(*item) {
                Skip::Bytes => Skip::ArrayOfBytes,
                skip => Skip::Array(Box::new(skip), schema.node(*item).bytes_min),
            },
            Type::Map(value) => match inner(*value) {
                Skip::Bytes => Skip::MapOfBytes,
                skip => Skip::Map(Box::new(skip), 1 + schema.node(*value).bytes_min),
            },
            Type::Union(branches) => match schema.optional(id) {
                Some((null, some)) => match inner(some) {
                    Skip::Bytes => Skip::OptionalBytes(null),
                    Skip::Long => Skip::OptionalLong(null),
                    skip => Skip::Optional(null, Box::new(skip)),
                },
                None => Skip::Union(branches.iter().map(|branch| inner(*branch)).collect()),
            },
            Type::Record(..) if open.contains(&id) => Skip::Walk(id),
            Type::Record(_, fields) => {
                open.push(id);
                let steps = fields
                    .iter()
                    .map(|field| Self::within(schema, field.type_id, open, nodes))
                    .collect();
                open.pop();
                Skip::in_a_row(steps)
            }
        }
    }

    /// What stands one after the other in a record, as one.
    pub fn in_a_row(steps: Vec<Skip>) -> Skip {
        let mut flat = Vec::with_capacity(steps.len());
        for step in steps {
            match (flat.last_mut(), step) {
                (_, Skip::Record(inner)) => flat.extend(inner),
                (Some(Skip::Fixed(before)), Skip::Fixed(size)) => *before += size,
                (_, step) => flat.push(step),
            }
        }
        Skip::Record(flat.into())
    }

    /// What is small is done in place.
    #[inline(always)]
    pub fn over(&self, schema: &Schema, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        match self {
            Skip::Fixed(size) => drop(cursor.take(*size)?),
            Skip::Boolean => drop(cursor.boolean()?),
            Skip::Int => drop(cursor.int()?),
            Skip::Long => cursor.skip_long()?,
            Skip::Bytes => drop(cursor.run()?),
            Skip::Enum(symbols) => drop(cursor.symbol(*symbols)?),
            Skip::OptionalBytes(null) => {
                if cursor.branch(2)? != *null {
                    cursor.run()?;
                }
            }
            Skip::OptionalLong(null) => {
                if cursor.branch(2)? != *null {
                    cursor.skip_long()?;
                }
            }
            nested => nested.over_nested(schema, cursor)?,
        }
        Ok(())
    }

    #[inline(never)]
    fn over_nested(&self, schema: &Schema, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        match self {
            Skip::ArrayOfBytes => runs(cursor, 1)?,
            Skip::MapOfBytes => runs(cursor, 2)?,
            Skip::Optional(null, some) => {
                if cursor.branch(2)? != *null {
                    some.over(schema, cursor)?;
                }
            }
            Skip::Union(branches) => {
                branches[cursor.branch(branches.len())?].over(schema, cursor)?;
            }
            Skip::Record(steps) => {
                for step in steps {
                    step.over(schema, cursor)?;
                }
            }
            Skip::Array(item, bytes_min) => loop {
                match cursor.block(*bytes_min)? {
                    (0, _) => break,
                    (_, Some(size)) => drop(cursor.take(size)?),
                    (items, None) => {
                        for _ in 0..items {
                            item.over(schema, cursor)?;
                        }
                    }
                }
            },
            Skip::Map(value, bytes_min) => loop {
                match cursor.block(*bytes_min)? {
                    (0, _) => break,
                    (_, Some(size)) => drop(cursor.take(size)?),
                    (items, None) => {
                        for _ in 0..items {
                            cursor.run()?;
                            value.over(schema, cursor)?;
                        }
                    }
                }
            },
            Skip::Walk(id) => by_schema(schema, *id, cursor, 0)?,
            small => small.over(schema, cursor)?,
        }
        Ok(())
    }
}

/// Blocks of items that are so many strings each.
fn runs(cursor: &mut Cursor<'_>, each: usize) -> Result<(), Fault> {
    loop {
        match cursor.block(each)? {
            (0, _) => return Ok(()),
            (_, Some(size)) => drop(cursor.take(size)?),
            (items, None) => {
                for _ in 0..items * each {
                    cursor.run()?;
                }
            }
        }
    }
}

/// Steps over a value by walking the schema, which may lead around in circles.
pub(crate) fn by_schema(
    schema: &Schema,
    id: Id,
    cursor: &mut Cursor<'_>,
    depth: usize,
) -> Result<(), Fault> {
    check_depth(depth)?;
    match schema.kind(id) {
        Type::Union(branches) => {
            let branch = branches[cursor.branch(branches.len())?];
            by_schema(schema, branch, cursor, depth + 1)
        }
        Type::Record(_, fields) => {
            for field in fields {
                by_schema(schema, field.type_id, cursor, depth + 1)
                    .map_err(|fault| fault.within(&field.name))?;
            }
            Ok(())
        }
        Type::Array(item) => loop {
            match cursor.block(schema.node(*item).bytes_min)? {
                (0, _) => break Ok(()),
                (_, Some(size)) => drop(cursor.take(size)?),
                (items, None) => {
                    for _ in 0..items {
                        by_schema(schema, *item, cursor, depth + 1)?;
                    }
                }
            }
        },
        Type::Map(value) => loop {
            match cursor.block(1 + schema.node(*value).bytes_min)? {
                (0, _) => break Ok(()),
                (_, Some(size)) => drop(cursor.take(size)?),
                (items, None) => {
                    for _ in 0..items {
                        cursor.run()?;
                        by_schema(schema, *value, cursor, depth + 1)?;
                    }
                }
            }
        },
        _ => Skip::of(schema, id).over(schema, cursor),
    }
}
