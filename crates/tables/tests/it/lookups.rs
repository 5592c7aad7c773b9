//! A table as the lookup of a join.

use crate::support::*;
use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use millstream_core::LookupKey;
use millstream_tables::TableLookup;
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
