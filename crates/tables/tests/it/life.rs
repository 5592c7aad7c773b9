//! How long rows live: time-to-live, deletes, and the grace after both.

use crate::support::*;
use millstream_tables::{Database, Swept, TableSpec};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MS: Duration = Duration::from_millis(1);

fn mortal(db: &Database) -> millstream_tables::Table {
    let columns = [("k", "string"), ("n", "bigint"), ("v", "string")];
    let spec = spec("people", &columns, &["k"], &["n"]);
    db.create_table(TableSpec { ttl: Some(2 * DAY), grace: DAY, ..spec }).unwrap()
}

#[test]
fn the_time_to_live_counts_from_the_write_and_not_from_the_timestamp() {
    let dir = tempfile::tempdir().unwrap();
    let hands = Hands::new();
    let table = mortal(&Database::open(dir.path(), hands.options()).unwrap());
    let long_ago = at(&[0]);
    table.write(&row("table", 1, "2 days"), Some(&long_ago), None).unwrap();
    table.write(&row("write", 1, "1 day"), Some(&long_ago), Some(DAY)).unwrap();
    table.write(&row("never", 1, "for ever"), Some(&long_ago), Some(Duration::ZERO)).unwrap();
    hands.pass(DAY - MS);
    assert_eq!(all(&table).len(), 3);
    hands.pass(MS);
    assert_eq!(all(&table), ["never|1|for ever", "table|1|2 days"]);
    // The same write again: its time-to-live starts anew.
    table.write(&row("table", 1, "2 days"), Some(&long_ago), None).unwrap();
    hands.pass(2 * DAY - MS);
    assert_eq!(all(&table).len(), 2);
    hands.pass(MS);
    assert_eq!(all(&table), ["never|1|for ever"]);
    let found = table.get_many(&keys(&[("table", 1), ("never", 1)]), None).unwrap();
    assert_eq!(found.ends, [0, 1]);
}

#[test]
fn an_expired_row_keeps_older_writes_away_until_its_grace_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let hands = Hands::new();
    let table = mortal(&Database::open(dir.path(), hands.options()).unwrap());
    let late = || table.write(&row("k", 1, "late"), Some(&at(&[5])), Some(Duration::ZERO)).unwrap();
    table.write(&row("k", 1, "young"), Some(&at(&[10])), None).unwrap();
    hands.pass(3 * DAY - MS);
    late();
    assert_eq!(all(&table), [""; 0]);
    let swept = table.sweep().unwrap();
    assert_eq!(swept, Swept { looked_at: 2, superseded: 1, rows: 0 });
    hands.pass(MS);
    assert_eq!(table.sweep().unwrap(), Swept { looked_at: 1, superseded: 0, rows: 1 });
    late();
    assert_eq!(all(&table), ["k|1|late"]);
}

#[test]
fn a_deleted_row_keeps_older_writes_away_until_its_grace_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let hands = Hands::new();
    let table = mortal(&Database::open(dir.path(), hands.options()).unwrap());
    let write = |timestamp| table.write(&row("k", 1, "v"), Some(&at(&[timestamp])), None).unwrap();
    write(10);
    table.delete(&keys(&[("k", 1)]), Some(&at(&[10]))).unwrap();
    write(9);
    write(10);
    assert_eq!(all(&table), [""; 0], "a delete wins at the same timestamp");
    hands.pass(DAY - MS);
    assert_eq!(table.sweep().unwrap().rows, 0);
    write(10);
    assert_eq!(all(&table), [""; 0]);
    table.compact().unwrap();
    write(10);
    assert_eq!(all(&table), [""; 0], "a compaction keeps the delete");
    hands.pass(MS);
    let swept = table.sweep().unwrap();
    assert_eq!((swept.superseded, swept.rows), (1, 1));
    assert_eq!(table.sweep().unwrap().looked_at, 0);
    write(9);
    assert_eq!(all(&table), ["k|1|v"]);
    write(11);
    table.delete(&keys(&[("k", 1)]), Some(&at(&[10]))).unwrap();
    assert_eq!(all(&table), ["k|1|v"], "a newer row stays");
}

#[test]
fn a_sweep_of_many_rows_removes_the_dead_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let hands = Hands::new();
    let table = mortal(&Database::open(dir.path(), hands.options()).unwrap());
    let batch: Vec<_> = (0..1000).map(|n| ("k", n, Some("v"))).collect();
    let (dead, live): (Vec<_>, Vec<_>) = batch.into_iter().partition(|row| row.1 % 3 == 0);
    table.write(&rows(&dead), None, Some(DAY)).unwrap();
    table.write(&rows(&live), None, Some(10 * DAY)).unwrap();
    hands.pass(2 * DAY);
    assert_eq!(table.sweep().unwrap().rows, dead.len() as u64);
    assert_eq!(table.sweep().unwrap().looked_at, live.len() as u64);
    assert_eq!(all(&table).len(), live.len());
}
