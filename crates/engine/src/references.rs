//! An Avro schema made whole: the types that it takes from other subjects put where they are first
//! named.

use millstream_core::{Error, RegisteredSchema, Result};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// The schema's text with its references in place.
pub fn inline(schema: &RegisteredSchema) -> Result<String> {
    if schema.references.is_empty() {
        return Ok(schema.text.to_string());
    }
    let parse = |text: &str| {
        serde_json::from_str::<Value>(text).map_err(|e| {
            Error::stop("schema", format!("schema {} is not JSON", schema.id)).because(e)
        })
    };
    let mut known = HashMap::new();
    for (_, text) in &schema.references {
        let definition = parse(text)?;
        if let Some(name) = definition.as_object().and_then(|object| full_name(object, "")) {
            known.insert(name, definition);
        }
    }
    let mut whole = parse(&schema.text)?;
    walk(&mut whole, "", &mut known);
    Ok(whole.to_string())
}

/// Replaces names by their definitions, each once: later mentions stay names.
fn walk(value: &mut Value, namespace: &str, known: &mut HashMap<String, Value>) {
    match value {
        Value::String(name) => {
            let qualified = qualify(name, namespace);
            if let Some(definition) = known.remove(&qualified) {
                *value = definition;
                // A definition from elsewhere begins in its own namespace.
                walk(value, "", known);
            }
        }
        Value::Array(branches) => {
            branches.iter_mut().for_each(|branch| walk(branch, namespace, known));
        }
        Value::Object(object) => {
            let own = full_name(object, namespace)
                .and_then(|full| full.rsplit_once('.').map(|(namespace, _)| namespace.to_owned()));
            let namespace = own.unwrap_or_else(|| namespace.to_owned());
            for key in ["type", "items", "values"] {
                if let Some(inner) = object.get_mut(key) {
                    walk(inner, &namespace, known);
                }
            }
            if let Some(Value::Array(fields)) = object.get_mut("fields") {
                for field in fields {
                    if let Some(inner) = field.get_mut("type") {
                        walk(inner, &namespace, known);
                    }
                }
            }
        }
        _ => {}
    }
}

fn full_name(object: &Map<String, Value>, namespace: &str) -> Option<String> {
    let name = object.get("name")?.as_str()?;
    let namespace = object.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
    Some(qualify(name, namespace))
}

fn qualify(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_core::SchemaKind;

    #[test]
    fn a_reference_is_defined_where_it_is_first_named() {
        let site = r#"{"type":"record","name":"Site","namespace":"web","fields":[]}"#;
        let text = r#"{"type":"record","name":"Visit","namespace":"web","fields":[
            {"name":"a","type":["null","Site"]},{"name":"b","type":"web.Site"}]}"#;
        let schema = RegisteredSchema {
            id: 1,
            kind: SchemaKind::Avro,
            text: text.into(),
            references: vec![("web.Site".into(), site.into())],
        };
        let whole: Value = serde_json::from_str(&inline(&schema).unwrap()).unwrap();
        assert_eq!(whole["fields"][0]["type"][1]["name"], "Site");
        assert_eq!(whole["fields"][1]["type"], "web.Site");
    }
}
