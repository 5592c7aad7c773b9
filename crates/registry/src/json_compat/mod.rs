//! Whether data that one JSON Schema lets in is let in by another: Confluent's rules, decided on the
//! schemas alone.
//!
//! The schemas are walked side by side, and what differs is named with Confluent's word for it. Some
//! words are of changes that let more in, and do no harm; any other makes the new schema
//! incompatible. Objects and arrays are open (any further property goes), closed, or in between
//! (further ones must fit a schema), and that decides what adding and removing a property means: a
//! reader that knows a property of an open writer may find anything under its name.
//!
//! What is not compared: `if`, the schemas of `contains` and `propertyNames`, formats, and whatever a
//! schema says beside a `$ref`.

mod graph;
mod rules;

use crate::level::Level;

pub(crate) use graph::Schema;

/// The two schemas are too large to compare.
#[derive(Debug, thiserror::Error)]
#[error("comparing the schemas takes more than {} steps", rules::STEPS_MAX)]
pub(crate) struct TooLarge;

/// Messages for what `level` finds wrong between a new schema and an old one.
pub(crate) fn check(new: &Schema, old: &Schema, level: Level) -> Result<Vec<String>, TooLarge> {
    let mut messages = Vec::new();
    let mut add = |(reader, writer): (&Schema, &Schema), (reads, wrote): (&str, &str)| {
        for difference in rules::differences(writer, reader)? {
            let rules::Difference { word, path } = difference;
            messages.push(format!(
                "{{errorType:'{word}', description:'The {reads} schema does not let in, at path \
                 '{path}', all that the {wrote} schema lets in', additionalInfo:''}}"
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
