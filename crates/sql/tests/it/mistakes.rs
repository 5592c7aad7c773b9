//! What is refused, in which words, and where.

use crate::support::{rows, schema};
use millstream_core::Batch;
use millstream_sql::{CHAIN_MAX, DEPTH_MAX, plan, plan_expr};
use std::collections::BTreeMap;
use std::fmt::Write;

const COLUMNS: &str =
    "id int, name string, status int, tags string[], site struct<id int, name string>";

fn told(sql: &str) -> String {
    let mut text = format!("{sql}\n");
    match plan(sql, &schema(COLUMNS), &BTreeMap::new()) {
        Ok(_) => text.push_str("  is accepted\n"),
        Err(errors) => {
            for error in errors {
                let _ = writeln!(text, "  {error}");
            }
        }
    }
    text
}

#[test]
fn constructs_that_a_step_cannot_have() {
    let told: String = [
        "",
        "-- nothing",
        "SELECT count(*) AS n FROM input",
        "SELECT sum(id) AS n FROM input",
        "SELECT id FROM input GROUP BY id",
        "SELECT id FROM input GROUP BY ALL",
        "SELECT id FROM input HAVING id > 1",
        "SELECT DISTINCT id FROM input",
        "SELECT row_number() OVER (ORDER BY id) AS n FROM input",
        "SELECT lag(id) OVER () AS n FROM input",
        "SELECT id FROM input ORDER BY id",
        "SELECT id FROM input LIMIT 10",
        "SELECT id FROM input UNION ALL SELECT id FROM input",
        "SELECT id FROM (SELECT id FROM input) x",
        "SELECT id FROM input WHERE id IN (SELECT 1)",
        "SELECT (SELECT 1) AS x FROM input",
        "SELECT id FROM input WHERE EXISTS (SELECT 1)",
        "WITH x AS (SELECT 1) SELECT id FROM input",
        "SELECT id FROM input; SELECT id FROM input",
        "INSERT INTO input VALUES (1)",
        "DELETE FROM input",
        "DROP TABLE input",
        "SELECT id",
        "SELECT id FROM events",
        "SELECT id FROM input, other",
        "SELECT id FROM input JOIN other ON true",
        "SELECT id FROM input CROSS JOIN other",
        "SELECT id FROM input RIGHT JOIN other ON other.id = id",
        "SELECT id FROM input FULL JOIN other ON other.id = id",
        "SELECT id FROM input JOIN other USING (id)",
        "SELECT id FROM input NATURAL JOIN other",
        "SELECT id FROM input JOIN other",
        "SELECT $1 AS x FROM input",
        "SELECT id FROM input QUALIFY id > 1",
        "FROM input",
    ]
    .into_iter()
    .map(told)
    .collect();
    insta::assert_snapshot!(told);
}

#[test]
fn mistakes_in_names_and_types() {
    let told: String = [
        "SELECT idd FROM input",
        "SELECT ID FROM input",
        "SELECT \"x\" AS y FROM input WHERE name = \"foo\"",
        "SELECT n.id FROM input",
        "SELECT n.idd FROM input n",
        "SELECT input.id FROM input n",
        "SELECT site.nam, tags.x FROM input",
        "SELECT uper(name) AS x FROM input",
        "SELECT frobnicate(name) AS x FROM input",
        "SELECT id + 'x' AS x FROM input",
        "SELECT name + 1 AS x,\n  upper(id, name) AS y,\n  idd\nFROM input\nWHERE nme = 'x'",
        "SELECT id FROM input WHERE name",
        "SELECT id FROM input WHERE upper(name)",
        "SELECT id, id FROM input",
        "SELECT id + 1 FROM input",
        "SELECT NULL AS x FROM input",
        "SELECT unnest(name) AS x FROM input",
        "SELECT upper(unnest(tags)) AS x FROM input",
        "SELECT id FROM input CROSS JOIN UNNEST(tags) AS t(a, b)",
        "SELECT x.* FROM input n",
        "SELECT * EXCLUDE (nme) FROM input",
        "SELECT regexp_extract(name, '(', 1) AS x FROM input",
        "SELECT CAST(name AS nothing) AS x FROM input",
        "SELECT site AND true AS x FROM input",
        "SELECT tags[name] AS x FROM input",
        "SELECT site['nam'] AS x FROM input",
        "SELECT array_transform(tags, t -> t) AS x FROM input",
    ]
    .into_iter()
    .map(told)
    .collect();
    insta::assert_snapshot!(told);
}

