//! A table as the lookup of a join.

use crate::support::*;
use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use millstream_core::LookupKey;
use millstream_tables::{TableLookup, TableSpec};
use std::sync::Arc;

fn equal(columns: &[&str]) -> LookupKey {
    LookupKey::Equal(columns.iter().map(|c| (*c).to_owned()).collect())
}

/// Polls a future that never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("a table's lookup does not wait"),
    }
}

#[test]
fn a_lookup_takes_its_key_in_any_order_and_under_any_name() {
    let dir = tempfile::tempdir().unwrap();
    let table = people(&open(dir.path()));
    table.write(&rows(&[("a", 1, Some("x")), ("a", 2, Some("y"))]), None, None).unwrap();
    let lookup = TableLookup::bind(&table, &equal(&["n", "k"]), Some(&["v".to_owned()])).unwrap();
    assert_eq!(lookup.schema().fields().len(), 1);
    let keys = RecordBatch::try_from_iter([
        ("event_number", Arc::new(Int32Array::from(vec![2, 3, 1])) as ArrayRef),
        ("event_key", Arc::new(StringArray::from(vec!["a", "a", "a"])) as _),
    ])
    .unwrap();
    let found = now(lookup.get_many(&keys)).unwrap();
    assert_eq!((text(&[found.rows]), found.ends), (vec!["y".into(), "x".into()], vec![1, 1, 2]));

    let lookup = TableLookup::bind(&table, &equal(&["k"]), None).unwrap();
    let found = now(lookup.get_many(&keys.project(&[1]).unwrap())).unwrap();
    assert_eq!(found.ends, [2, 4, 6]);
}

#[test]
fn a_range_is_found_by_the_last_start_at_or_before_the_value() {
    let dir = tempfile::tempdir().unwrap();
    let tables = open(dir.path());
    let columns = Schema::new(vec![
        Field::new("from", DataType::Int64, true),
        Field::new("to", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
    ]);
    let spec = TableSpec {
        name: "ranges".into(),
        columns: Arc::new(columns.clone()),
        partition_key: vec!["from".into()],
        clustering: vec![],
        ttl: None,
        grace: TableSpec::GRACE,
    };
    let table = tables.create_table(spec).unwrap();
    let write = |rows: &[(i64, Option<i64>, &str)], at: i64| {
        let columns_of: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0))),
            Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.1))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.2))),
        ];
        let batch = RecordBatch::try_new(Arc::new(columns.clone()), columns_of).unwrap();
        let times = Int64Array::from(vec![at; rows.len()]);
        table.write(&batch, Some(&times), None).unwrap();
    };
    write(&[(-20, Some(-11), "minus"), (0, Some(9), "old"), (10, Some(19), "a")], 1);
    // Several versions of a row, and one without an end.
    write(&[(0, Some(4), "zero"), (30, None, "open"), (i64::MAX, Some(i64::MAX), "last")], 2);
    write(&[(0, Some(9), "older")], 1);

    let key = LookupKey::Range { start: "from".into(), end: "to".into() };
    let asked = vec![-21, -20, -11, -10, 0, 4, 5, 10, 19, 20, 31, i64::MAX, i64::MIN];
    let want = ["", "minus", "minus", "", "zero", "zero", "", "a", "a", "", "", "last", ""];
    let keys: ArrayRef = Arc::new(Int64Array::from(asked.clone()));
    let keys = RecordBatch::try_from_iter([("value", keys)]).unwrap();
    // Also where the column of the ends is not asked for.
    for projection in [None, Some(["name".to_owned()])] {
        let lookup = TableLookup::bind(&table, &key, projection.as_ref().map(|p| &p[..])).unwrap();
        let found = now(lookup.get_many(&keys)).unwrap();
        assert_eq!(found.rows.schema(), lookup.schema());
        let names = found.rows.column_by_name("name").unwrap();
        let names = names.as_any().downcast_ref::<StringArray>().unwrap();
        for (at, want) in want.iter().enumerate() {
            let got: Vec<&str> = found.of(at).map(|row| names.value(row)).collect();
            assert_eq!(got.join(","), *want, "value {}", asked[at]);
        }
    }
    let refused = LookupKey::Range { start: "to".into(), end: "from".into() };
    let error = TableLookup::bind(&table, &refused, None).err().unwrap().to_string();
    assert!(error.contains("its whole key is `to`") && error.contains("`from`"), "{error}");
}

#[test]
fn a_lookup_that_the_key_does_not_serve_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let table = people(&open(dir.path()));
    let range = LookupKey::Range { start: "n".into(), end: "n".into() };
    for key in [equal(&["n"]), equal(&["v"]), equal(&["k", "v"]), equal(&["k", "n", "v"]), range] {
        let error = TableLookup::bind(&table, &key, None).err().unwrap().to_string();
        assert!(error.starts_with("table `people` "), "{error}");
    }
    let error = TableLookup::bind(&table, &equal(&["n"]), None).err().unwrap().to_string();
    assert_eq!(
        error,
        "table `people` must be joined on `k`, and may be joined on `n` after that; the SQL joins it on `n`"
    );
}
