//! JSON Schema's compatibility as a table: an old schema, a new one, and who takes whose data.

use crate::verdicts::{Case, NO, YES, judge};
use millstream_core::SchemaKind;
use millstream_registry::{Config, Level, NewSchema, Registry};

const TYPES: &[Case] = &[
    ("same", r#"{"type":"string"}"#, r#"{"type":"string"}"#, YES, YES),
    ("integer to number", r#"{"type":"integer"}"#, r#"{"type":"number"}"#, YES, NO),
    ("string to integer", r#"{"type":"string"}"#, r#"{"type":"integer"}"#, NO, NO),
    ("boolean to null", r#"{"type":"boolean"}"#, r#"{"type":"null"}"#, NO, NO),
    ("anything is let in", r#"{"type":"string"}"#, r#"{}"#, YES, NO),
    ("true is anything", r#"{"type":"array"}"#, "true", YES, NO),
    ("false is nothing", "false", r#"{"type":"string"}"#, YES, NO),
    ("made nullable", r#"{"type":"string"}"#, r#"{"type":["string","null"]}"#, YES, NO),
    ("titles do not matter", r#"{"type":"null","title":"a"}"#, r#"{"type":"null"}"#, YES, YES),
    ("a type is meant by its words", r#"{"maxLength":3}"#, r#"{"type":"string"}"#, YES, NO),
    ("unknown references", r#"{"$ref":"x.json"}"#, r#"{"$ref":"x.json"}"#, YES, YES),
    ("other unknown ones", r#"{"$ref":"x.json"}"#, r#"{"$ref":"y.json"}"#, NO, NO),
];

const BOUNDS: &[Case] = &[
    (
        "maximum raised",
        r#"{"type":"number","maximum":1}"#,
        r#"{"type":"number","maximum":2}"#,
        YES,
        NO,
    ),
    ("minimum gone", r#"{"type":"number","minimum":1}"#, r#"{"type":"number"}"#, YES, NO),
    (
        "exclusive bounds",
        r#"{"type":"number","exclusiveMinimum":1,"exclusiveMaximum":5}"#,
        r#"{"type":"number","exclusiveMinimum":0,"exclusiveMaximum":6}"#,
        YES,
        NO,
    ),
    (
        "multiple of less",
        r#"{"type":"integer","multipleOf":10}"#,
        r#"{"type":"integer","multipleOf":5}"#,
        YES,
        NO,
    ),
    (
        "multiple of other",
        r#"{"type":"integer","multipleOf":10}"#,
        r#"{"type":"integer","multipleOf":11}"#,
        NO,
        NO,
    ),
    (
        "longer text",
        r#"{"type":"string","maxLength":3}"#,
        r#"{"type":"string","maxLength":4}"#,
        YES,
        NO,
    ),
    (
        "shorter least text",
        r#"{"type":"string","minLength":3}"#,
        r#"{"type":"string","minLength":1}"#,
        YES,
        NO,
    ),
    ("pattern gone", r#"{"type":"string","pattern":"a"}"#, r#"{"type":"string"}"#, YES, NO),
    (
        "pattern changed",
        r#"{"type":"string","pattern":"a"}"#,
        r#"{"type":"string","pattern":"b"}"#,
        NO,
        NO,
    ),
    ("enum extended", r#"{"enum":["a"]}"#, r#"{"enum":["a","b"]}"#, YES, NO),
    ("enum changed", r#"{"enum":["a","c"]}"#, r#"{"enum":["a","b"]}"#, NO, NO),
    ("enum reordered", r#"{"enum":["a","b"]}"#, r#"{"enum":["b","a"]}"#, YES, YES),
    (
        "enum of a type dropped",
        r#"{"type":"string","enum":["a"]}"#,
        r#"{"type":"string"}"#,
        YES,
        NO,
    ),
    ("const changed", r#"{"const":1}"#, r#"{"const":2}"#, NO, NO),
    ("not less", r#"{"not":{"type":"number"}}"#, r#"{"not":{"type":"integer"}}"#, YES, NO),
];

const CLOSED: &str =
    r#"{"type":"object","properties":{"a":{"type":"string"}},"additionalProperties":false}"#;
const OPEN: &str = r#"{"type":"object","properties":{"a":{"type":"string"}}}"#;
const TEXTS: &str = r#"{"type":"object","properties":{"a":{"type":"string"}},"additionalProperties":{"type":"string"}}"#;

const OBJECTS: &[Case] = &[
    ("closed to open", CLOSED, OPEN, YES, NO),
    ("closed to texts", CLOSED, TEXTS, YES, NO),
    ("texts to open", TEXTS, OPEN, YES, NO),
    (
        "optional property added to a closed one",
        CLOSED,
        r#"{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"}},"additionalProperties":false}"#,
        YES,
        NO,
    ),
    (
        "required property added to a closed one",
        CLOSED,
        r#"{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"}},"required":["b"],"additionalProperties":false}"#,
        NO,
        NO,
    ),
    (
        "required property with a default added to a closed one",
        CLOSED,
        r#"{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer","default":0}},"required":["b"],"additionalProperties":false}"#,
        YES,
        NO,
    ),
    (
        "property added to an open one",
        OPEN,
        r#"{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"}}}"#,
        NO,
        YES,
    ),
    (
        "property of any type added to an open one",
        OPEN,
        r#"{"type":"object","properties":{"a":{"type":"string"},"b":{}}}"#,
        YES,
        YES,
    ),
    (
        "property that further ones cover",
        TEXTS,
        r#"{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"string"}},"additionalProperties":{"type":"string"}}"#,
        YES,
        YES,
    ),
    (
        "property that further ones do not cover",
        TEXTS,
        r#"{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"}},"additionalProperties":{"type":"string"}}"#,
        NO,
        NO,
    ),
    (
        "property that a pattern covers",
        r#"{"type":"object","properties":{"a":{"type":"string"}},"patternProperties":{"^i_":{"type":"integer"}},"additionalProperties":false}"#,
        r#"{"type":"object","properties":{"a":{"type":"string"},"i_1":{"type":"number"}},"patternProperties":{"^i_":{"type":"integer"}},"additionalProperties":false}"#,
        YES,
        NO,
    ),
    (
        "made required",
        OPEN,
        r#"{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}"#,
        NO,
        YES,
    ),
    (
        "made required with a default",
        OPEN,
        r#"{"type":"object","properties":{"a":{"type":"string","default":""}},"required":["a"]}"#,
        YES,
        YES,
    ),
    (
        "property widened",
        r#"{"type":"object","properties":{"a":{"type":"integer"}}}"#,
        r#"{"type":"object","properties":{"a":{"type":"number"}}}"#,
        YES,
        NO,
    ),
    (
        "fewer properties let in",
        r#"{"type":"object","maxProperties":3}"#,
        r#"{"type":"object","maxProperties":2}"#,
        NO,
        YES,
    ),
    (
        "dependency added",
        OPEN,
        r#"{"type":"object","properties":{"a":{"type":"string"}},"dependentRequired":{"a":["b"]}}"#,
        NO,
        YES,
    ),
];

const ARRAYS: &[Case] = &[
    (
        "items widened",
        r#"{"type":"array","items":{"type":"integer"}}"#,
        r#"{"type":"array","items":{"type":"number"}}"#,
        YES,
        NO,
    ),
    (
        "items freed",
        r#"{"type":"array","items":{"type":"integer"}}"#,
        r#"{"type":"array"}"#,
        YES,
        NO,
    ),
    ("more items", r#"{"type":"array","maxItems":1}"#, r#"{"type":"array","maxItems":2}"#, YES, NO),
    ("no longer unique", r#"{"type":"array","uniqueItems":true}"#, r#"{"type":"array"}"#, YES, NO),
    (
        "item added to a closed tuple",
        r#"{"type":"array","items":[{"type":"string"}],"additionalItems":false}"#,
        r#"{"type":"array","items":[{"type":"string"},{"type":"null"}],"additionalItems":false}"#,
        YES,
        NO,
    ),
    (
        "the same of 2020-12",
        r#"{"type":"array","prefixItems":[{"type":"string"}],"items":false}"#,
        r#"{"type":"array","prefixItems":[{"type":"string"},{"type":"null"}],"items":false}"#,
        YES,
        NO,
    ),
    (
        "item added to an open tuple",
        r#"{"type":"array","items":[{"type":"string"}]}"#,
        r#"{"type":"array","items":[{"type":"string"},{"type":"null"}]}"#,
        NO,
        YES,
    ),
];

const COMBINED: &[Case] = &[
    (
        "into oneOf",
        r#"{"type":"string"}"#,
        r#"{"oneOf":[{"type":"null"},{"type":"string"}]}"#,
        YES,
        NO,
    ),
    (
        "oneOf extended",
        r#"{"oneOf":[{"type":"string"}]}"#,
        r#"{"oneOf":[{"type":"string"},{"type":"null"}]}"#,
        YES,
        NO,
    ),
    (
        "oneOf reordered",
        r#"{"oneOf":[{"type":"null"},{"type":"string"}]}"#,
        r#"{"oneOf":[{"type":"string"},{"type":"null"}]}"#,
        YES,
        YES,
    ),
    (
        "oneOf of one is itself",
        r#"{"oneOf":[{"type":"string"}]}"#,
        r#"{"type":"string"}"#,
        YES,
        YES,
    ),
    (
        "oneOf to anyOf",
        r#"{"oneOf":[{"type":"string"},{"type":"null"}]}"#,
        r#"{"anyOf":[{"type":"string"},{"type":"null"}]}"#,
        YES,
        NO,
    ),
    (
        "allOf narrowed",
        r#"{"allOf":[{"type":"string"},{"maxLength":3}]}"#,
        r#"{"allOf":[{"type":"string"}]}"#,
        YES,
        NO,
    ),
    (
        "two branches do not share one",
        r#"{"anyOf":[{"type":"integer"},{"type":"string"}]}"#,
        r#"{"anyOf":[{"type":"number"},{"type":"boolean"}]}"#,
        NO,
        NO,
    ),
    (
        "branches find their partners",
        r#"{"anyOf":[{"type":"integer"},{"type":"number"}]}"#,
        r#"{"anyOf":[{"type":"number"},{"type":"integer"}]}"#,
        YES,
        YES,
    ),
];

const TREE: &str = r##"{"$defs":{"t":{"type":"object","additionalProperties":false,"properties":{
    "v":{"type":"integer"},"kids":{"type":"array","items":{"$ref":"#/$defs/t"}}}}},"$ref":"#/$defs/t"}"##;

const RECURSIVE: &[Case] = &[
    ("tree same", TREE, TREE, YES, YES),
    (
        "tree widened",
        TREE,
        r##"{"$defs":{"t":{"type":"object","additionalProperties":false,"properties":{
            "v":{"type":"number"},"kids":{"type":"array","items":{"$ref":"#/$defs/t"}}}}},"$ref":"#/$defs/t"}"##,
        YES,
        NO,
    ),
    ("a reference to itself", r##"{"$ref":"#"}"##, r##"{"$ref":"#"}"##, YES, YES),
    (
        "by reference or in place",
        r##"{"type":"object","properties":{"a":{"$ref":"#/$defs/s"}},"$defs":{"s":{"type":"string"}}}"##,
        OPEN,
        YES,
        YES,
    ),
];

fn set(registry: &Registry, subject: &str, level: Level) {
    let config = Config { compatibility_level: Some(level), ..Config::default() };
    registry.set_config(Some(subject), config).unwrap();
}

#[test]
fn verdicts_are_those_of_the_table() {
    judge(&[TYPES, BOUNDS, OBJECTS, ARRAYS, COMBINED, RECURSIVE], |old, new, level| {
        let registry = Registry::in_memory();
        set(&registry, "s", level);
        registry.register("s", &NewSchema::of(SchemaKind::Json, old), false).unwrap();
        let new = NewSchema::of(SchemaKind::Json, new);
        registry.compatibility("s", None, &new, false).unwrap()
    });
}

#[test]
fn a_refusal_names_the_change_and_its_place() {
    let registry = Registry::in_memory();
    registry.register("s", &NewSchema::of(SchemaKind::Json, OPEN), false).unwrap();
    let new = r#"{"type":"object","properties":{"a":{"type":"string","maxLength":1}}}"#;
    let error = registry.register("s", &NewSchema::of(SchemaKind::Json, new), false).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("errorType:'MAX_LENGTH_ADDED'"), "{text}");
    assert!(text.contains("'#/properties/a/maxLength'"), "{text}");
    assert!(text.contains("oldSchemaVersion: 1"), "{text}");
}

#[test]
fn transitive_levels_ask_all_versions() {
    let steps = [
        r#"{"type":"integer","maximum":1}"#,
        r#"{"type":"integer"}"#,
        r#"{"type":"integer","maximum":2}"#,
        r#"{"type":"integer","maximum":0}"#,
    ];
    let registry = Registry::in_memory();
    set(&registry, "s", Level::None);
    for text in &steps[..3] {
        registry.register("s", &NewSchema::of(SchemaKind::Json, *text), false).unwrap();
    }
    let last = NewSchema::of(SchemaKind::Json, r#"{"type":"integer","maximum":3}"#);
    for (level, fits) in [(Level::Backward, true), (Level::BackwardTransitive, false)] {
        set(&registry, "s", level);
        let messages = registry.compatibility("s", None, &last, false).unwrap();
        assert_eq!(messages.is_empty(), fits, "{level:?}: {messages:?}");
    }
}

#[test]
fn references_to_other_subjects_are_compared() {
    let registry = Registry::in_memory();
    set(&registry, "item", Level::None);
    let item = |text: &str| NewSchema::of(SchemaKind::Json, text);
    registry.register("item", &item(r#"{"type":"integer"}"#), false).unwrap();
    registry.register("item", &item(r#"{"type":"number"}"#), false).unwrap();
    registry.register("item", &item(r#"{"type":"string"}"#), false).unwrap();
    let list = |version| NewSchema {
        references: Some(vec![millstream_registry::Reference {
            name: "item.json".into(),
            subject: "item".into(),
            version,
        }]),
        ..NewSchema::of(SchemaKind::Json, r#"{"type":"array","items":{"$ref":"item.json"}}"#)
    };
    registry.register("list", &list(1), false).unwrap();
    assert!(registry.compatibility("list", None, &list(2), false).unwrap().is_empty());
    assert!(!registry.compatibility("list", None, &list(3), false).unwrap().is_empty());
}

#[test]
fn hostile_schemas_are_refused_in_bounded_time() {
    let registry = Registry::in_memory();
    let branch =
        |at| format!(r#"{{"type":"object","properties":{{"p{at}":{{"type":"string"}}}}}}"#);
    let wide: Vec<String> = (0..1_000).map(branch).collect();
    let wide = format!(r#"{{"anyOf":[{}]}}"#, wide.join(","));
    registry.register("wide", &NewSchema::of(SchemaKind::Json, wide.clone()), false).unwrap();
    let other = wide.replace("string", "integer");
    let error = registry
        .compatibility("wide", None, &NewSchema::of(SchemaKind::Json, other), false)
        .unwrap_err();
    assert!(error.to_string().contains("steps"), "{error}");
    // A chain of references as long as a schema may be.
    let link = |at: usize| {
        format!(r##""l{at}":{{"type":"array","items":{{"$ref":"#/$defs/l{}"}}}}"##, at + 1)
    };
    let chain: Vec<String> = (0..5_000).map(link).collect();
    let chain = |last: &str| {
        format!(
            r##"{{"$ref":"#/$defs/l0","$defs":{{{},"l5000":{{"type":"{last}"}}}}}}"##,
            chain.join(",")
        )
    };
    let new = |last| NewSchema::of(SchemaKind::Json, chain(last));
    registry.register("chain", &new("string"), false).unwrap();
    let error = registry.compatibility("chain", None, &new("integer"), false).unwrap_err();
    assert!(error.to_string().contains("steps"), "{error}");
}
