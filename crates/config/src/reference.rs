//! The options as a page for people, made of the same schema that the reader follows, so that the
//! page cannot say anything else than `check` does.

use crate::formats::Format;
use crate::schema::{choices, resolve, words};
use serde_json::Value;
use std::collections::VecDeque;
use std::fmt::Write;

/// A part of the page: what is written under one key of a file.
struct Section<'s> {
    /// The definition's name in the schema.
    definition: String,
    /// The key, and that of the outermost section which led here.
    key: String,
    outer: String,
    schema: &'s Value,
}

struct Page<'s> {
    root: &'s Value,
    sections: Vec<Section<'s>>,
}

/// The page, in Markdown. `begin` is what stands above the options.
pub(crate) fn page(root: &Value, begin: &str) -> String {
    let mut page = Page { root, sections: Vec::new() };
    page.collect();
    let mut text = begin.to_owned();
    text.push_str("\n## Contents\n\n- [The whole file](#the-whole-file)\n");
    for section in &page.sections {
        let title = page.title(section);
        let _ = writeln!(text, "- [`{title}`](#{})", anchor(&title));
        for (name, _) in whole_choices(root, section.schema) {
            let below = format!("{title}: {name}");
            let _ = writeln!(text, "  - [`{name}`](#{})", anchor(&below));
        }
    }
    text.push_str("- [Kinds of values](#kinds-of-values)\n\n## The whole file\n\n");
    text.push_str(&page.table(root, &[]));
    for section in &page.sections {
        page.write(section, &mut text);
    }
    text.push_str(KINDS);
    text
}

const KINDS: &str = "
## Kinds of values

Every value may hold `${NAME}`, which is replaced by the variable of the environment, or
`${NAME:-text}` with a text where it is not set.

| kind | written as |
|---|---|
| duration | a number with its unit: `100ms`, `30s`, `5m`, `1h30m`, `30d`, `2w` |
| size | a number of bytes, or one with a unit: `512KiB`, `8MiB`, `1GB` |
| ratio | a percentage such as `5%`, or a number such as `0.05` |
| time | `2026-01-31T12:00:00Z` |
| character | one ASCII character in quotes, or `tab` |
| name | letters, digits, `_`, `-` and `.` |
| path | a file, relative to the pipeline file |
| column type | `boolean`, `int`, `bigint`, `float`, `double`, `string`, `bytes`, `date`, `time`, `timestamp`, `timestamp_us`, `ip`, `decimal(p, s)`, and in quotes `T[]`, `map<T>`, `struct<name T, …>` |
| secret | `${NAME}`, or `{ file: path }` with a file that holds it; it is never shown. A password or a token in a file may change: who logs in reads it again |
";

