//! The JSON Schema of the option structs, in one plain form that the reader follows and that editors
//! understand: every object closed, nothing nullable, a choice written out as whole objects.

use crate::formats::Format;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// The schema that the reader follows.
pub(crate) fn of<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    let root = schema.clone();
    normalise(&mut schema, &root);
    schema
}

/// The schema for editors: what `${VAR}` may stand for is also a text, and formats are patterns.
pub(crate) fn published<T: JsonSchema>(title: &str) -> Value {
    let mut schema = of::<T>();
    publish(&mut schema);
    drop_unused(&mut schema);
    schema["title"] = json!(title);
    schema
}

/// The schema that a `$ref` leads to.
pub(crate) fn resolve<'s>(root: &'s Value, mut schema: &'s Value) -> &'s Value {
    while let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        let name = target.rsplit('/').next().unwrap_or_default();
        schema = &root["$defs"][name];
    }
    schema
}

/// The alternatives of a choice.
pub(crate) fn choices(schema: &Value) -> Option<&Vec<Value>> {
    schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array)
}

/// The words that a field may be, where it is one of some words.
pub(crate) fn words(schema: &Value) -> Option<Vec<&str>> {
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return words.iter().map(Value::as_str).collect();
    }
    let alternatives = choices(schema)?.iter();
    let words = alternatives.map(|choice| match choice.get("const") {
        Some(word) => Some(vec![word.as_str()?]),
        None => words(choice),
    });
    Some(words.collect::<Option<Vec<_>>>()?.concat())
}

/// The names of all fields that are secrets.
pub(crate) fn secret_names(root: &Value) -> Vec<String> {
    fn walk(root: &Value, schema: &Value, names: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            if resolve(root, field).get("x-secret").is_some() {
                names.push(name.clone());
            }
        }
        match schema {
            Value::Object(object) => object.values().for_each(|child| walk(root, child, names)),
            Value::Array(items) => items.iter().for_each(|child| walk(root, child, names)),
            _ => {}
        }
    }
    let mut names = Vec::new();
    walk(root, root, &mut names);
    names
}

fn normalise(schema: &mut Value, root: &Value) {
    each_child(schema, &mut |child| normalise(child, root));
    let Some(object) = schema.as_object_mut() else { return };

    // What serde reads as `None` is a field that is not there, never a null.
    if object.get("default") == Some(&Value::Null) {
        object.remove("default");
    }
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|t| t != "null");
        if let [only] = types.as_slice() {
            object["type"] = only.clone();
        }
    }
    let flattened = object.contains_key("properties");
    if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
        choices.retain(|choice| choice["type"] != "null");
        if choices.len() == 1 && !flattened {
            let only = choices.remove(0);
            object.remove("anyOf");
            for (key, value) in only.as_object().cloned().unwrap_or_default() {
                object.entry(key).or_insert(value);
            }
        }
    }
    if object.contains_key("x-shorthand")
        && let Some(Value::Array(choices)) = object.get_mut("oneOf")
    {
        choices.iter_mut().for_each(explain_only_field);
    }
    let numeric = ["integer", "number"].map(Value::from);
    if object.get("type").is_some_and(|t| numeric.contains(t)) {
        object.remove("format");
    }

    if object.contains_key("properties") {
        if let Some(Value::Array(choices)) = object.remove("anyOf") {
            write_out(object, choices, root);
        } else if !object.contains_key("additionalProperties") {
            object.insert("additionalProperties".into(), json!(false));
        }
    } else if object.get("type") == Some(&json!("object"))
        && !object.contains_key("additionalProperties")
        && !object.contains_key("oneOf")
    {
        object.insert("additionalProperties".into(), json!(false));
    }
}