#[test]
fn mistakes_in_syntax() {
    let told: String = [
        "SELEC id FROM input",
        "SELECT id FROM",
        "SELECT id\nFROM input\nWHERE (id > 1",
        "SELECT id FROM input WHERE",
        "SELECT 'abc FROM input",
        "SELECT id FROM input WHERE id >> > 1",
        "SELECT , FROM input",
    ]
    .into_iter()
    .map(told)
    .collect();
    insta::assert_snapshot!(told);
}

#[test]
fn deep_and_long_sql_is_refused_and_what_is_accepted_runs() {
    let nested = |n: usize| format!("SELECT {}id{} AS x FROM input", "(".repeat(n), ")".repeat(n));
    let calls =
        |n: usize| format!("SELECT {}id{} AS x FROM input", "abs(".repeat(n), ")".repeat(n));
    let chain = |n: usize| format!("SELECT id{} AS x FROM input", " + id".repeat(n));
    let cases = |n: usize| {
        let open = "CASE WHEN id > 0 THEN ".repeat(n);
        format!("SELECT {open}id{} AS x FROM input", " ELSE id END".repeat(n))
    };
    let logic = |n: usize| format!("SELECT id = 1{} AS x FROM input", " OR 10 / id = 2".repeat(n));
    for deep in [nested(10_000), calls(10_000), chain(10_000), cases(10_000), logic(10_000)] {
        let errors = plan(&deep, &schema(COLUMNS), &BTreeMap::new()).unwrap_err();
        assert!(errors[0].message.contains("deeper") || errors[0].message.contains("chain"));
        assert!(errors[0].column > 60);
    }
    // The longest that is accepted is evaluated on a stack of the usual size.
    let batch = Batch::same(rows(&schema(COLUMNS), r#"{"id":1}{"id":7}"#));
    for sql in [
        nested(DEPTH_MAX),
        calls(DEPTH_MAX),
        chain(CHAIN_MAX),
        cases(DEPTH_MAX),
        logic(CHAIN_MAX / 3),
        format!("SELECT id FROM input WHERE id = 1{}", " OR id = 2".repeat(CHAIN_MAX / 2 - 1)),
        format!("SELECT id FROM input WHERE id > 0{}", " AND id < 9".repeat(CHAIN_MAX / 2 - 1)),
        format!("SELECT name{} AS x FROM input", " || name".repeat(CHAIN_MAX)),
        format!("SELECT id IN ({}) AS x FROM input", vec!["5"; 5_000].join(", ")),
    ] {
        let ran = crate::support::run(&sql, batch.clone(), &[]).unwrap();
        assert!(ran.batch.len() + ran.rejected.len() > 0, "{}", &sql[..40]);
    }
}

#[test]
fn one_expression_outside_a_select() {
    let input = schema(COLUMNS);
    let batch = rows(&input, r#"{"id":1,"name":"a"}{"id":0,"name":"b"}{"name":"c"}"#);
    let scalar = plan_expr("10 / id", &input).unwrap();
    assert_eq!(scalar.columns(), ["id"]);
    let (values, failed) = scalar.evaluate(&batch).unwrap();
    assert_eq!(format!("{values:?}").matches("null").count(), 2);
    assert_eq!((failed.len(), failed[0].row, failed[0].kind), (1, 1, "divide_by_zero"));
    let matches = plan_expr("input.name <> 'a' AND 10 / id > 0", &input).unwrap();
    assert_eq!(matches.matches(&batch).unwrap().true_count(), 0);
    let matches = plan_expr("name <> 'a' OR id = 1", &input).unwrap();
    assert_eq!(matches.matches(&batch).unwrap().true_count(), 3);
    assert!(plan_expr("id", &input).unwrap().matches(&batch).is_err());
    for (sql, expected) in [
        ("id +", "line 1"),
        ("id 1", "one expression is expected; `1` follows it"),
        ("idd", "did you mean `id`?"),
        ("sum(id)", "aggregate"),
        ("id FROM input", "one expression is expected"),
    ] {
        let error = plan_expr(sql, &input).unwrap_err()[0].to_string();
        assert!(error.contains(expected), "{sql}: {error}");
    }
}