impl<'s> Page<'s> {
    /// Finds the definitions that get a section, in the order in which a reader meets them.
    fn collect(&mut self) {
        let mut due = VecDeque::from([(self.root, String::new())]);
        while let Some((schema, outer)) = due.pop_front() {
            let mut found = Vec::new();
            self.below(schema, &mut found);
            for (key, name, schema) in found {
                if self.sections.iter().any(|section| section.definition == name) {
                    continue;
                }
                let outer = if outer.is_empty() { key.clone() } else { outer.clone() };
                due.push_back((schema, outer.clone()));
                self.sections.push(Section { definition: name, key, outer, schema });
            }
        }
        self.sections.sort_by_key(|section| section.key != section.outer);
        // Formats stand with what has them, parts that several share at the end.
        let is_choice = |s: &Section<'_>| !whole_choices(self.root, s.schema).is_empty();
        let below = |s: &Section<'_>| s.key != s.outer && is_choice(s);
        let (choices, mut sections): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.sections).into_iter().partition(below);
        for choice in choices {
            let owner = sections.iter().position(|section| section.key == choice.outer);
            sections.insert(owner.map_or(0, |at| at + 1), choice);
        }
        self.sections = sections;
    }

    /// The objects that the options of this one lead to: key, definition, schema.
    fn below(&self, schema: &'s Value, found: &mut Vec<(String, String, &'s Value)>) {
        let whole = whole_choices(self.root, schema);
        let parts = whole.iter().map(|(_, choice)| *choice).chain([schema]);
        for part in parts {
            for (key, field) in part["properties"].as_object().into_iter().flatten() {
                if let Some((name, target)) = self.leads_to(field) {
                    // What chooses is described where it is chosen.
                    match is_inlined(part, key) {
                        true => self.below(target, found),
                        false => found.push((key.clone(), name, target)),
                    }
                }
            }
        }
    }

    /// The definition of an object that a field is, or is a list or a map of.
    fn leads_to(&self, field: &'s Value) -> Option<(String, &'s Value)> {
        let inner = inner(field);
        let name = definition(inner)?;
        let target = resolve(self.root, inner);
        let is_object =
            target.get("properties").is_some_and(|p| p.as_object().is_some_and(|p| !p.is_empty()));
        let is_choice = !whole_choices(self.root, target).is_empty();
        let is_secret = target.get("x-secret").is_some();
        ((is_object || is_choice) && !is_secret).then(|| (name.to_owned(), target))
    }

    /// The key where it is the only one of its name, otherwise with the section that led there.
    fn title(&self, section: &Section<'_>) -> String {
        let same = self.sections.iter().filter(|other| other.key == section.key).count();
        match same > 1 && section.outer != section.key {
            true => format!("{}.{}", section.outer, section.key),
            false => section.key.clone(),
        }
    }

    fn write(&self, section: &Section<'_>, text: &mut String) {
        let title = self.title(section);
        let _ = writeln!(text, "\n## `{title}`\n");
        if let Some(help) = section.schema["description"].as_str() {
            let _ = writeln!(text, "{help}\n");
        }
        let whole = whole_choices(self.root, section.schema);
        if whole.is_empty() {
            text.push_str(&self.table(section.schema, &[]));
            return;
        }
        if let Some(short) = section.schema["x-shorthand"].as_array() {
            let short: Vec<_> =
                short.iter().filter_map(Value::as_str).map(|w| format!("`{w}`")).collect();
            let _ = writeln!(
                text,
                "Written as the word alone ({}), all is as by default.\n",
                short.join(", ")
            );
        }
        let common = common(&whole);
        if !common.is_empty() {
            let all = &whole[0].1["properties"];
            text.push_str("All of them have:\n\n");
            text.push_str(HEAD);
            for name in &common {
                self.row(name, &all[*name], is_required(whole[0].1, name), text);
            }
        }
        for (name, choice) in &whole {
            let _ = writeln!(text, "\n### `{title}`: `{name}`\n");
            let only = choice["properties"].as_object().is_some_and(|fields| fields.len() == 1);
            if let Some(help) = choice["description"].as_str() {
                let _ = writeln!(text, "{help}\n");
            }
            let target = resolve(self.root, &choice["properties"][name.as_str()]);
            let is_object = target["type"] == "object";
            match only && is_object {
                true => text.push_str(&self.table(target, &[])),
                false => text.push_str(&self.table(choice, &common)),
            }
        }
    }

    /// The options of an object, but of those named.
    fn table(&self, schema: &Value, but: &[&str]) -> String {
        let mut text = HEAD.to_owned();
        let mut is_empty = true;
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            if but.contains(&name.as_str()) {
                continue;
            }
            is_empty = false;
            let target = resolve(self.root, field);
            match is_inlined(schema, name) && target.get("properties").is_some() {
                true => {
                    for (below, field) in target["properties"].as_object().into_iter().flatten() {
                        let path = format!("{name}.{below}");
                        self.row(&path, field, is_required(target, below), &mut text);
                    }
                }
                false => self.row(name, field, is_required(schema, name), &mut text),
            }
        }
        match is_empty {
            true => "It has no options.\n".into(),
            false => text,
        }
    }

    fn row(&self, name: &str, field: &Value, required: bool, text: &mut String) {
        let target = resolve(self.root, field);
        let help = field["description"].as_str().or(target["description"].as_str());
        let mut help = in_a_cell(help.unwrap_or_default());
        let explained = choices(target).into_iter().flatten();
        let explained = explained.filter_map(|choice| {
            let word = choice.get("const")?.as_str()?;
            let help = choice["description"].as_str().unwrap_or_default();
            Some(format!("<br>`{word}`: {}", in_a_cell(help)))
        });
        help.extend(explained);
        let default = match field.get("default").or_else(|| target.get("default")) {
            _ if required => "required".to_owned(),
            // Those of an object stand with its options.
            None | Some(Value::Object(_)) => String::new(),
            Some(Value::Array(items)) if items.is_empty() => String::new(),
            Some(Value::String(text)) if text.is_empty() => String::new(),
            Some(Value::String(text)) => format!("`{}`", in_a_cell(text)),
            Some(other) => format!("`{other}`"),
        };
        let kind = self.kind(field);
        let _ = writeln!(text, "| `{name}` | {kind} | {default} | {help} |");
    }

    /// What a value is, in words.
    fn kind(&self, field: &Value) -> String {
        if let Some(name) = definition(inner(field))
            && let Some(section) = self.sections.iter().find(|s| s.definition == name)
        {
            let title = self.title(section);
            let link = format!("[`{title}`](#{})", anchor(&title));
            return match (field.get("items"), field.get("additionalProperties")) {
                (Some(_), _) => format!("list of {link}"),
                (None, Some(Value::Object(_))) => format!("map of {link}"),
                _ => link,
            };
        }
        let target = resolve(self.root, field);
        if target.get("x-secret").is_some() {
            return "secret".into();
        }
        if let Some(words) = words(target) {
            let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
            return words.join(", ");
        }
        if let Some(choices) = choices(target) {
            let kinds: Vec<_> = choices.iter().map(|choice| self.kind(choice)).collect();
            return kinds.join(" or ");
        }
        if let Some(format) = target["format"].as_str().and_then(Format::named) {
            return match format.name {
                "duration_text" => "duration",
                "moment" => "time",
                "delimiter" => "character",
                "column_type" => "column type",
                "sql_name" | "avro_name" => "name",
                "regex" => "regular expression",
                other => other,
            }
            .into();
        }
        match target["type"].as_str() {
            Some("array") => {
                let (min, max) = (target["minItems"].as_u64(), target["maxItems"].as_u64());
                let count = match min.filter(|_| min == max) {
                    Some(exact) => format!("list of {exact}:"),
                    None => "list of".into(),
                };
                format!("{count} {}", self.kind(&target["items"]))
            }
            Some("object") => match target.get("additionalProperties") {
                Some(values @ Value::Object(_)) => format!("map of {}", self.kind(values)),
                _ => "object".into(),
            },
            Some("integer") => match (target["minimum"].as_u64(), target["maximum"].as_u64()) {
                (Some(min), Some(max)) => format!("number, {min} to {max}"),
                (Some(min), None) if min > 0 => format!("number, from {min}"),
                (None, Some(max)) => format!("number, up to {max}"),
                _ => "number".into(),
            },
            Some("boolean") => "`true` or `false`".into(),
            Some("string") => match target.get("const").and_then(Value::as_str) {
                Some(word) => format!("`{word}`"),
                None => "text".into(),
            },
            Some(other) => other.into(),
            None => "text".into(),
        }
    }
}

