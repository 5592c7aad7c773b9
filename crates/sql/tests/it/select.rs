//! Whole SELECTs: what comes out, with which schema, and which columns are read.

use crate::support::{json, outcome, planned, rows, run, schema};
use arrow_schema::DataType;
use millstream_core::{Batch, Origin, types};
use std::sync::Arc;

const COLUMNS: &str =
    "id int!, name string, tags string[], nums int[], site struct<id int, name string>";
const ROWS: &str = r#"
    {"id":1,"name":"a","tags":["x","y"],"nums":[1],"site":{"id":7,"name":"s"}}
    {"id":2,"name":"b","tags":[],"nums":[5,6]}
    {"id":3,"name":null,"tags":null}
    {"id":4,"name":"d","tags":["z"],"nums":[8,9,10]}"#;

fn out(sql: &str) -> Vec<String> {
    let (rows, rejected) = outcome(sql, &schema(COLUMNS), ROWS);
    assert!(rejected.is_empty(), "{rejected:?}");
    rows
}

#[test]
fn shapes_of_select() {
    let cases: &[(&str, &[&str])] = &[
        ("SELECT id FROM input WHERE id > 3", &[r#"{"id":4}"#]),
        ("SELECT n.id FROM input AS n WHERE n.id = 1", &[r#"{"id":1}"#]),
        ("SELECT id, name AS n FROM input WHERE name IS NULL", &[r#"{"id":3,"n":null}"#]),
        ("SELECT id, site.name FROM input WHERE id = 1", &[r#"{"id":1,"name":"s"}"#]),
        ("SELECT upper(name) FROM input WHERE id = 1", &[r#"{"upper":"A"}"#]),
        ("SELECT id::bigint FROM input WHERE id = 1", &[r#"{"id":1}"#]),
        ("SELECT 1 AS one FROM input WHERE id < 3", &[r#"{"one":1}"#, r#"{"one":1}"#]),
        ("SELECT id FROM input WHERE false", &[]),
        ("SELECT id FROM input WHERE NULL", &[]),
        (
            "SELECT * EXCLUDE (tags, nums, site) FROM input WHERE id = 1",
            &[r#"{"id":1,"name":"a"}"#],
        ),
        (
            "SELECT * EXCEPT (tags, nums, site) REPLACE (id + 1 AS id) FROM input WHERE id = 1",
            &[r#"{"id":2,"name":"a"}"#],
        ),
        (
            "SELECT id, unnest(tags) AS tag FROM input",
            &[r#"{"id":1,"tag":"x"}"#, r#"{"id":1,"tag":"y"}"#, r#"{"id":4,"tag":"z"}"#],
        ),
        (
            "SELECT id, unnest(tags) AS tag, unnest(nums) AS num FROM input WHERE id <> 4",
            &[
                r#"{"id":1,"tag":"x","num":1}"#,
                r#"{"id":1,"tag":"y","num":null}"#,
                r#"{"id":2,"tag":null,"num":5}"#,
                r#"{"id":2,"tag":null,"num":6}"#,
            ],
        ),
        (
            "SELECT n.id, t.tag FROM input n CROSS JOIN UNNEST(n.tags) AS t(tag) WHERE tag <> 'x'",
            &[r#"{"id":1,"tag":"y"}"#, r#"{"id":4,"tag":"z"}"#],
        ),
        (
            "SELECT id, tag FROM input n, UNNEST(n.tags) AS tag",
            &[r#"{"id":1,"tag":"x"}"#, r#"{"id":1,"tag":"y"}"#, r#"{"id":4,"tag":"z"}"#],
        ),
        (
            "SELECT id, tag FROM input LEFT JOIN UNNEST(tags) AS t(tag) ON true WHERE id < 4",
            &[
                r#"{"id":1,"tag":"x"}"#,
                r#"{"id":1,"tag":"y"}"#,
                r#"{"id":2,"tag":null}"#,
                r#"{"id":3,"tag":null}"#,
            ],
        ),
        (
            "SELECT id, t.* FROM input CROSS JOIN UNNEST(tags, nums) WITH ORDINALITY AS t(tag, num, at) \
             WHERE id = 2",
            &[r#"{"id":2,"tag":null,"num":5,"at":1}"#, r#"{"id":2,"tag":null,"num":6,"at":2}"#],
        ),
        (
            "SELECT a.x, b.y FROM input CROSS JOIN UNNEST(tags) AS a(x) CROSS JOIN UNNEST(nums) AS b(y) \
             WHERE id = 4 AND y > 8",
            &[r#"{"x":"z","y":9}"#, r#"{"x":"z","y":10}"#],
        ),
    ];
    for (sql, expected) in cases {
        assert_eq!(out(sql), *expected, "{sql}");
    }
}

#[test]
fn derived_rows_keep_their_source_row() {
    let batch = Batch::same(rows(&schema(COLUMNS), ROWS));
    let ran = run("SELECT unnest(tags) AS tag FROM input", batch, &[]).unwrap();
    assert_eq!(ran.batch.origin.iter().collect::<Vec<_>>(), [0, 0, 3]);
    let again = run("SELECT tag FROM input WHERE tag <> 'x'", ran.batch, &[]).unwrap();
    assert_eq!(again.batch.origin.iter().collect::<Vec<_>>(), [0, 3]);
}

#[test]
fn one_bad_derived_row_drops_all_of_its_source_row() {
    let sql = "SELECT id, 10 / (n - 5) AS x FROM input CROSS JOIN UNNEST(nums) AS t(n)";
    let (rows, rejected) = outcome(sql, &schema(COLUMNS), ROWS);
    assert_eq!(
        rows,
        [r#"{"id":1,"x":-2}"#, r#"{"id":4,"x":3}"#, r#"{"id":4,"x":2}"#, r#"{"id":4,"x":2}"#]
    );
    assert_eq!(rejected, ["1 divide_by_zero: divide by zero error in `10 / (n - 5)`"]);
}

#[test]
fn one_record_becomes_a_bounded_number_of_rows() {
    let sql =
        "SELECT id FROM input CROSS JOIN UNNEST(nums) AS a(x) CROSS JOIN UNNEST(nums) AS b(y)";
    let record =
        |id: u32, len: usize| format!(r#"{{"id":{id},"nums":[{}]}}"#, vec!["1"; len].join(","));
    let json_rows = [record(1, 2), record(2, 256), record(3, 257), record(4, 1)].concat();
    let (rows, rejected) = outcome(sql, &schema(COLUMNS), &json_rows);
    assert_eq!(rows.len(), 4 + 256 * 256 + 1);
    assert_eq!(rejected, ["2 too_many_rows: UNNEST makes more than 65536 rows of one record"]);
}

#[test]
fn columns_that_pass_through_are_not_copied() {
    let input = rows(&schema(COLUMNS), ROWS);
    let same = |sql: &str| {
        let ran = run(sql, Batch::same(input.clone()), &[]).unwrap();
        let name = ran.batch.rows.column_by_name("name").unwrap();
        Arc::ptr_eq(name, input.column_by_name("name").unwrap())
    };
    assert!(same("SELECT * FROM input"));
    assert!(same("SELECT name, id + 1 AS x FROM input"));
    assert!(same("SELECT name FROM input WHERE id > 0 AND id < 100"), "all rows are kept");
    assert!(!same("SELECT name FROM input WHERE id > 1"));
    let ran = run("SELECT * FROM input WHERE id > 0", Batch::same(input.clone()), &[]).unwrap();
    assert!(matches!(ran.batch.origin, Origin::Same(4)));
}

#[test]
fn only_the_columns_that_are_used_are_read() {
    let columns = |sql: &str| planned(sql, &schema(COLUMNS), &[]).input_columns();
    assert_eq!(columns("SELECT site.name FROM input WHERE id > 1"), ["id", "site"]);
    assert_eq!(columns("SELECT 1 AS one FROM input"), [""; 0]);
    assert_eq!(columns("SELECT * FROM input").len(), 5);
    let query = planned("SELECT name FROM input WHERE id > 1", &schema(COLUMNS), &[]);
    let step = query.bind(Vec::new()).unwrap();
    // In another order, and with a column that nobody asked for.
    let other = rows(&schema("name string, more int, id int!"), r#"{"name":"q","more":1,"id":2}"#);
    let ran = futures::FutureExt::now_or_never(step.run(Batch::same(other))).unwrap().unwrap();
    assert_eq!(json(&ran.batch.rows), [r#"{"name":"q"}"#]);
    let missing = rows(&schema("name string"), r#"{"name":"q"}"#);
    let error = futures::FutureExt::now_or_never(step.run(Batch::same(missing))).unwrap();
    assert_eq!(error.unwrap_err().to_string(), "the batch has no column `id`");
}

#[test]
fn the_output_has_types_that_pipeline_files_can_name() {
    let sql = "SELECT id, name, id > 1 AS later, array_length(tags) AS tags, length(name) AS len, \
               to_timestamp(name) AS at, now() AS now, [id] AS ids, coalesce(name, 'x') AS some, \
               ascii(name) AS code, TRY_CAST(id AS smallint) AS small FROM input";
    let fields: Vec<String> = planned(sql, &schema(COLUMNS), &[])
        .schema()
        .fields()
        .iter()
        .map(|f| {
            let null = if f.is_nullable() { "" } else { "!" };
            format!("{} {}{null}", f.name(), types::name(f.data_type()))
        })
        .collect();
    assert_eq!(
        fields,
        [
            "id int!",
            "name string",
            "later boolean!",
            "tags bigint",
            "len int",
            "at timestamp_us",
            "now timestamp!",
            "ids int[]",
            "some string!",
            "code int",
            "small int"
        ]
    );
    for field in planned(sql, &schema(COLUMNS), &[]).schema().fields() {
        assert!(!matches!(field.data_type(), DataType::Utf8View), "{field}");
    }
}

#[test]
fn an_empty_batch_keeps_the_schema() {
    let empty = rows(&schema(COLUMNS), "");
    let ran = run("SELECT id, unnest(tags) AS t FROM input WHERE id > 1", Batch::same(empty), &[]);
    let ran = ran.unwrap();
    assert_eq!(ran.batch.rows.schema().fields().len(), 2);
    assert!(ran.batch.is_empty());
}

#[test]
fn now_is_one_time_for_a_batch_and_random_one_value_for_a_row() {
    let query = planned(
        "SELECT now() AS a, current_timestamp AS b, random() AS r, random() AS s, uuid() AS u, \
         current_date AS d FROM input WHERE now() > TIMESTAMP '2000-01-01 00:00:00'",
        &schema(COLUMNS),
        &[],
    );
    let step = query.bind(Vec::new()).unwrap().with_clock(|| 1_000_000_000_000).with_seed(1);
    let batch = Batch::same(rows(&schema(COLUMNS), ROWS));
    let ran = futures::FutureExt::now_or_never(step.run(batch)).unwrap().unwrap();
    let rows: Vec<serde_json::Value> =
        json(&ran.batch.rows).iter().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert_eq!(rows.len(), 4);
    let mut seen = std::collections::HashSet::new();
    for row in &rows {
        assert_eq!(row["a"], "2001-09-09T01:46:40Z");
        assert_eq!((&row["a"], &row["d"]), (&row["b"], &"2001-09-09".into()));
        for name in ["r", "s", "u"] {
            assert!(seen.insert(row[name].to_string()), "{row}");
        }
    }
}

#[test]
fn explain_tells_the_stages() {
    let query = planned(
        "SELECT n.id, upper(n.name) AS name, t.tag, n.site.name AS site FROM input n \
         CROSS JOIN UNNEST(n.tags) AS t(tag) WHERE t.tag <> 'x' AND n.id > 1",
        &schema(COLUMNS),
        &[],
    );
    insta::assert_snapshot!(query.explain(), @r"
    input   4 of 5 columns: id, name, tags, site
    where   n.id > 1
    unnest  n.tags
    where   t.tag <> 'x'
    select  id int not null  = n.id
    select  name string  = upper(n.name)
    select  tag string  = t.tag
    select  site string  = n.site.name
    ");
}

#[test]
fn the_fields_that_are_read_of_a_column() {
    let input = schema(
        "id int, site struct<name string, geo struct<lat double, lon double>>, params map<string>",
    );
    for (sql, paths) in [
        ("SELECT n.site.name FROM input n", &["site.name"][..]),
        ("SELECT id FROM input WHERE site.geo.lat > 1", &["id", "site.geo.lat"]),
        ("SELECT site.geo.lat, site['name'] AS n FROM input", &["site.geo.lat", "site.name"]),
        ("SELECT site.name FROM input WHERE site IS NOT NULL", &["site"]),
        ("SELECT site, site.name FROM input", &["site"]),
        ("SELECT site.geo FROM input", &["site.geo"]),
        (
            "SELECT upper(site.name) AS u, params['utm'] AS p FROM input",
            &["site.name", "params.utm"],
        ),
        ("SELECT coalesce(site.geo, site.geo).lat AS x FROM input", &["site.geo"]),
        ("SELECT params[site.name] AS p FROM input", &["site.name", "params"]),
        ("SELECT * FROM input", &["id", "site", "params"]),
    ] {
        let query = millstream_sql::plan(sql, &input, &Default::default()).unwrap();
        assert_eq!(query.input_paths(), paths, "{sql}");
    }
}
