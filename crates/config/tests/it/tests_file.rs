//! The cases beside a pipeline.

use crate::env;
use millstream_config::{ExpectedRows, Moment, TestFile, TestInput, load_tests, parse_tests};
use std::path::Path;

pub const CASES: &str = r#"
cases:
  - name: a visit is enriched
    input:
      - { uid: 7, url: "/a", tags: [x, 1], site: { id: 3 }, when: ~ }
      - raw: '{"uid": 8}'
      - { raw: x, other: 1 }
    lookups:
      sites:
        - { id: 3, name: Home }
    now: 2026-01-31T12:00:00Z
    expect:
      rows:
        - { uid: 7, site_name: Home, share: 0.5, ok: true }
      dead:
        - reason: not a number
      filtered: 1
  - name: by sink
    input: [{ uid: 1 }]
    expect: { rows: { visits: [{ uid: 1 }], other: [] } }
"#;

fn cases(text: &str) -> Result<TestFile, String> {
    parse_tests(text, Path::new("p.test.yaml"), &env).map_err(|mistakes| mistakes.to_string())
}

#[test]
fn cases_are_read_whole() {
    let file = cases(CASES).unwrap();
    let [first, second] = file.spec.cases.as_slice() else { panic!("two cases") };
    let TestInput::Row(row) = &first.input[0] else { panic!("a row") };
    assert_eq!(row["tags"], serde_json::json!(["x", 1]));
    assert_eq!(row["site"]["id"], 3);
    assert!(row["when"].is_null());
    let TestInput::Raw(raw) = &first.input[1] else { panic!("raw text") };
    assert_eq!(raw.raw, r#"{"uid": 8}"#);
    assert!(matches!(&first.input[2], TestInput::Row(row) if row.len() == 2));
    assert_eq!(first.lookups["sites"][0]["name"], "Home");
    assert_eq!(first.now, Some(Moment(1_769_860_800_000)));
    let Some(ExpectedRows::Last(rows)) = &first.expect.rows else { panic!("rows") };
    assert_eq!((&rows[0]["share"], &rows[0]["ok"]), (&0.5.into(), &true.into()));
    assert_eq!(first.expect.dead.as_ref().unwrap()[0].reason, "not a number");
    assert_eq!(first.expect.filtered, Some(1));
    let Some(ExpectedRows::Named(rows)) = &second.expect.rows else { panic!("rows by name") };
    assert_eq!((rows["visits"].len(), rows["other"].len()), (1, 0));
    assert_eq!((second.expect.dead.is_none(), second.expect.filtered), (true, None));
    assert_eq!(file.places().of("/cases/1/name").line, 18);
}

#[test]
fn mistakes_in_cases() {
    let text = "
cases:
  - name: a
    inputs: [{ x: 1 }]
    expect: { row: [] }
  - name: a
    input: [1, { y: 2 }]
    lookups: { sites: [3] }
    now: noon
    expect: { rows: none, dead: [{ reson: x }], filtered: -1 }
  - input: []
    expect: {}
";
    insta::assert_snapshot!(cases(text).unwrap_err());
}

#[test]
fn a_tests_file_that_is_not_there() {
    let said = load_tests(Path::new("nowhere.test.yaml"), &env).unwrap_err().to_string();
    assert!(said.contains("there is no such file"), "{said}");
}
