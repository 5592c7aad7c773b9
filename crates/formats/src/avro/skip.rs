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
    Array(Box<Skip>, usize),
    Map(Box<Skip>, usize),
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
            Type::Array(item) => Skip::Array(Box::new(inner(*item)), schema.node(*item).bytes_min),
            Type::Map(value) => {
                Skip::Map(Box::new(inner(*value)), 1 + schema.node(*value).bytes_min)
            }
            Type::Union(branches) => match schema.optional(id) {
                Some((null, some)) => Skip::Optional(null, Box::new(inner(some))),
                None => Skip::Union(branches.iter().map(|branch| inner(*branch)).collect()),
            },
            Type::Record(..) if open.contains(&id) => Skip::Walk(id),
            Type::Record(_, fields) => {
                open.push(id);
                let mut steps = Vec::with_capacity(fields.len());
                for field in fields {
                    match (steps.last_mut(), Self::within(schema, field.type_id, open, nodes)) {
                        (Some(Skip::Fixed(before)), Skip::Fixed(size)) => *before += size,
                        (_, skip) => steps.push(skip),
                    }
                }
                open.pop();
                Skip::Record(steps.into())
            }
        }
    }

    pub fn over(&self, schema: &Schema, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        match self {
            Skip::Fixed(size) => drop(cursor.take(*size)?),
            Skip::Boolean => drop(cursor.boolean()?),
            Skip::Int => drop(cursor.int()?),
            Skip::Long => drop(cursor.long()?),
            Skip::Bytes => drop(cursor.run()?),
            Skip::Enum(symbols) => drop(cursor.symbol(*symbols)?),
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
        }
        Ok(())
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
