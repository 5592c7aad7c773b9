//! Reading by key, by prefix and in order.

use crate::support::*;
use arrow_array::{Array, Int64Array, RecordBatch, StringArray};
use millstream_tables::{Scan, Table};
use std::sync::Arc;

/// 40 rows: keys a to d, numbers -5 to 4.
fn forty(db: &millstream_tables::Database) -> Table {
    let table = people(db);
    let batch: Vec<_> =
        ["a", "b", "c", "d"].iter().flat_map(|k| (-5..5).map(|n| (*k, n, Some("v")))).collect();
    table.write(&rows(&batch), None, None).unwrap();
    table
}

#[test]
fn many_keys_in_one_call() {
    let dir = tempfile::tempdir().unwrap();
    let table = forty(&open(dir.path()));
    table.delete(&keys(&[("b", 0)]), None).unwrap();
    let wanted = keys(&[("d", 4), ("a", 9), ("b", 0), ("a", -5), ("d", 4)]);
    let found = table.get_many(&wanted, None).unwrap();
    assert_eq!(found.ends, [1, 1, 1, 2, 3]);
    assert_eq!(text(&[found.rows]), ["d|4|v", "a|-5|v", "d|4|v"]);

    let names = ["v".to_owned(), "k".to_owned()];
    let found = table.get_many(&wanted, Some(&names)).unwrap();
    assert_eq!(text(&[found.rows]), ["v|d", "v|a", "v|d"]);
    let found = table.get_many(&wanted, Some(&[])).unwrap();
    assert_eq!((found.rows.num_rows(), found.rows.num_columns()), (3, 0));
    assert!(table.get_many(&wanted, Some(&["x".to_owned()])).is_err());
}

#[test]
fn a_prefix_that_covers_the_partition_finds_all_its_rows_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let table = forty(&open(dir.path()));
    let wanted = keys(&[("b", 0), ("x", 0), ("a", 0)]).project(&[0]).unwrap();
    let found = table.get_many(&wanted, Some(&["n".to_owned()])).unwrap();
    assert_eq!(found.ends, [10, 10, 20]);
    let numbers: Vec<i64> = (-5..5).chain(-5..5).collect();
    assert_eq!(&**found.rows.column(0), &Int64Array::from(numbers) as &dyn Array);
}

#[test]
fn a_null_key_finds_nothing_and_other_columns_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let table = forty(&open(dir.path()));
    let null = RecordBatch::try_from_iter_with_nullable([
        ("n", Arc::new(Int64Array::from(vec![Some(1), None])) as _, true),
        ("k", Arc::new(StringArray::from(vec![Some("a"), Some("a")])) as _, true),
    ])
    .unwrap();
    assert_eq!(table.get_many(&null, None).unwrap().ends, [1, 1]);
    for columns in [vec![0], vec![]] {
        let error = table.get_many(&null.project(&columns).unwrap(), None).unwrap_err();
        assert!(error.to_string().starts_with("table `people` is asked by"), "{error}");
    }
}

#[test]
fn scans_begin_end_and_stop_where_they_are_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let table = forty(&open(dir.path()));
    let key = |values: &[&str]| Some(table.key(values).unwrap());
    let count = |wanted: Scan| scan(&table, wanted).len();
    assert_eq!(count(Scan::default()), 40);
    assert_eq!(count(Scan { prefix: key(&["b"]), ..Scan::default() }), 10);
    assert_eq!(count(Scan { prefix: key(&["b", "3"]), ..Scan::default() }), 1);
    assert_eq!(count(Scan { prefix: key(&["bb"]), ..Scan::default() }), 0);
    assert_eq!(count(Scan { from: key(&["b"]), to: key(&["c"]), ..Scan::default() }), 20);
    assert_eq!(count(Scan { from: key(&["c"]), to: key(&["b"]), ..Scan::default() }), 0);
    let narrow = Scan {
        prefix: key(&["b"]),
        from: key(&["b", "-2"]),
        to: key(&["b", "1"]),
        projection: Some(vec!["n".to_owned()]),
        ..Scan::default()
    };
    assert_eq!(scan(&table, narrow.clone()), ["-2", "-1", "0", "1"]);
    assert_eq!(scan(&table, Scan { limit: Some(2), ..narrow.clone() }), ["-2", "-1"]);
    assert_eq!(scan(&table, Scan { limit: Some(0), ..narrow }), [""; 0]);
    // Wider bounds than the prefix do not widen it.
    let wide = Scan { prefix: key(&["b"]), from: key(&["a"]), to: key(&["c"]), ..Scan::default() };
    assert_eq!(count(wide), 10);
    let error = table.key(&["a", "many"]).unwrap_err();
    assert_eq!(error.to_string(), "`many` is not a bigint, which the key column `n` is");
    assert!(table.key(&[]).is_err() && table.key(&["a", "1", "2"]).is_err());
}

#[test]
fn a_scan_goes_on_where_another_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let table = forty(&open(dir.path()));
    let mut seen = Vec::new();
    let mut resume = None;
    loop {
        let mut rows = table.scan(Scan { limit: Some(7), resume, ..Scan::default() }).unwrap();
        assert!(rows.resume_token().is_none());
        let Some(batch) = rows.next() else { break };
        seen.extend(text(&[batch.unwrap()]));
        assert!(rows.next().is_none());
        resume = rows.resume_token().map(<[u8]>::to_vec);
    }
    assert_eq!(seen, all(&table));
    assert_eq!(seen.len(), 40);
}

#[test]
fn a_long_scan_comes_in_batches_and_skips_what_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let table = people(&open(dir.path()));
    let batch: Vec<_> = (0..5000).map(|n| ("k", n, Some("v"))).collect();
    table.write(&rows(&batch), None, None).unwrap();
    let gone: Vec<_> = (0..5000).filter(|n| n % 2 == 1).map(|n| ("k", n)).collect();
    table.delete(&keys(&gone), None).unwrap();
    let batches: Vec<_> = table.scan(Scan::default()).unwrap().map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [1024, 1024, 452]);
    let expected: Vec<_> = (0..5000).step_by(2).map(|n| format!("k|{n}|v")).collect();
    assert_eq!(text(&batches), expected);
}

#[test]
fn keys_of_every_kind_come_from_text() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let columns =
        [("ip", "ip"), ("t", "timestamp"), ("d", "date"), ("b", "boolean"), ("f", "double")];
    let table = db.create_table(spec("t", &columns, &["ip"], &["t", "d", "b", "f"])).unwrap();
    let key = table.key(&["10.0.0.1", "2024-02-03T04:05:06Z", "2024-02-03", "true", "-1.5"]);
    let key = key.unwrap();
    assert_eq!(table.write(&key, None, None).unwrap().rows, 1);
    assert_eq!(table.get_many(&key, None).unwrap().rows, key);
    assert_eq!(
        scan(
            &table,
            Scan { prefix: Some(table.key(&["::ffff:10.0.0.1"]).unwrap()), ..Scan::default() }
        )
        .len(),
        1
    );
    assert!(table.key(&["10.0.0.256"]).is_err());
}
