//! Anything at all as SQL. What is accepted runs, and gives every row one verdict.

use crate::support::{Memory, rows, run, schema};
use arrow_array::RecordBatch;
use millstream_core::Batch;
use millstream_sql::{function_names, plan, plan_expr};
use millstream_testkit::fuzz;
use std::collections::BTreeMap;
use std::sync::Arc;

const COLUMNS: &str = "id int, big bigint, share double, price decimal(10, 2), name string, \
    ok boolean, day date, at timestamp, ip ip, tags string[], nums int[], \
    site struct<id int, name string>, attributes map<string>";

const ROWS: &str = r#"
    {"id":1,"big":9223372036854775807,"share":0.5,"price":"1.25","name":"a","ok":true,
     "day":"2024-02-29","at":"2024-02-29T12:00:00Z","ip":"10.0.0.1","tags":["x","y"],"nums":[1,2],
     "site":{"id":3,"name":"s"},"attributes":{"k":"v"}}
    {"id":null}
    {"id":0,"big":-1,"share":-0.0,"name":"é🦀","ok":false,"tags":[],"nums":[null],"site":{"id":null},
     "attributes":{}}
    {"id":-2147483648,"name":"{\"a\":[1]}","tags":[null,"https://h.example/p?q=1"]}"#;

const SELECTS: [&str; 22] = [
    "SELECT * FROM input",
    "SELECT id, name AS n FROM input WHERE name IS NULL OR id > 3",
    "SELECT n.id, n.site.name, tags[1], attributes['k'] AS k FROM input AS n WHERE n.id = 1",
    "SELECT id::bigint, CAST(name AS int) AS x, TRY_CAST(name AS double) AS y FROM input",
    "SELECT * EXCEPT (tags, nums, site) REPLACE (id + 1 AS id) FROM input",
    "SELECT id, unnest(tags) AS tag, unnest(nums) AS num FROM input WHERE id <> 4",
    "SELECT id, tag FROM input LEFT JOIN UNNEST(tags) AS t(tag) ON true WHERE tag <> 'x'",
    "SELECT id, t.* FROM input CROSS JOIN UNNEST(tags, nums) WITH ORDINALITY AS t(tag, num, i)",
    "SELECT CASE WHEN id > 0 THEN 10 / id ELSE -id END AS x, id % 0 AS y FROM input",
    "SELECT CASE name WHEN 'a' THEN 1 WHEN 'b' THEN 2 END AS x FROM input",
    "SELECT coalesce(name, 'none') || '!' AS x, nullif(id, 0) AS y FROM input",
    "SELECT id IN (1, 2, NULL) AS a, id BETWEEN -1 AND 1 AS b, name LIKE 'a%' AS c FROM input",
    "SELECT name ~ '^a' AS a, regexp_extract(name, '([a-z]+)', 1) AS b FROM input",
    "SELECT date_trunc('hour', at) AS a, at + INTERVAL '1 day' AS b, day - 7 AS c FROM input",
    "SELECT extract(year FROM day) AS y, to_timestamp('2024-01-01') AS t, now() AS n FROM input",
    "SELECT substr(name, 2, 3) AS a, left(name, -1) AS b, lpad(name, 5, 'x') AS c FROM input",
    "SELECT big * big AS a, price / 3 AS b, share / 0 AS c, abs(id) AS d, -id AS e FROM input",
    "SELECT upper(trim(both 'a' from name)) AS a, position('a' IN name) AS b FROM input",
    "SELECT array_length(tags) AS a, array_contains(nums, 1) AS b, [1, id] AS c FROM input",
    "SELECT n.id, s.name FROM input n LEFT JOIN sites s ON s.id = n.site.id AND s.owner > 1",
    "SELECT n.id, g.country FROM input n JOIN geo g ON n.id BETWEEN g.low AND g.high",
    "WITH x AS (SELECT 1) SELECT DISTINCT count(*) OVER () FROM input GROUP BY id LIMIT 1",
];

fn words() -> Vec<&'static str> {
    let known = "SELECT FROM WHERE AND OR NOT IS NULL CASE WHEN THEN ELSE END CAST ( ) AS int \
        bigint double string date timestamp decimal(38,10) IN LIKE BETWEEN EXISTS UNNEST JOIN ON \
        LEFT CROSS input n sites geo id big share price name ok day at ip tags nums site \
        attributes :: || -> ->> ~ !~ <> <= + - * / % ^ & | << >> [1] ['k'] .name 'a' '' \"id\" \
        INTERVAL '1' EXTRACT(day -- /* */ ; $1 ? :x @> x'ff' 1e10 .5 0x1F U&'\\00e9' E'\\n'";
    known.split_whitespace().chain(function_names()).collect()
}

fn lookups() -> [(&'static str, Arc<Memory>); 2] {
    [
        (
            "sites",
            Memory::new("id int, name string, owner int", r#"{"id":3,"name":"S","owner":2}"#),
        ),
        (
            "geo",
            Memory::new("low int, high int, country string", r#"{"low":0,"high":9,"country":"x"}"#),
        ),
    ]
}

fn input() -> RecordBatch {
    rows(&schema(COLUMNS), ROWS)
}

#[test]
fn fuzz_select() {
    let (input, lookups) = (input(), lookups());
    let schemas: BTreeMap<_, _> = lookups
        .iter()
        .map(|(name, lookup)| ((*name).to_owned(), millstream_core::Lookup::schema(&**lookup)))
        .collect();
    fuzz::run_text("fuzz_select", &SELECTS, &words(), |sql| {
        let query = match plan(sql, &input.schema(), &schemas) {
            Ok(query) => query,
            Err(errors) => {
                assert!(!errors.is_empty());
                for error in errors {
                    assert!(!error.to_string().is_empty());
                    assert!(error.line >= 1 && error.column >= 1, "{error}");
                }
                return;
            }
        };
        let _ = query.explain();
        let ran = run(sql, Batch::same(input.clone()), &lookups).unwrap();
        assert_eq!(ran.batch.rows.schema(), query.schema());
        for rejection in &ran.rejected {
            assert!(rejection.source_row < input.num_rows() as u32);
            let row = rejection.source_row;
            assert!(ran.batch.origin.iter().all(|origin| origin != row), "kept and rejected");
        }
    });
}

#[test]
fn fuzz_expressions() {
    let input = input();
    let corpus: Vec<&str> = SELECTS
        .iter()
        .filter_map(|sql| sql.split_once("SELECT ")?.1.split(" FROM input").next())
        .flat_map(|list| list.split(" AS "))
        .chain(["id > 3 AND name = 'a'", "input.site.name LIKE '%s%'", "not ok"])
        .collect();
    fuzz::run_text("fuzz_expressions", &corpus, &words(), |sql| {
        if let Ok(scalar) = plan_expr(sql, &input.schema()) {
            let _ = scalar.evaluate(&input);
        }
    });
}
