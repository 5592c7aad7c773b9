//! Avro's resolution rules as a table: an old schema, a new one, and who reads whose data.

use crate::verdicts::{Case, NO, YES, judge};
use millstream_registry::avro::{Parser, Schema};
use millstream_registry::avro_compat::check;
use millstream_registry::{Level, NewSchema, Registry};

/// The promotions of the specification, section "Schema Resolution", and what is not one.
const PRIMITIVES: &[Case] = &[
    ("same int", r#""int""#, r#""int""#, YES, YES),
    ("same null", r#""null""#, r#""null""#, YES, YES),
    ("same boolean", r#""boolean""#, r#""boolean""#, YES, YES),
    ("int to long", r#""int""#, r#""long""#, YES, NO),
    ("int to float", r#""int""#, r#""float""#, YES, NO),
    ("int to double", r#""int""#, r#""double""#, YES, NO),
    ("long to float", r#""long""#, r#""float""#, YES, NO),
    ("long to double", r#""long""#, r#""double""#, YES, NO),
    ("float to double", r#""float""#, r#""double""#, YES, NO),
    ("string to bytes", r#""string""#, r#""bytes""#, YES, YES),
    ("int to string", r#""int""#, r#""string""#, NO, NO),
    ("int to boolean", r#""int""#, r#""boolean""#, NO, NO),
    ("int to bytes", r#""int""#, r#""bytes""#, NO, NO),
    ("null to int", r#""null""#, r#""int""#, NO, NO),
    ("boolean to string", r#""boolean""#, r#""string""#, NO, NO),
    ("double to string", r#""double""#, r#""string""#, NO, NO),
    (
        "a logical type is its base",
        r#""long""#,
        r#"{"type":"long","logicalType":"timestamp-millis"}"#,
        YES,
        YES,
    ),
    (
        "decimals by their bytes",
        r#"{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}"#,
        r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":3}"#,
        YES,
        YES,
    ),
];

const CONTAINERS: &[Case] = &[
    (
        "array same",
        r#"{"type":"array","items":"int"}"#,
        r#"{"type":"array","items":"int"}"#,
        YES,
        YES,
    ),
    (
        "array promoted",
        r#"{"type":"array","items":"int"}"#,
        r#"{"type":"array","items":"long"}"#,
        YES,
        NO,
    ),
    (
        "array mismatch",
        r#"{"type":"array","items":"int"}"#,
        r#"{"type":"array","items":"string"}"#,
        NO,
        NO,
    ),
    ("array to item", r#"{"type":"array","items":"int"}"#, r#""int""#, NO, NO),
    ("map same", r#"{"type":"map","values":"int"}"#, r#"{"type":"map","values":"int"}"#, YES, YES),
    (
        "map promoted",
        r#"{"type":"map","values":"float"}"#,
        r#"{"type":"map","values":"double"}"#,
        YES,
        NO,
    ),
    (
        "map to array",
        r#"{"type":"map","values":"int"}"#,
        r#"{"type":"array","items":"int"}"#,
        NO,
        NO,
    ),
    (
        "array of maps promoted",
        r#"{"type":"array","items":{"type":"map","values":"int"}}"#,
        r#"{"type":"array","items":{"type":"map","values":"double"}}"#,
        YES,
        NO,
    ),
    (
        "array items made nullable",
        r#"{"type":"array","items":"int"}"#,
        r#"{"type":"array","items":["null","int"]}"#,
        YES,
        NO,
    ),
];

const UNIONS: &[Case] = &[
    ("into a union", r#""int""#, r#"["null","int"]"#, YES, NO),
    ("union reordered", r#"["null","int"]"#, r#"["int","null"]"#, YES, YES),
    ("branch added", r#"["null","int"]"#, r#"["null","int","string"]"#, YES, NO),
    ("branch removed", r#"["int","string"]"#, r#"["int"]"#, NO, YES),
    ("branch promoted", r#"["null","int"]"#, r#"["null","long"]"#, YES, NO),
    ("into a union by promotion", r#""int""#, r#"["null","double"]"#, YES, NO),
    ("not into a union", r#""string""#, r#"["null","int"]"#, NO, NO),
    ("union of one is the type", r#"["int"]"#, r#""int""#, YES, YES),
    ("union of promotable branches", r#"["int","long"]"#, r#""long""#, YES, YES),
    ("union with a branch too many", r#"["int","string"]"#, r#""long""#, NO, NO),
    ("union into double", r#"["int","long","float"]"#, r#""double""#, YES, NO),
    ("string branch read as bytes", r#"["null","string"]"#, r#"["null","bytes"]"#, YES, YES),
    (
        "record branch by name",
        r#"["null",{"type":"record","name":"A","fields":[{"name":"x","type":"int"}]}]"#,
        r#"["null",{"type":"record","name":"A","fields":[{"name":"x","type":"long"}]}]"#,
        YES,
        NO,
    ),
    (
        "record branch of another name",
        r#"["null",{"type":"record","name":"A","fields":[]}]"#,
        r#"["null",{"type":"record","name":"B","fields":[]}]"#,
        NO,
        NO,
    ),
    (
        "two record branches swapped",
        r#"[{"type":"record","name":"A","fields":[{"name":"x","type":"int"}]},{"type":"record","name":"B","fields":[{"name":"y","type":"int"}]}]"#,
        r#"[{"type":"record","name":"B","fields":[{"name":"y","type":"int"}]},{"type":"record","name":"A","fields":[{"name":"x","type":"int"}]}]"#,
        YES,
        YES,
    ),
    (
        "array branch promoted",
        r#"["null",{"type":"array","items":"int"}]"#,
        r#"["null",{"type":"array","items":"long"}]"#,
        YES,
        NO,
    ),
];

const RECORDS: &[Case] = &[
    (
        "same record",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#,
        YES,
        YES,
    ),
    (
        "field added without default",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"b","type":"int"}]}"#,
        NO,
        YES,
    ),
    (
        "field added with default",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"b","type":"int","default":0}]}"#,
        YES,
        YES,
    ),
    (
        "null is a default",
        r#"{"type":"record","name":"R","fields":[]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"b","type":["null","int"],"default":null}]}"#,
        YES,
        YES,
    ),
    (
        "nullable is not a default",
        r#"{"type":"record","name":"R","fields":[]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"b","type":["null","int"]}]}"#,
        NO,
        YES,
    ),
    (
        "an enum's own default is not the field's",
        r#"{"type":"record","name":"R","fields":[]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"e","type":{"type":"enum","name":"E","symbols":["A"],"default":"A"}}]}"#,
        NO,
        YES,
    ),
    (
        "field removed that had a default",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"b","type":"int","default":1}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#,
        YES,
        YES,
    ),
    (
        "field removed that had none",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"b","type":"int"}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#,
        YES,
        NO,
    ),
    (
        "fields reordered",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"b","type":"string"}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"b","type":"string"},{"name":"a","type":"int"}]}"#,
        YES,
        YES,
    ),
    (
        "field promoted",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"double"}]}"#,
        YES,
        NO,
    ),
    (
        "field made nullable",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":["null","int"],"default":null}]}"#,
        YES,
        NO,
    ),
    (
        "a default does not mend a changed type",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"string","default":""}]}"#,
        NO,
        NO,
    ),
    (
        "field renamed",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"b","type":"int"}]}"#,
        NO,
        NO,
    ),
    (
        "field renamed with an alias",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"b","type":"int","aliases":["a"]}]}"#,
        YES,
        NO,
    ),
    (
        "alias and promotion together",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"b","type":"long","aliases":["x","a"]}]}"#,
        YES,
        NO,
    ),
    (
        "alias onto a field of another type",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"b","type":"string","aliases":["a"],"default":""}]}"#,
        NO,
        NO,
    ),
    (
        "record renamed",
        r#"{"type":"record","name":"R","fields":[]}"#,
        r#"{"type":"record","name":"S","fields":[]}"#,
        NO,
        NO,
    ),
    (
        "record renamed with an alias",
        r#"{"type":"record","name":"R","fields":[]}"#,
        r#"{"type":"record","name":"S","aliases":["R"],"fields":[]}"#,
        YES,
        NO,
    ),
    (
        "an alias takes the namespace of its type",
        r#"{"type":"record","name":"n.R","fields":[]}"#,
        r#"{"type":"record","name":"n.S","aliases":["R"],"fields":[]}"#,
        YES,
        NO,
    ),
    (
        "an alias of another namespace",
        r#"{"type":"record","name":"n.R","fields":[]}"#,
        r#"{"type":"record","name":"n.S","aliases":["m.R"],"fields":[]}"#,
        NO,
        NO,
    ),
    (
        "names match without namespaces",
        r#"{"type":"record","name":"a.R","fields":[]}"#,
        r#"{"type":"record","name":"b.R","fields":[]}"#,
        YES,
        YES,
    ),
    (
        "nested field added with default",
        r#"{"type":"record","name":"R","fields":[{"name":"n","type":{"type":"record","name":"N","fields":[]}}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"n","type":{"type":"record","name":"N","fields":[{"name":"x","type":"int","default":1}]}}]}"#,
        YES,
        YES,
    ),
    (
        "nested field added without default",
        r#"{"type":"record","name":"R","fields":[{"name":"n","type":{"type":"record","name":"N","fields":[]}}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"n","type":{"type":"record","name":"N","fields":[{"name":"x","type":"int"}]}}]}"#,
        NO,
        YES,
    ),
    (
        "wrong deep inside",
        r#"{"type":"record","name":"R","fields":[{"name":"n","type":["null",{"type":"map","values":{"type":"array","items":"string"}}]}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"n","type":["null",{"type":"map","values":{"type":"array","items":"int"}}]}]}"#,
        NO,
        NO,
    ),
    (
        "a type used twice",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"fixed","name":"F","size":4}},{"name":"b","type":"F"}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"b","type":{"type":"fixed","name":"F","size":4}},{"name":"a","type":"F"}]}"#,
        YES,
        YES,
    ),
];

