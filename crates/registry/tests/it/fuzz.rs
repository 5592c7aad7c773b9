//! Anything at all as an Avro schema, alone, beside its references and against another version.

use millstream_registry::avro::{Parser, Schema};
use millstream_registry::avro_compat::check;
use millstream_registry::{Level, Version};
use millstream_testkit::fuzz;

const SCHEMAS: [&str; 8] = [
    r#""int""#,
    r#"["null", "string", {"type": "array", "items": "long"}]"#,
    r#"{"type":"record","name":"a.R","aliases":["Old"],"doc":"d","fields":[
        {"name":"x","type":"int","default":1,"order":"ignore"},
        {"name":"next","type":["null","R"],"default":null,"aliases":["n"]}]}"#,
    r#"{"type":"record","name":"R","namespace":"a","fields":[
        {"name":"x","type":"long"},{"name":"e","type":{"type":"enum","name":"E",
         "symbols":["A","B"],"default":"A"}},
        {"name":"f","type":{"type":"fixed","name":"F","size":12}},
        {"name":"m","type":{"type":"map","values":"E"},"default":{"k":"B"}}]}"#,
    r#"{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}"#,
    r#"{"type":"long","logicalType":"timestamp-millis"}"#,
    r#"{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"record","name":"I",
        "fields":[{"name":"d","type":"double","default":0.5}]},"default":{"d":1e3}}]}"#,
    r#"{"type":"record","name":"U","fields":[{"name":"b","type":"ref.Thing"},
        {"name":"c","type":"bytes","default":"\u00ff"}]}"#,
];

const THING: &str = r#"{"type":"enum","name":"ref.Thing","symbols":["X"]}"#;

fn words() -> Vec<&'static str> {
    let known = "type name namespace fields symbols size items values default aliases order doc \
        record enum fixed array map error union null boolean int long float double bytes string \
        logicalType decimal uuid date precision scale ref.Thing a.R R";
    known.split_whitespace().collect()
}

fn parse(text: &str) -> Result<Schema, String> {
    let mut parser = Parser::new();
    parser.reference(THING)?;
    parser.finish(text, true)
}

#[test]
fn fuzz_schemas() {
    let old: Vec<Schema> = SCHEMAS.iter().map(|text| parse(text).unwrap()).collect();
    fuzz::run_text("fuzz_schemas", &SCHEMAS, &words(), |text| {
        let _ = Parser::new().reference(text);
        let _ = Parser::new().finish(text, false);
        let Ok(schema) = parse(text) else { return };
        let again = parse(&schema.canonical()).expect("what is printed can be read");
        assert_eq!(again.canonical(), schema.canonical(), "the canonical form is its own");
        let _ = (schema.normalized(), schema.resolved());
        for old in &old {
            let _ = check(&schema, old, Level::FullTransitive);
        }
        assert_eq!(check(&schema, &schema, Level::FullTransitive).ok(), Some(Vec::new()));
    });
}

#[test]
fn fuzz_levels_and_versions() {
    let corpus = ["BACKWARD", "FULL_TRANSITIVE", "NONE", "latest", "-1", "7"];
    fuzz::run_text("fuzz_levels_and_versions", &corpus, &["FORWARD", "_"], |text| {
        if let Ok(level) = Level::parse(text) {
            assert_eq!(Level::parse(level.word()).unwrap(), level);
        }
        let _ = Version::parse(text);
    });
}