/// A struct with a choice flattened into it becomes a choice of whole objects.
fn write_out(object: &mut Map<String, Value>, choices: Vec<Value>, root: &Value) {
    let properties = object.remove("properties").unwrap_or_default();
    let required = object.remove("required").unwrap_or(json!([]));
    object.remove("type");
    let whole = choices.into_iter().map(|choice| {
        let mut choice = resolve(root, &choice).clone();
        normalise(&mut choice, root);
        let own = choice["properties"].as_object_mut().expect("a choice of objects");
        for (name, property) in properties.as_object().into_iter().flatten() {
            own.insert(name.clone(), property.clone());
        }
        let mut names = choice["required"].as_array().cloned().unwrap_or_default();
        names.extend(required.as_array().cloned().unwrap_or_default());
        choice["required"] = Value::Array(names);
        choice
    });
    object.insert("oneOf".into(), whole.collect());
}

/// The help of a choice is the help of the one field that it has.
fn explain_only_field(choice: &mut Value) {
    let help = choice["description"].clone();
    for field in choice["properties"].as_object_mut().into_iter().flatten() {
        field.1["description"] = help.clone();
    }
}

fn publish(schema: &mut Value) {
    each_child(schema, &mut publish);
    let Some(object) = schema.as_object_mut() else { return };
    let variable = r"\$\{";

    if let Some(shorthand) = object.remove("x-shorthand")
        && let Some(Value::Array(choices)) = object.get_mut("oneOf")
    {
        choices.insert(0, json!({ "type": "string", "enum": shorthand }));
        choices.push(json!({ "type": "string", "pattern": variable }));
    }
    if let Some(Value::Array(choices)) = object.get_mut("oneOf")
        && choices.iter().all(|choice| choice.get("const").is_some_and(Value::is_string))
    {
        choices.push(json!({ "type": "string", "pattern": variable }));
    }
    object.remove("x-chosen-by");
    object.remove("x-secret");
    if object.remove("x-positive").is_some() && object.get("type") != Some(&json!("string")) {
        object.insert("minimum".into(), json!(1));
    }
    if let Some(format) = object.remove("format").and_then(|f| Format::named(f.as_str()?))
        && let Some(pattern) = format.pattern
    {
        object.insert("pattern".into(), json!(format!("^({pattern}|.*{variable}.*)$")));
    }
    match object.get("type").and_then(Value::as_str) {
        Some("integer") => {
            object.insert("type".into(), json!(["integer", "string"]));
            object.insert("pattern".into(), json!(format!("^([0-9_]+|.*{variable}.*)$")));
        }
        Some(plain @ ("number" | "boolean")) if !object.contains_key("const") => {
            let types = json!([plain, "string"]);
            object.insert("type".into(), types);
            object.insert("pattern".into(), json!(variable));
        }
        Some("string") if object.contains_key("enum") => {
            let words = object.remove("enum").unwrap_or_default();
            object.remove("type");
            let variable = json!({ "type": "string", "pattern": variable });
            object.insert("anyOf".into(), json!([{ "type": "string", "enum": words }, variable]));
        }
        _ => {}
    }
}

/// The choices that were written out are not referred to any more.
fn drop_unused(schema: &mut Value) {
    loop {
        let text = schema.to_string();
        let Some(Value::Object(definitions)) = schema.get_mut("$defs") else { return };
        let before = definitions.len();
        definitions.retain(|name, _| text.contains(&format!("\"#/$defs/{name}\"")));
        if definitions.len() == before {
            return;
        }
    }
}

/// The schemas directly inside a schema.
fn each_child(schema: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    let Some(object) = schema.as_object_mut() else { return };
    for (key, value) in object.iter_mut() {
        match (key.as_str(), value) {
            ("properties" | "$defs", Value::Object(children)) => {
                children.values_mut().for_each(&mut *visit);
            }
            ("oneOf" | "anyOf", Value::Array(children)) => {
                children.iter_mut().for_each(&mut *visit)
            }
            ("items" | "additionalProperties" | "propertyNames", child @ Value::Object(_)) => {
                visit(child)
            }
            _ => {}
        }
    }
}