const NAMED: &[Case] = &[
    (
        "enum symbol added",
        r#"{"type":"enum","name":"E","symbols":["A"]}"#,
        r#"{"type":"enum","name":"E","symbols":["A","B"]}"#,
        YES,
        NO,
    ),
    (
        "enum reordered",
        r#"{"type":"enum","name":"E","symbols":["A","B"]}"#,
        r#"{"type":"enum","name":"E","symbols":["B","A"]}"#,
        YES,
        YES,
    ),
    (
        "enum symbol removed, with a default",
        r#"{"type":"enum","name":"E","symbols":["A","B"]}"#,
        r#"{"type":"enum","name":"E","symbols":["A"],"default":"A"}"#,
        YES,
        YES,
    ),
    (
        "the writer's default does not help the reader",
        r#"{"type":"enum","name":"E","symbols":["A","B"],"default":"A"}"#,
        r#"{"type":"enum","name":"E","symbols":["A"]}"#,
        NO,
        YES,
    ),
    (
        "a field's default does not stand for an unknown symbol",
        r#"{"type":"record","name":"R","fields":[{"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"]}}]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"e","type":{"type":"enum","name":"E","symbols":["A"]},"default":"A"}]}"#,
        NO,
        YES,
    ),
    (
        "enum renamed",
        r#"{"type":"enum","name":"E","symbols":["A"]}"#,
        r#"{"type":"enum","name":"F","symbols":["A"]}"#,
        NO,
        NO,
    ),
    (
        "enum renamed with an alias",
        r#"{"type":"enum","name":"E","symbols":["A"]}"#,
        r#"{"type":"enum","name":"F","aliases":["E"],"symbols":["A"]}"#,
        YES,
        NO,
    ),
    ("enum to string", r#"{"type":"enum","name":"E","symbols":["A"]}"#, r#""string""#, NO, NO),
    (
        "fixed same",
        r#"{"type":"fixed","name":"F","size":4}"#,
        r#"{"type":"fixed","name":"F","size":4}"#,
        YES,
        YES,
    ),
    (
        "fixed of another size",
        r#"{"type":"fixed","name":"F","size":4}"#,
        r#"{"type":"fixed","name":"F","size":8}"#,
        NO,
        NO,
    ),
    (
        "fixed renamed",
        r#"{"type":"fixed","name":"F","size":4}"#,
        r#"{"type":"fixed","name":"G","size":4}"#,
        NO,
        NO,
    ),
    (
        "fixed renamed with an alias",
        r#"{"type":"fixed","name":"F","size":4}"#,
        r#"{"type":"fixed","name":"G","size":4,"aliases":["F"]}"#,
        YES,
        NO,
    ),
    ("fixed to bytes", r#"{"type":"fixed","name":"F","size":4}"#, r#""bytes""#, NO, NO),
    (
        "fixed to enum of the same name",
        r#"{"type":"fixed","name":"F","size":4}"#,
        r#"{"type":"enum","name":"F","symbols":["A"]}"#,
        NO,
        NO,
    ),
];

const RECURSIVE: &[Case] = &[
    (
        "list same",
        r#"{"type":"record","name":"L","fields":[{"name":"v","type":"int"},{"name":"next","type":["null","L"]}]}"#,
        r#"{"type":"record","name":"L","fields":[{"name":"v","type":"int"},{"name":"next","type":["null","L"]}]}"#,
        YES,
        YES,
    ),
    (
        "list promoted",
        r#"{"type":"record","name":"L","fields":[{"name":"v","type":"int"},{"name":"next","type":["null","L"]}]}"#,
        r#"{"type":"record","name":"L","fields":[{"name":"v","type":"long"},{"name":"next","type":["null","L"]}]}"#,
        YES,
        NO,
    ),
    (
        "list mismatch",
        r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]},{"name":"v","type":"int"}]}"#,
        r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]},{"name":"v","type":"string"}]}"#,
        NO,
        NO,
    ),
    (
        "list with a field added",
        r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#,
        r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]},{"name":"v","type":"int","default":0}]}"#,
        YES,
        YES,
    ),
    (
        "tree",
        r#"{"type":"record","name":"T","fields":[{"name":"kids","type":{"type":"array","items":"T"}}]}"#,
        r#"{"type":"record","name":"T","fields":[{"name":"kids","type":{"type":"array","items":["null","T"]}}]}"#,
        YES,
        NO,
    ),
    (
        "mutual recursion",
        r#"{"type":"record","name":"A","fields":[{"name":"b","type":["null",{"type":"record","name":"B","fields":[{"name":"a","type":["null","A"]},{"name":"x","type":"int"}]}]}]}"#,
        r#"{"type":"record","name":"A","fields":[{"name":"b","type":["null",{"type":"record","name":"B","fields":[{"name":"a","type":["null","A"]},{"name":"x","type":"float"}]}]}]}"#,
        YES,
        NO,
    ),
    (
        "a list unrolled once is the same list",
        r#"{"type":"record","name":"n.L","fields":[{"name":"next","type":["null","n.L"]}]}"#,
        r#"{"type":"record","name":"n.L","fields":[{"name":"next","type":["null",{"type":"record","name":"m.L","fields":[{"name":"next","type":["null","n.L"]}]}]}]}"#,
        YES,
        YES,
    ),
    (
        "an unrolled list that differs in the second step",
        r#"{"type":"record","name":"n.L","fields":[{"name":"next","type":["null","n.L"]}]}"#,
        r#"{"type":"record","name":"n.L","fields":[{"name":"next","type":["null",{"type":"record","name":"m.L","fields":[{"name":"next","type":["null","n.L"]},{"name":"x","type":"int"}]}]}]}"#,
        NO,
        YES,
    ),
];