const HEAD: &str = "| option | what it is | unless given | |\n|---|---|---|---|\n";

/// What a list or a map has in it, or the value itself.
fn inner(field: &Value) -> &Value {
    match (field.get("items"), field.get("additionalProperties")) {
        (Some(items), _) => items,
        (None, Some(values @ Value::Object(_))) => values,
        _ => field,
    }
}

/// The name of the definition that is referred to.
fn definition(field: &Value) -> Option<&str> {
    field.get("$ref")?.as_str()?.rsplit('/').next()
}

/// The alternatives that are objects, each by the option that chooses it.
fn whole_choices<'s>(root: &'s Value, schema: &'s Value) -> Vec<(String, &'s Value)> {
    let alternatives = schema.get("oneOf").or_else(|| schema.get("anyOf"));
    let alternatives = alternatives.and_then(Value::as_array).into_iter().flatten();
    let whole = alternatives.filter_map(|choice| {
        let choice = resolve(root, choice);
        let fields = choice["properties"].as_object()?;
        let name = match choice["x-chosen-by"].as_str() {
            Some(name) => name,
            None if fields.len() == 1 => fields.keys().next()?,
            None => return None,
        };
        Some((name.to_owned(), choice))
    });
    whole.collect()
}

/// Whether an option's own options are written with it: it is the one that chooses.
fn is_inlined(owner: &Value, key: &str) -> bool {
    owner["x-chosen-by"] == key
        || (owner.get("x-chosen-by").is_none()
            && owner["properties"].as_object().is_some_and(|fields| fields.len() == 1)
            && owner["required"].as_array().is_some_and(|names| names.len() == 1))
}

