//! The JSON Schema that editors complete by.

use millstream_config::{json_schema, parse, tests_json_schema};
use serde_json::Value;
use std::path::Path;

#[test]
fn the_schema_of_a_pipeline() {
    insta::assert_json_snapshot!(json_schema());
}

#[test]
fn the_schema_of_tests() {
    insta::assert_json_snapshot!(tests_json_schema());
}

#[test]
fn every_field_of_the_schema_is_explained_and_nothing_in_it_is_ours_alone() {
    fn walk(schema: &Value, path: &str) {
        let Some(object) = schema.as_object() else { return };
        for (key, child) in object {
            assert!(!key.starts_with("x-"), "{path}: {key}");
            let known = [
                "$schema",
                "$defs",
                "$ref",
                "title",
                "description",
                "type",
                "properties",
                "required",
                "additionalProperties",
                "items",
                "minItems",
                "maxItems",
                "minimum",
                "maximum",
                "enum",
                "const",
                "oneOf",
                "anyOf",
                "default",
                "pattern",
                "propertyNames",
                "minProperties",
            ];
            assert!(known.contains(&key.as_str()), "{path}: the reader does not know {key}");
            match child {
                Value::Object(children) if key == "properties" || key == "$defs" => {
                    for (name, child) in children {
                        let path = format!("{path}/{name}");
                        let described = child.get("description").is_some();
                        assert!(key == "$defs" || described, "{path} has no help");
                        walk(child, &path);
                    }
                }
                Value::Array(choices) if key == "oneOf" || key == "anyOf" => {
                    choices.iter().for_each(|choice| walk(choice, path));
                }
                child if key != "default" => walk(child, path),
                _ => {}
            }
        }
    }
    for schema in [json_schema(), tests_json_schema()] {
        let text = schema.to_string();
        walk(&schema, "");
        for (name, _) in schema["$defs"].as_object().unwrap() {
            assert!(text.contains(&format!("\"#/$defs/{name}\"")), "{name} is not used");
        }
    }
}

/// Every pipeline under `examples/` at the top of the repository is right.
#[test]
fn the_examples_are_accepted() {
    fn yaml_files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                yaml_files(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                found.push(path);
            }
        }
    }
    let mut files = Vec::new();
    yaml_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples"), &mut files);
    files.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/navigation.yaml"));
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        // Where an example needs a variable, an address is a text as good as another.
        let env =
            |name: &str| (!text.contains(&format!("${{{name}:-"))).then(|| "http://x".to_owned());
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let read = if name.ends_with(".test.yaml") {
            millstream_config::parse_tests(&text, &file, &env).map(drop)
        } else if text.starts_with("pipeline:") || text.contains("\npipeline:") {
            parse(&text, &file, &env).map(drop)
        } else {
            continue;
        };
        assert!(read.is_ok(), "{}", read.unwrap_err());
    }
}