fn parse(text: &str) -> Schema {
    Parser::new().finish(text, true).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn verdicts_are_those_of_the_specification() {
    let groups = [PRIMITIVES, CONTAINERS, UNIONS, RECORDS, NAMED, RECURSIVE];
    let messages = |old: &str, new: &str, level| check(&parse(new), &parse(old), level).unwrap();
    let cases = judge(&groups, messages);
    assert!(cases >= 80, "{cases} cases");
}

#[test]
fn messages_name_the_place_and_the_reason() {
    let cases = [
        (
            r#"{"type":"record","name":"R","fields":[]}"#,
            r#"{"type":"record","name":"R","fields":[{"name":"b","type":"int"}]}"#,
            "READER_FIELD_MISSING_DEFAULT_VALUE",
            "'/fields/0'",
            "additionalInfo:'b'",
        ),
        (
            r#"{"type":"record","name":"R","fields":[{"name":"a","type":"string"}]}"#,
            r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#,
            "TYPE_MISMATCH",
            "'/fields/0/type'",
            "reader type: INT not compatible with writer type: STRING",
        ),
        (
            r#"{"type":"array","items":["null","string"]}"#,
            r#"{"type":"array","items":["null","int"]}"#,
            "MISSING_UNION_BRANCH",
            "'/items/1'",
            "reader union lacking writer type: STRING",
        ),
        (
            r#"{"type":"enum","name":"E","symbols":["A","B","C"]}"#,
            r#"{"type":"enum","name":"E","symbols":["A"]}"#,
            "MISSING_ENUM_SYMBOLS",
            "'/symbols'",
            "[B, C]",
        ),
        (
            r#"{"type":"fixed","name":"F","size":4}"#,
            r#"{"type":"fixed","name":"F","size":8}"#,
            "FIXED_SIZE_MISMATCH",
            "'/size'",
            "expected: 4, found: 8",
        ),
        (
            r#"{"type":"record","name":"R","fields":[]}"#,
            r#"{"type":"record","name":"S","fields":[]}"#,
            "NAME_MISMATCH",
            "'/name'",
            "expected: R",
        ),
    ];
    for (old, new, kind, path, detail) in cases {
        let messages = check(&parse(new), &parse(old), Level::Backward).unwrap();
        assert_eq!(messages.len(), 1, "{messages:?}");
        for wanted in [&format!("errorType:'{kind}'") as &str, path, detail] {
            assert!(messages[0].contains(wanted), "{wanted} in {}", messages[0]);
        }
    }
}

/// v1 {a}, v2 {a, b = 0}, v3 {a, b}: v3 reads v2 but not v1, v1 reads v3.
#[test]
fn transitive_levels_ask_all_versions() {
    let v1 = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":0}]}"#;
    let v2 = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":0},{"name":"b","type":"int","default":0}]}"#;
    let added = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":0},{"name":"b","type":"int"}]}"#;
    // Against v1 `c` is dropped without a default there; the newest has one.
    let w1 = r#"{"type":"record","name":"R","fields":[{"name":"c","type":"int"}]}"#;
    let w2 = r#"{"type":"record","name":"R","fields":[{"name":"c","type":"int","default":0}]}"#;
    let dropped = r#"{"type":"record","name":"R","fields":[]}"#;
    let cases = [
        (Level::Backward, [v1, v2], added, true),
        (Level::BackwardTransitive, [v1, v2], added, false),
        (Level::Forward, [v1, v2], added, true),
        (Level::ForwardTransitive, [v1, v2], added, true),
        (Level::Full, [v1, v2], added, true),
        (Level::FullTransitive, [v1, v2], added, false),
        (Level::None, [v1, v2], r#""int""#, true),
        (Level::Backward, [w1, w2], dropped, true),
        (Level::Forward, [w1, w2], dropped, true),
        (Level::ForwardTransitive, [w1, w2], dropped, false),
        (Level::BackwardTransitive, [w1, w2], dropped, true),
        (Level::FullTransitive, [w1, w2], dropped, false),
    ];
    for (level, old, new, wanted) in cases {
        let registry = Registry::in_memory();
        for old in old {
            registry.register("s", &NewSchema::avro(old), false).unwrap();
        }
        let config =
            millstream_registry::Config { compatibility_level: Some(level), ..Default::default() };
        registry.set_config(Some("s"), config).unwrap();
        let new = NewSchema::avro(new);
        let messages = registry.compatibility("s", None, &new, false).unwrap();
        assert_eq!(messages.is_empty(), wanted, "{level:?}: {messages:?}");
        let registered = registry.register("s", &new, false);
        assert_eq!(registered.is_ok(), wanted, "{level:?}");
        if let Err(error) = registered {
            assert_eq!(error.code(), 409);
            assert!(error.to_string().contains("{oldSchemaVersion: 1}"), "{error}");
        }
    }
}

/// Recursive lists that turn with different periods give pairs far deeper than either nests.
#[test]
fn comparing_is_bounded_and_needs_no_stack() {
    let ring = |length: usize, last: &str| {
        let mut text = format!(
            r#"{{"type":"record","name":"p{length}.L","fields":[{{"name":"next","type":["null","p0.L"]}},{{"name":"v","type":"{last}"}}]}}"#
        );
        for at in (0..length).rev() {
            text = format!(
                r#"{{"type":"record","name":"p{at}.L","fields":[{{"name":"next","type":["null",{text}]}},{{"name":"v","type":"int"}}]}}"#
            );
        }
        parse(&text)
    };
    let thread = std::thread::Builder::new().stack_size(512 << 10);
    let verdicts = thread.spawn(move || {
        let (a, b, c) = (ring(22, "int"), ring(24, "int"), ring(24, "string"));
        [check(&a, &b, Level::Full).unwrap(), check(&a, &c, Level::Full).unwrap()]
    });
    let [same, other] = verdicts.unwrap().join().unwrap();
    assert_eq!(same, Vec::<String>::new());
    assert!(!other.is_empty() && other.len() < 500, "{}", other.len());

    let wide = |name: &str| {
        let branches: Vec<String> = (0..600)
            .map(|at| format!(r#"{{"type":"record","name":"{name}{at}","fields":[]}}"#))
            .collect();
        parse(&format!("[{}]", branches.join(",")))
    };
    assert!(check(&wide("A"), &wide("B"), Level::Backward).is_err());
}
