//! Reading and writing Avro schemas: what is refused and with which words, and the forms.

use millstream_registry::avro::{Parser, Schema};
use proptest::prelude::*;
use serde_json::{Value, json};

fn parse(text: &str) -> Result<Schema, String> {
    Parser::new().finish(text, true)
}

#[test]
fn what_is_wrong_is_said() {
    let record = |fields: &str| format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#);
    let cases = [
        ("".to_owned(), "not JSON"),
        ("{".into(), "not JSON"),
        ("42".into(), "not `42`"),
        (r#""strng""#.into(), "`strng` is neither a type of Avro nor a name"),
        (r#""record""#.into(), "needs an object"),
        ("{}".into(), "`type` is missing"),
        (r#"{"type":7}"#.into(), "`type` must be"),
        (r#"{"type":"array"}"#.into(), "`items` is missing"),
        (r#"{"type":"map"}"#.into(), "`values` is missing"),
        (r#"{"type":"record","fields":[]}"#.into(), "no `name`"),
        (r#"{"type":"record","name":"R"}"#.into(), "R: `fields` must be an array"),
        (r#"{"type":"record","name":"1R","fields":[]}"#.into(), "`1R` is not a name"),
        (r#"{"type":"record","name":"a-b.R","fields":[]}"#.into(), "`a-b` is not a name"),
        (r#"{"type":"record","name":"int","fields":[]}"#.into(), "cannot be a name"),
        (record("7"), "a field must be an object"),
        (record(r#"{"type":"int"}"#), "a field has no `name`"),
        (record(r#"{"name":"a"}"#), "R.a: the field has no `type`"),
        (record(r#"{"name":"a b","type":"int"}"#), "`a b` is not a name"),
        (record(r#"{"name":"a","type":"strng"}"#), "R.a: `strng` is neither"),
        (record(r#"{"name":"a","type":"int"},{"name":"a","type":"int"}"#), "`a` is there twice"),
        (record(r#"{"name":"a","type":"int","order":"up"}"#), "ascending, descending or ignore"),
        (record(r#"{"name":"a","type":"int","aliases":"b"}"#), "`aliases` must be an array"),
        (
            record(r#"{"name":"a","type":{"type":"record","name":"R","fields":[]}}"#),
            "`R` is defined twice",
        ),
        (r#"{"type":"enum","name":"E"}"#.into(), "`symbols` must be"),
        (r#"{"type":"enum","name":"E","symbols":["A","A"]}"#.into(), "`A` is there twice"),
        (r#"{"type":"enum","name":"E","symbols":["a b"]}"#.into(), "`a b` is not a name"),
        (r#"{"type":"enum","name":"E","symbols":["A"],"default":"B"}"#.into(), "not one of"),
        (r#"{"type":"fixed","name":"F"}"#.into(), "`size` must be"),
        (r#"{"type":"fixed","name":"F","size":-1}"#.into(), "`size` must be"),
        ("[]".into(), "at least one branch"),
        (r#"["int","int"]"#.into(), "`int` twice"),
        (r#"["null",["int"]]"#.into(), "cannot hold a union"),
        (
            r#"[{"type":"array","items":"int"},{"type":"array","items":"long"}]"#.into(),
            "`array` twice",
        ),
    ];
    for (text, wanted) in cases {
        let error = parse(&text).expect_err(&text);
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn defaults_fit_their_type() {
    let n = r#"{"type":"record","name":"N","fields":[{"name":"x","type":"int"},{"name":"y","type":"int","default":1}]}"#;
    let cases = [
        (r#""null""#, "null", true),
        (r#""null""#, "0", false),
        (r#""boolean""#, "true", true),
        (r#""boolean""#, "\"true\"", false),
        (r#""int""#, "2147483647", true),
        (r#""int""#, "2147483648", false),
        (r#""int""#, "1.5", false),
        (r#""long""#, "2147483648", true),
        (r#""long""#, "9223372036854775808", false),
        (r#""float""#, "1", true),
        (r#""double""#, "1.5", true),
        (r#""double""#, "\"NaN\"", false),
        (r#""string""#, "\"\"", true),
        (r#""string""#, "null", false),
        (r#""bytes""#, "\"\\u00ff\"", true),
        (r#""bytes""#, "\"\\u0100\"", false),
        (r#"{"type":"fixed","name":"F","size":2}"#, "\"ab\"", true),
        (r#"{"type":"fixed","name":"F","size":2}"#, "\"abc\"", false),
        (r#"{"type":"enum","name":"E","symbols":["A"]}"#, "\"A\"", true),
        (r#"{"type":"enum","name":"E","symbols":["A"]}"#, "\"B\"", false),
        (r#"{"type":"array","items":"int"}"#, "[1,2]", true),
        (r#"{"type":"array","items":"int"}"#, "[1,\"2\"]", false),
        (r#"{"type":"map","values":"int"}"#, "{\"a\":1}", true),
        (r#"{"type":"map","values":"int"}"#, "[]", false),
        (r#"["null","int"]"#, "null", true),
        (r#"["null","int"]"#, "5", true),
        (r#"["null","int"]"#, "\"null\"", false),
        (n, r#"{"x":1}"#, true),
        (n, r#"{"y":1}"#, false),
        (n, r#"{"x":"1"}"#, false),
    ];
    for (schema, default, fits) in cases {
        let text = format!(
            r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":{schema},"default":{default}}}]}}"#
        );
        assert_eq!(parse(&text).is_ok(), fits, "{text}");
        assert!(Parser::new().finish(&text, false).is_ok(), "unchecked: {text}");
    }
}

#[test]
fn equal_schemas_have_one_canonical_text() {
    let cases = [
        (r#"{"type":"string"}"#, r#""string""#),
        ("int", r#""int""#),
        (r#"{"type":{"type":"long"}}"#, r#""long""#),
        (
            r#"{ "fields": [ {"type": {"type":"int"}, "name":"a", "order":"ascending"} ], "name":"n.R", "type":"record" }"#,
            r#"{"type":"record","name":"R","namespace":"n","fields":[{"name":"a","type":"int"}]}"#,
        ),
        (
            r#"{"type":"record","name":"R","namespace":"n","fields":[{"name":"e","type":{"type":"enum","name":"n.E","symbols":["A"],"aliases":["n.F"]}},{"name":"f","type":"n.E"}]}"#,
            r#"{"type":"record","name":"R","namespace":"n","fields":[{"name":"e","type":{"type":"enum","name":"E","symbols":["A"],"aliases":["F"]}},{"name":"f","type":"E"}]}"#,
        ),
        (
            r#"{"logicalType":"timestamp-millis","type":"long"}"#,
            r#"{"type":"long","logicalType":"timestamp-millis"}"#,
        ),
        (
            r#"{"type":"record","name":"n.R","fields":[{"name":"f","type":{"type":"fixed","name":"F","namespace":"","size":2}},{"name":"g","type":["null","F"],"default":null,"doc":"d","x":[1]}]}"#,
            r#"{"type":"record","name":"R","namespace":"n","fields":[{"name":"f","type":{"type":"fixed","name":"F","namespace":"","size":2}},{"name":"g","type":["null","F"],"doc":"d","default":null,"x":[1]}]}"#,
        ),
    ];
    for (text, canonical) in cases {
        assert_eq!(parse(text).unwrap().canonical(), canonical);
        assert_eq!(parse(canonical).unwrap().canonical(), canonical, "stays as it is");
    }
}

#[test]
fn the_normal_form_forgets_how_names_and_attributes_were_written() {
    let a = r#"{"type":"record","name":"R","namespace":"n","z":1,"b":{"y":1,"x":2},"fields":[{"name":"s","type":{"type":"enum","name":"E","symbols":["A"]}}]}"#;
    let b = r#"{"type":"record","name":"n.R","b":{"x":2,"y":1},"z":1,"fields":[{"name":"s","type":{"type":"enum","name":"n.E","symbols":["A"]}}]}"#;
    let (a, b) = (parse(a).unwrap(), parse(b).unwrap());
    assert_ne!(a.canonical(), b.canonical());
    assert_eq!(a.normalized(), b.normalized());
    assert_eq!(parse(&a.normalized()).unwrap().normalized(), a.normalized());
}

#[test]
fn real_schemas_are_read_as_apache_avro_reads_them() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut files = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "avsc") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let ours = parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let theirs = apache_avro::Schema::parse_str(&text).unwrap();
        for form in [ours.canonical(), ours.normalized(), ours.resolved()] {
            let again = apache_avro::Schema::parse_str(&form).unwrap();
            assert_eq!(again.canonical_form(), theirs.canonical_form(), "{}", path.display());
        }
        files += 1;
    }
    assert!(files >= 5);
}

#[test]
fn references_are_known_by_name_and_written_out_on_request() {
    let mut parser = Parser::new();
    parser.reference(r#"{"type":"enum","name":"n.Colour","symbols":["RED"]}"#).unwrap();
    parser
        .reference(r#"{"type":"record","name":"n.Car","fields":[{"name":"c","type":"Colour"}]}"#)
        .unwrap();
    let schema = parser
        .finish(
            r#"{"type":"record","name":"o.Park","fields":[{"name":"cars","type":{"type":"array","items":"n.Car"}},{"name":"best","type":"n.Car"}]}"#,
            true,
        )
        .unwrap();
    assert_eq!(
        schema.canonical(),
        r#"{"type":"record","name":"Park","namespace":"o","fields":[{"name":"cars","type":{"type":"array","items":"n.Car"}},{"name":"best","type":"n.Car"}]}"#
    );
    let resolved = schema.resolved();
    assert!(resolved.contains("RED"));
    assert_eq!(resolved.matches("RED").count(), 1, "written out once");
    apache_avro::Schema::parse_str(&resolved).unwrap();
}

/// What nests 10,000 deep is an error, however it nests, on a small stack.
#[test]
fn depth_is_bounded_before_anything_recurses() {
    let deep = |open: &str, core: &str, close: &str| {
        format!("{}{core}{}", open.repeat(10_000), close.repeat(10_000))
    };
    let mut chain = vec![r#"{"type":"record","name":"R0","fields":[]}"#.to_owned()];
    chain.extend((1..10_000).map(|at| {
        let below = at - 1;
        format!(r#"{{"type":"record","name":"R{at}","fields":[{{"name":"f","type":"R{below}"}}]}}"#)
    }));
    let texts = [
        deep(r#"{"type":"array","items":"#, r#""int""#, "}"),
        deep("[", "", "]"),
        deep(r#"{"type":"#, r#""int""#, "}"),
        format!(
            r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":"int","default":{}}}]}}"#,
            deep("[", "", "]")
        ),
        format!("[{}]", chain.join(",")),
    ];
    let thread = std::thread::Builder::new().stack_size(512 << 10);
    let check = move || {
        for text in texts {
            let error = parse(&text).unwrap_err();
            assert!(error.contains("nest"), "{error}");
        }
        // The deepest that passes is printed and parsed again without trouble.
        let deepest =
            format!("{}\"int\"{}", r#"{"type":"array","items":"#.repeat(120), "}".repeat(120));
        let text = parse(&deepest).unwrap().resolved();
        assert_eq!(parse(&text).unwrap().normalized(), text);
    };
    thread.spawn(check).unwrap().join().unwrap();
}

/// Any schema of records, unions, arrays and maps, with names that do not clash.
fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop::sample::select(vec!["int", "long", "string", "bytes", "double", "boolean"]);
    let tree = leaf.prop_map(Value::from).prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|items| json!({"type": "array", "items": items})),
            inner.clone().prop_map(|values| json!({"values": values, "type": "map", "x": 1})),
            inner.clone().prop_filter_map("no union in a union", |branch| {
                (!branch.is_array()).then(|| json!(["null", branch]))
            }),
            prop::collection::vec(inner, 0..4).prop_map(|types| {
                let fields: Vec<_> = types
                    .into_iter()
                    .enumerate()
                    .map(|(at, of)| json!({"name": format!("f{at}"), "type": of}))
                    .collect();
                json!({"name": "NAME", "fields": fields, "type": "record", "doc": "d"})
            }),
        ]
    });
    tree.prop_map(|tree| {
        let mut text = tree.to_string();
        let mut number = 0;
        while text.contains("NAME") {
            text = text.replacen("NAME", &format!("n{}.R{number}", number % 3), 1);
            number += 1;
        }
        serde_json::from_str(&text).unwrap()
    })
}

proptest! {
    #[test]
    fn every_form_reads_back_as_the_same_schema(schema in schemas()) {
        let parsed = parse(&schema.to_string()).unwrap();
        for form in [parsed.canonical(), parsed.normalized()] {
            let again = parse(&form).unwrap();
            prop_assert_eq!(again.canonical(), parse(&again.canonical()).unwrap().canonical());
            prop_assert_eq!(again.normalized(), parsed.normalized());
        }
        prop_assert_eq!(parse(&parsed.canonical()).unwrap().canonical(), parsed.canonical());
        let theirs = apache_avro::Schema::parse_str(&schema.to_string()).unwrap();
        let ours = apache_avro::Schema::parse_str(&parsed.canonical()).unwrap();
        prop_assert_eq!(theirs.canonical_form(), ours.canonical_form());
        let level = millstream_registry::Level::Full;
        let found = millstream_registry::avro_compat::check(&parsed, &parsed, level).unwrap();
        prop_assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[\\[\\]{}\",:a-z0-9 ]{0,80}") {
        let _ = parse(&text);
    }
}