/// The options that all alternatives have, and in the same way.
fn common<'s>(whole: &[(String, &'s Value)]) -> Vec<&'s str> {
    let [(_, first), others @ ..] = whole else { return Vec::new() };
    if others.is_empty() {
        return Vec::new();
    }
    let fields = first["properties"].as_object().into_iter().flatten();
    let names = fields.filter(|(name, field)| {
        let same = |other: &Value| {
            other["properties"].get(name.as_str()) == Some(*field)
                && is_required(other, name) == is_required(first, name)
        };
        others.iter().all(|(_, other)| same(other))
    });
    names.map(|(name, _)| name.as_str()).collect()
}

fn is_required(owner: &Value, name: &str) -> bool {
    owner["required"].as_array().is_some_and(|names| names.iter().any(|n| n == name))
}

/// A text as a cell of a table takes it.
fn in_a_cell(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ").replace('|', "\\|")
}

/// The anchor that a heading gets where Markdown is shown.
fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '_' | '-'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PipelineSpec;
    use std::collections::BTreeSet;

    fn made() -> String {
        page(&crate::schema::of::<PipelineSpec>(), "# Options\n")
    }

    #[test]
    fn every_link_has_its_heading_and_none_is_there_twice() {
        let page = made();
        let headings = page.lines().filter_map(|line| line.strip_prefix("##"));
        let anchors: Vec<String> =
            headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect();
        let known: BTreeSet<&String> = anchors.iter().collect();
        assert_eq!(known.len(), anchors.len(), "{anchors:?}");
        for link in page.split("](#").skip(1) {
            let link = link.split(')').next().unwrap().to_owned();
            assert!(known.contains(&link), "{link}");
        }
    }

    #[test]
    fn every_option_of_the_schema_is_on_the_page() {
        let schema = crate::schema::of::<PipelineSpec>();
        let page = made();
        let mut names = BTreeSet::new();
        fn walk(schema: &Value, names: &mut BTreeSet<String>) {
            match schema {
                Value::Object(object) => {
                    for (key, value) in object {
                        if let ("properties", Value::Object(fields)) = (key.as_str(), value) {
                            names.extend(fields.keys().cloned());
                        }
                        walk(value, names);
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| walk(item, names)),
                _ => {}
            }
        }
        walk(&schema, &mut names);
        assert!(names.len() > 100);
        for name in names {
            let is_there =
                page.contains(&format!("`{name}`")) || page.contains(&format!(".{name}`"));
            assert!(is_there, "{name} is not on the page");
        }
    }

    #[test]
    fn no_cell_breaks_its_table() {
        for line in made().lines().filter(|line| line.starts_with("| ")) {
            let bars = line.replace("\\|", "").matches('|').count();
            assert!(bars == 5 || bars == 3, "{line}");
        }
    }
}
