//! From a line and column of a text, such as SQL, back to the file's.

use crate::read;
use millstream_config::Pipeline;

/// The pipeline with a `sql:` written as given; the text must hold the word `HERE`.
fn pipeline(sql: &str) -> Pipeline {
    let text = format!(
        "pipeline: p\nsource: {{ topic: t, format: json }}\nsteps:\n{sql}\nsinks: [{{ discard: true }}]\n"
    );
    read(&text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// Asks for the place of `HERE` as SQL sees it, and checks that it is where the file has it.
fn check(sql: &str) {
    let pipeline = pipeline(sql);
    let seen = &pipeline.spec.steps[0].sql;
    let before = &seen[..seen.find("HERE").unwrap_or_else(|| panic!("no HERE in {seen:?}"))];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
    let mistake = pipeline.mistake_in_block(
        "/steps/0/sql",
        line as u32,
        column as u32,
        "no such column",
        None,
    );

    let (file_line, wanted) =
        sql.lines().enumerate().find(|(_, line)| line.contains("HERE")).expect("HERE in the file");
    let wanted_column = wanted[..wanted.find("HERE").unwrap()].chars().count() + 1;
    let found = (mistake.line as usize, mistake.column as usize);
    assert_eq!(found, (file_line + 4, wanted_column), "{sql}\n{seen:?}\n{mistake}");
    assert!(mistake.to_string().contains("^^^^"), "{mistake}");
}

#[test]
fn in_literal_blocks() {
    check("  - sql: |\n      SELECT HERE\n      FROM input");
    check("  - sql: |\n      SELECT a,\n        HERE,\n\n      b FROM input");
    check("  - sql: |-\n      SELECT a\n      FROM HERE");
    check("  - sql: |+\n\n\n      SELECT a\n\n      FROM HERE\n\n");
    check("  - sql: |  # a comment\n      SELECT HERE");
    check("  -\n    name: x\n    sql:\n      |\n      SELECT a,\n      HERE");
    check("  - sql: |\n      SELECT 'é日本' AS x, HERE");
}

#[test]
fn in_blocks_with_an_indentation_indicator() {
    check("  - sql: |2\n        SELECT a,\n      HERE");
    check("  - sql: |2-\n          SELECT HERE");
    check("  - sql: >2\n        SELECT a,\n      HERE");
}

#[test]
fn in_folded_blocks() {
    check("  - sql: >\n      SELECT a,\n      HERE,\n      b FROM input");
    check("  - sql: >-\n      SELECT a,\n        more,\n        HERE\n      FROM input");
    check("  - sql: >\n\n      SELECT a\n\n\n      FROM HERE");
}

#[test]
fn in_plain_and_quoted_texts() {
    check("  - sql: SELECT HERE FROM input # HERE is a column");
    check("  - sql: SELECT a,\n      b,\n\n      HERE FROM input");
    check("  - { sql: SELECT HERE FROM input }");
    check("  - sql: 'SELECT ''x'' AS y, HERE'");
    check("  - sql: 'SELECT ''x''\n\n      AS y,\n      HERE'");
    check("  - sql: \"SELECT \\\"x\\\" \\x41\\u00e9\\U0001F600, HERE\"");
    check("  - sql: \"SELECT a, \\\n      HERE\"");
    check("  - sql: \"SELECT a,   \n\n\n      b,\n      HERE\"");
    check("  - sql: \"SELECT a,\\n\\tb, HERE\"");
}

#[test]
fn past_a_variable() {
    check("  - sql: |\n      SELECT ${COLUMN}, ${TOPIC}, HERE\n      FROM input");
    check("  - sql: |\n      SELECT '$${COLUMN}', HERE");
    check("  - sql: \"SELECT ${COLUMN},\n      HERE\"");
    let pipeline = pipeline("  - sql: SELECT ${COLUMN} FROM input");
    // Inside of what a variable gives, the variable is the place.
    let mistake = pipeline.mistake_in_block("/steps/0/sql", 1, 12, "x", None);
    assert_eq!((mistake.line, mistake.column), (4, 17));
}

#[test]
fn places_out_of_the_text_are_near_it() {
    let pipeline = pipeline("  - sql: |\n      SELECT a\n      FROM b");
    let place = |line, column| {
        let mistake = pipeline.mistake_in_block("/steps/0/sql", line, column, "x", None);
        (mistake.line, mistake.column)
    };
    assert_eq!(place(0, 0), (4, 5));
    assert_eq!(place(1, 1), (5, 7));
    assert_eq!(place(1, 100), (5, 15));
    assert_eq!(place(2, 6), (6, 12));
    assert!(place(100, 100).0 <= 7, "{:?}", place(100, 100));
    let elsewhere = pipeline.mistake_in_block("/steps/7/sql", 3, 3, "x", None);
    assert_eq!(elsewhere.line, 3);
}

#[test]
fn values_and_names_have_places() {
    let text = "pipeline: p\nsource:\n  topic: t\n  format: avro\nlookups:\n  \"a\": { table: x }\n\
                sinks:\n  - table: y\n    key: [k, l]\n";
    let pipeline = read(text).unwrap();
    let places = pipeline.places();
    let of = |path: &str| (places.of(path).line, places.of(path).column);
    let key = |path: &str| (places.of_key(path).line, places.of_key(path).column);
    assert_eq!((of("/pipeline"), key("/pipeline")), ((1, 11), (1, 1)));
    assert_eq!((of("/source/topic"), key("/source/topic")), ((3, 10), (3, 3)));
    assert_eq!((of("/lookups/a/table"), key("/lookups/a")), ((6, 17), (6, 3)));
    assert_eq!((of("/sinks/0/key/1"), key("/sinks/0")), ((9, 14), (8, 5)));
    // What is not in the file is at what is around it.
    assert_eq!(of("/source/format/avro/framing"), (4, 11));
    assert_eq!(key("/source/max_record_bytes"), (2, 1));
    assert!(places.has("/source/topic") && !places.has("/source/start"));
}

#[test]
fn a_mistake_in_a_block_shows_the_line_of_the_file() {
    let pipeline = pipeline("  - sql: |\n      SELECT uid,\n        sitename\n      FROM input");
    let hint = Some("did you mean `site_name`?".to_owned());
    let mistake = pipeline.mistake_in_block("/steps/0/sql", 2, 3, "no column `sitename`", hint);
    insta::assert_snapshot!(mistake, @r"
    error: no column `sitename`
      --> pipeline.yaml:6:9
      |
    6 |         sitename
      |         ^^^^^^^^
      |
      = help: did you mean `site_name`?
    ");
}
