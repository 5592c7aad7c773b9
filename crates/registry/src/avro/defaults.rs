//! Whether a field's default is a value of its type.

use super::{Field, Id, Kind, Schema};
use serde_json::Value;

/// Checks every default of the schema's own records; those of references were checked before.
pub fn check(schema: &Schema) -> Result<(), String> {
    for node in schema.nodes.iter().filter(|node| !node.external) {
        let Kind::Record { named, fields, .. } = &node.kind else { continue };
        for Field { name, node, default, .. } in fields {
            if let Some(value) = default
                && !fits(schema, *node, value)
            {
                return Err(format!(
                    "{}.{name}: the default `{value}` is not a value of its type, {}",
                    named.name,
                    words(schema, *node)
                ));
            }
        }
    }
    Ok(())
}

/// Recurses no deeper than the value, whose depth the JSON parser bounds.
fn fits(schema: &Schema, id: Id, value: &Value) -> bool {
    match schema.kind(id) {
        Kind::Null => value.is_null(),
        Kind::Boolean => value.is_boolean(),
        Kind::Int => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        Kind::Long => value.as_i64().is_some(),
        Kind::Float | Kind::Double => value.is_number(),
        Kind::String => value.is_string(),
        Kind::Bytes => bytes(value).is_some(),
        Kind::Fixed { size, .. } => bytes(value).is_some_and(|len| len == *size),
        Kind::Enum { symbols, .. } => {
            value.as_str().is_some_and(|text| symbols.iter().any(|symbol| symbol == text))
        }
        Kind::Array(items) => {
            value.as_array().is_some_and(|list| list.iter().all(|item| fits(schema, *items, item)))
        }
        Kind::Map(values) => value
            .as_object()
            .is_some_and(|object| object.values().all(|item| fits(schema, *values, item))),
        // Since 1.12 of the specification the default may be of any branch.
        Kind::Union(branches) => branches.iter().any(|branch| fits(schema, *branch, value)),
        Kind::Record { fields, .. } => value.as_object().is_some_and(|object| {
            fields.iter().all(|field| match object.get(&field.name) {
                Some(value) => fits(schema, field.node, value),
                None => field.default.is_some(),
            })
        }),
    }
}

/// How many bytes a string stands for: a character each, up to 255.
fn bytes(value: &Value) -> Option<u64> {
    let text = value.as_str()?;
    text.chars().all(|c| u32::from(c) <= 255).then(|| text.chars().count() as u64)
}

fn words(schema: &Schema, id: Id) -> String {
    match schema.kind(id) {
        Kind::Union(branches) => {
            let words: Vec<_> = branches.iter().map(|id| schema.kind(*id).word()).collect();
            format!("a union of {}", words.join(", "))
        }
        kind => kind.word().to_owned(),
    }
}
