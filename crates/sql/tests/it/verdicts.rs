//! A row's verdict and values are those it has when evaluated alone, however rows are batched.

use crate::support::{Memory, json, rows, schema};
use futures::FutureExt;
use millstream_core::{Batch, Lookup};
use millstream_sql::{Step, plan};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const COLUMNS: &str = "i int, b bigint, d double, t string, flag boolean, nums int[], j string";

fn row() -> impl Strategy<Value = String> {
    let null = |values: &'static [&'static str]| select(values).prop_map(str::to_owned);
    (
        null(&["null", "0", "1", "-1", "2", "7", "2147483647", "-2147483648"]),
        null(&["null", "0", "1", "-1", "5", "9223372036854775807", "-9223372036854775808"]),
        null(&["null", "0.0", "-0.0", "1.5", "1e300", "-2.0"]),
        null(&["null", r#""""#, r#""7""#, r#""abc""#, r#""ä1b22""#, r#""2012-02-03""#]),
        null(&["null", "true", "false"]),
        null(&["null", "[]", "[1]", "[0,null,3]", "[5,5,5,5]"]),
        null(&["null", r#""{""#, r#""{\"a\":1}""#, r#""{\"a\":\"x\",\"b\":[1,2]}""#, r#""[]""#]),
    )
        .prop_map(|(i, b, d, t, flag, nums, j)| {
            format!(r#"{{"i":{i},"b":{b},"d":{d},"t":{t},"flag":{flag},"nums":{nums},"j":{j}}}"#)
        })
}

/// An integer, a condition or a text, most of which fail for some rows.
fn expr() -> impl Strategy<Value = (String, String, String)> {
    let leaf = (
        select(&["i", "b", "1", "0 - 3", "CAST(t AS bigint)", "TRY_CAST(t AS int)", "nums[2]"][..]),
        select(&["flag", "i > 0", "b IS NULL", "d > 1", "t LIKE 'a%'", "i <> 0", "true"][..]),
        select(&["t", "'x'", "upper(t)", "json_get(j, 'a')", "CAST(i AS string)"][..]),
    )
        .prop_map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
    leaf.prop_recursive(4, 24, 3, |inner| {
        (inner.clone(), inner.clone(), inner, 0..12usize).prop_map(
            |((i1, c1, t1), (i2, c2, t2), (i3, c3, t3), pick)| {
                let int = match pick {
                    0 => format!("({i1} / {i2})"),
                    1 => format!("({i1} + {i2})"),
                    2 => format!("({i1} * {i2})"),
                    3 => format!("({i1} % {i2})"),
                    4 => format!("CASE WHEN {c1} THEN {i1} WHEN {c2} THEN {i2} ELSE {i3} END"),
                    5 => format!("coalesce({i1}, {i2})"),
                    6 => format!("(-{i1})"),
                    7 => format!("abs({i1})"),
                    8 => format!("length({t1})"),
                    9 => format!("nullif({i1}, {i2})"),
                    10 => format!("CASE {i1} WHEN 0 THEN {i2} WHEN 1 THEN 5 END"),
                    _ => format!("json_get_bigint({t1}, 'a')"),
                };
                let condition = match pick {
                    0 => format!("({c1} AND {i1} > {i2})"),
                    1 => format!("({c1} OR {i1} / {i2} > 0)"),
                    2 => format!("({c1} AND ({c2} OR {c3}))"),
                    3 => format!("(NOT {c1})"),
                    4 => format!("({i1} BETWEEN {i2} AND {i3})"),
                    5 => format!("({i1} IN ({i2}, 3, {i3}))"),
                    6 => format!("({t1} = {t2})"),
                    7 => format!("(CASE WHEN {c1} THEN {c2} ELSE {c3} END)"),
                    8 => format!("({c1} IS NOT TRUE)"),
                    9 => format!("regexp_like({t1}, '[0-9]+')"),
                    10 => format!("({t1} IS DISTINCT FROM {t2})"),
                    _ => format!("({i1} / {i2} > 1 AND {c1} OR {i3} = 1 / {i2})"),
                };
                let text = match pick {
                    0 => format!("({t1} || {t2})"),
                    1 => format!("substr({t1}, CAST({i1} AS bigint))"),
                    2 => format!("CASE WHEN {c1} THEN {t1} ELSE {t2} END"),
                    3 => format!("CAST({i1} AS string)"),
                    4 => format!("regexp_extract({t1}, '([a-z]+)([0-9])?', 2)"),
                    5 => format!("concat({t1}, {t2}, {t3})"),
                    6 => format!("CAST(to_timestamp({t1}) AS string)"),
                    7 => format!("replace({t1}, 'a', {t2})"),
                    8 => format!("coalesce({t1}, {t2})"),
                    9 => format!("CAST({c1} AS string)"),
                    10 => format!("json_get({t1}, {t2})"),
                    _ => format!("nullif({t1}, {t2})"),
                };
                (int, condition, text)
            },
        )
    })
}

fn query() -> impl Strategy<Value = String> {
    let from = select(
        &[
            "input n",
            "input n CROSS JOIN UNNEST(n.nums) AS u(num)",
            "input n LEFT JOIN look l ON l.k = @i",
            "input n JOIN look l ON l.k = @i AND 10 / l.v > n.i AND @c",
            "input n LEFT JOIN look l ON @c AND l.k = @i AND l.v > @i",
            "input n LEFT JOIN UNNEST([@i, 2]) AS u(num) ON true LEFT JOIN look l ON l.k = num",
        ][..],
    );
    (vec(expr(), 6), from, 0..3usize).prop_map(|(exprs, from, conditions)| {
        let mut next = exprs.iter().cycle();
        let mut sql = String::new();
        let (i, c, t) = next.next().unwrap();
        sql.push_str(&format!("SELECT {i} AS x, {c} AS y, {t} AS z FROM "));
        for part in from.split_inclusive('@') {
            let part = match part.strip_prefix(['i', 'c']) {
                Some(rest) if sql.ends_with(['\u{1}']) => {
                    sql.pop();
                    let (i, c, _) = next.next().unwrap();
                    sql.push_str(if part.starts_with('i') { i } else { c });
                    rest
                }
                _ => part,
            };
            match part.strip_suffix('@') {
                Some(part) => {
                    sql.push_str(part);
                    sql.push('\u{1}');
                }
                None => sql.push_str(part),
            }
        }
        for index in 0..conditions {
            sql.push_str(if index == 0 { " WHERE " } else { " AND " });
            sql.push_str(&next.next().unwrap().1);
        }
        sql
    })
}

/// For each source row, what came of it.
fn verdicts(step: &Step, batch: &Batch, size: usize) -> Vec<String> {
    let mut verdicts = vec![String::new(); batch.len()];
    let mut from = 0;
    while from < batch.len() {
        let len = size.min(batch.len() - from);
        let ran = step.run(batch.slice(from, len)).now_or_never().unwrap().unwrap();
        for (row, text) in ran.batch.origin.iter().zip(json(&ran.batch.rows)) {
            verdicts[row as usize].push_str(&text);
        }
        for rejection in ran.rejected {
            let verdict = &mut verdicts[rejection.source_row as usize];
            assert!(verdict.is_empty(), "a rejected row gives no rows");
            *verdict = format!("{}: {}", rejection.kind, rejection.reason);
        }
        from += len;
    }
    verdicts
}

#[test]
fn splitting_a_batch_changes_nothing() {
    static PLANNED: AtomicUsize = AtomicUsize::new(0);
    static REJECTED: AtomicUsize = AtomicUsize::new(0);
    static KEPT: AtomicUsize = AtomicUsize::new(0);
    let input = schema(COLUMNS);
    let look = Memory::new(
        "k bigint!, v int!",
        r#"{"k":1,"v":0}{"k":1,"v":3}{"k":7,"v":2}{"k":0,"v":5}{"k":5,"v":1}"#,
    );
    let lookups: BTreeMap<_, _> = [("look".to_owned(), look.schema())].into();
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() };
    proptest!(config, |(sql in query(), rows_json in vec(row(), 1..40), size in 2..20usize)| {
        // Constant parts that always fail are refused.
        let Ok(query) = plan(&sql, &input, &lookups) else { return Ok(()) };
        PLANNED.fetch_add(1, Ordering::Relaxed);
        let bound = query
            .lookups()
            .iter()
            .map(|usage| Arc::new(look.asking(&usage.key)) as Arc<dyn Lookup>)
            .collect();
        let step = query.bind(bound).unwrap();
        let batch = Batch::same(rows(&input, &rows_json.concat()));
        let alone = verdicts(&step, &batch, 1);
        for size in [size, batch.len()] {
            prop_assert_eq!(&verdicts(&step, &batch, size), &alone, "{} in {}s", sql, size);
        }
        let rejected = alone.iter().filter(|v| !v.is_empty() && !v.starts_with('{')).count();
        REJECTED.fetch_add(rejected, Ordering::Relaxed);
        KEPT.fetch_add(alone.iter().filter(|v| v.starts_with('{')).count(), Ordering::Relaxed);
    });
    let [planned, rejected, kept] = [&PLANNED, &REJECTED, &KEPT].map(|n| n.load(Ordering::Relaxed));
    assert!(planned > 200 && rejected > 500 && kept > 500, "{planned} {rejected} {kept}");
}

#[test]
fn a_guard_protects_what_follows_it() {
    let sql = "SELECT i, i <> 0 AND 10 / i > 1 AS big FROM input \
               WHERE t <> 'x' AND CAST(t AS int) > 0 AND (b = 0 OR 7 / b < 9)";
    let input = schema(COLUMNS);
    let query = plan(sql, &input, &BTreeMap::new()).unwrap();
    let step = query.bind(Vec::new()).unwrap();
    let json_rows = r#"{"i":0,"t":"1","b":0}{"i":2,"t":"x","b":1}{"i":3,"t":"2","b":1}
                       {"i":4,"t":"y","b":1}{"t":null}"#;
    let batch = Batch::same(rows(&input, json_rows));
    let got = verdicts(&step, &batch, 5);
    assert_eq!(got[0], r#"{"i":0,"big":false}"#);
    assert_eq!(got[1], "");
    assert_eq!(got[2], r#"{"i":3,"big":true}"#);
    assert!(got[3].starts_with("cast: cannot cast string 'y'"), "{}", got[3]);
    assert_eq!(got[4], "");
}
