//! Protobuf's compatibility as a table: what was in a message, what is in it now, and who reads
//! whose data.

use crate::verdicts::{Case, NO, YES, judge};
use millstream_core::SchemaKind;
use millstream_registry::{Config, Level, NewSchema, Reference, Registry};

/// The schemas are bodies of a message `M`.
const FIELDS: &[Case] = &[
    ("same", "int32 a = 1;", "int32 a = 1;", YES, YES),
    ("renamed", "int32 a = 1;", "int32 b = 1;", YES, YES),
    ("added", "", "int32 a = 1;", YES, YES),
    ("number reused with another type", "int32 a = 1;", "string a = 1;", NO, NO),
    ("varints for each other", "int32 a = 1;", "bool a = 1;", YES, YES),
    ("an enum is a varint", "int32 a = 1;", "E a = 1; enum E { X = 0; }", YES, YES),
    ("zigzag is another", "int32 a = 1;", "sint32 a = 1;", NO, NO),
    ("fixed is another", "fixed32 a = 1;", "fixed64 a = 1;", NO, NO),
    ("signs of fixed do not matter", "fixed64 a = 1;", "sfixed64 a = 1;", YES, YES),
    ("float and double", "float a = 1;", "double a = 1;", NO, NO),
    ("text and bytes", "string a = 1;", "bytes a = 1;", YES, YES),
    ("a message for a scalar", "int32 a = 1;", "N a = 1; message N {}", NO, NO),
    (
        "another message",
        "N a = 1; message N {} message O {}",
        "O a = 1; message N {} message O {}",
        NO,
        NO,
    ),
    ("a nested message gone", "message N {}", "", NO, YES),
    (
        "a nested message changed",
        "message N { int32 a = 1; }",
        "message N { string a = 1; }",
        NO,
        NO,
    ),
    ("map values", "map<string, int32> a = 1;", "map<string, string> a = 1;", NO, NO),
    ("map for a list", "map<string, int32> a = 1;", "repeated int32 a = 1;", NO, NO),
    ("enum values", "E a = 1; enum E { X = 0; Y = 1; }", "E a = 1; enum E { X = 0; }", YES, YES),
    ("optional numbers to a list", "optional int32 a = 1;", "repeated int32 a = 1;", NO, NO),
    ("optional text to a list", "optional string a = 1;", "repeated string a = 1;", YES, YES),
    ("alone into a oneof", "int32 a = 1;", "oneof o { int32 a = 1; int32 b = 2; }", YES, NO),
    (
        "two into a oneof",
        "int32 a = 1; int32 b = 2;",
        "oneof o { int32 a = 1; int32 b = 2; }",
        NO,
        YES,
    ),
    (
        "into a oneof that was there",
        "int32 a = 1; oneof o { int32 b = 2; int32 c = 3; }",
        "oneof o { int32 a = 1; int32 b = 2; int32 c = 3; }",
        NO,
        YES,
    ),
    (
        "a oneof's field gone",
        "oneof o { int32 a = 1; int32 b = 2; }",
        "oneof o { int32 a = 1; }",
        NO,
        YES,
    ),
    ("a whole oneof gone", "oneof o { int32 a = 1; int32 b = 2; }", "", YES, YES),
    ("changed in a oneof", "oneof o { int32 a = 1; }", "oneof p { string a = 1; }", NO, NO),
    ("recursive", "M a = 1;", "M a = 1; int32 b = 2;", YES, YES),
];

fn set(registry: &Registry, subject: &str, level: Level) {
    let config = Config { compatibility_level: Some(level), ..Config::default() };
    registry.set_config(Some(subject), config).unwrap();
}

fn proto(text: &str) -> NewSchema {
    NewSchema::of(SchemaKind::Protobuf, text)
}

fn reads(old: &str, new: &str, level: Level) -> Vec<String> {
    let registry = Registry::in_memory();
    set(&registry, "s", level);
    registry.register("s", &proto(old), false).unwrap();
    registry.compatibility("s", None, &proto(new), false).unwrap()
}

#[test]
fn verdicts_are_those_of_the_table() {
    let file = |body: &str| format!("syntax = \"proto3\"; package p; message M {{ {body} }}");
    judge(&[FIELDS], |old, new, level| reads(&file(old), &file(new), level));
}

#[test]
fn files_and_labels_count() {
    let two = "syntax = \"proto2\"; message M { required int32 a = 1; optional int32 b = 2; }";
    for (old, new, word) in [
        (two, "syntax = \"proto2\"; message M { optional int32 b = 2; }", "REQUIRED_FIELD_REMOVED"),
        ("syntax = \"proto2\"; message M { optional int32 b = 2; }", two, "REQUIRED_FIELD_ADDED"),
        ("package a; message M {}", "package b; message M {}", "PACKAGE_CHANGED"),
        ("message M {} message N {}", "message M {}", "MESSAGE_REMOVED"),
    ] {
        let messages = reads(old, new, Level::Backward);
        assert!(messages.iter().any(|message| message.contains(word)), "{word}: {messages:?}");
    }
    assert!(!reads("message M {}", "message N {} message M {}", Level::Full).is_empty());
    assert!(reads("message M {}", "message N {} message M {}", Level::Backward).is_empty());
    // By its whole name or from where it is used.
    let near = "package p; message M { N a = 1; message N {} }";
    let whole = "package p; message M { .p.M.N a = 1; message N {} }";
    assert!(reads(near, whole, Level::Full).is_empty());
}

#[test]
fn imported_messages_are_compared() {
    let registry = Registry::in_memory();
    set(&registry, "item", Level::None);
    for kind in ["int32", "int64", "string"] {
        let item = format!("syntax = \"proto3\"; package i; message Item {{ {kind} id = 1; }}");
        registry.register("item", &proto(&item), false).unwrap();
    }
    let list = |version| NewSchema {
        references: Some(vec![Reference {
            name: "item.proto".into(),
            subject: "item".into(),
            version,
        }]),
        ..proto("syntax = \"proto3\"; import \"item.proto\"; message L { repeated i.Item a = 1; }")
    };
    registry.register("list", &list(1), false).unwrap();
    assert!(registry.compatibility("list", None, &list(2), false).unwrap().is_empty());
    let messages = registry.compatibility("list", None, &list(3), false).unwrap();
    assert!(messages.iter().any(|m| m.contains("FIELD_NAMED_TYPE_CHANGED")), "{messages:?}");
}
