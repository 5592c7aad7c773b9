//! Directories that open, that do not, and what tables may become.

use crate::support::*;
use millstream_core::Disposition;
use millstream_tables::{Database, Error, Faults, Options, Source, TableSpec};
use std::fs;
use std::time::Duration;

#[test]
fn a_directory_belongs_to_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    assert!(db.report().created);
    let error = Database::open(dir.path(), Options::default()).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
    let table = people(&db);
    drop(db);
    assert!(matches!(Database::open(dir.path(), Options::default()), Err(Error::Locked { .. })));
    drop(table);
    assert!(!open(dir.path()).report().created);
}

#[test]
fn what_cannot_be_opened_is_said_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("format"), "millstream-tables 2\n").unwrap();
    let error = Database::open(&path, Options::default()).unwrap_err();
    assert!(matches!(error, Error::NewerFormat { found: 2, known: 1, .. }), "{error:?}");
    assert!(!path.join("store").exists());
    fs::write(path.join("format"), "something else").unwrap();
    assert!(matches!(Database::open(&path, Options::default()), Err(Error::Damaged(_))));

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Database::open(&file, Options::default()).unwrap_err();
    assert!(error.to_string().ends_with("is not a directory"), "{error}");

    let nothing = dir.path().join("nothing");
    let error = Database::open_read_only(&nothing, Options::default()).unwrap_err();
    assert!(matches!(error, Error::NotThere { .. }), "{error:?}");
    assert!(!nothing.exists());
}

#[test]
fn a_reader_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let table = people(&db);
    table.write(&row("a", 1, "v"), None, None).unwrap();
    db.persist().unwrap();
    drop((table, db));
    for _ in 0..2 {
        let db = Database::open_read_only(dir.path(), Options::default()).unwrap();
        let table = db.table("people").unwrap();
        assert_eq!(all(&table), ["a|1|v"]);
        let source = Source { id: "1".into(), name: "t".into() };
        let errors = [
            table.write(&row("b", 1, "v"), None, None).unwrap_err(),
            table.delete(&keys(&[("a", 1)]), None).unwrap_err(),
            table.sweep().unwrap_err(),
            db.drop_table("people").unwrap_err(),
            db.offsets().reset("p", &source, &[]).unwrap_err(),
            db.persist().unwrap_err(),
        ];
        assert!(errors.iter().all(|error| matches!(error, Error::ReadOnly)), "{errors:?}");
    }
}

#[test]
fn a_table_is_made_once_and_changes_only_as_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let columns = [("k", "string"), ("n", "bigint"), ("v", "string")];
    let spec_of = |columns: &[(&str, &str)]| spec("people", columns, &["k"], &["n"]);
    people(&db);
    people(&db);
    let generation = db.stats().unwrap().generation;
    people(&db);
    assert_eq!(db.stats().unwrap().generation, generation, "nothing was written for nothing");

    for (wanted, why) in [
        (spec_of(&columns[..2]), "has a column `v`, which is not given"),
        (
            spec_of(&[("k", "string"), ("n", "bigint"), ("v", "int")]),
            "column `v` of table `people` is string and cannot become int",
        ),
        (
            spec("people", &columns, &["k", "n"], &[]),
            "the partition key of table `people` is `k` and cannot become `k`, `n`",
        ),
        (spec("people", &columns, &[], &[]), "needs a key"),
        (spec("people", &columns, &["k"], &["x"]), "names `x`, which is not one of its columns"),
        (spec("people", &columns, &["k"], &["k"]), "names `k` twice"),
        (spec("a/b", &columns, &["k"], &[]), "`a/b` cannot name a table"),
        (spec("", &columns, &["k"], &[]), "`` cannot name a table"),
        (spec_of(&[columns[0], columns[0]]), "two columns that are called `k`"),
    ] {
        let checked = db.check_table(&wanted).unwrap_err();
        let error = db.create_table(wanted).unwrap_err();
        assert_eq!(checked.to_string(), error.to_string());
        assert!(matches!(error, Error::Refused(_)), "{error:?}");
        assert!(error.to_string().contains(why), "{error}");
    }

    let day = Some(Duration::from_secs(86_400));
    db.create_table(TableSpec { ttl: day, ..spec_of(&columns) }).unwrap();
    drop(db);
    assert_eq!(open(dir.path()).table("people").unwrap().spec().ttl, day);
}

#[test]
fn a_dropped_table_is_gone_and_its_name_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let old = people(&db);
    old.write(&row("a", 1, "old"), None, None).unwrap();
    assert!(db.drop_table("people").unwrap());
    assert!(!db.drop_table("people").unwrap());
    assert!(db.table("people").is_none() && db.tables().is_empty());
    assert!(matches!(old.write(&row("a", 1, "v"), None, None), Err(Error::Dropped(_))));
    let other = spec("people", &[("id", "int")], &["id"], &[]);
    db.check_table(&other).unwrap();
    assert!(db.tables().is_empty(), "a check makes nothing");
    let new = db.create_table(other).unwrap();
    assert!(matches!(old.get_many(&keys(&[("a", 1)]), None), Err(Error::Dropped(_))));
    assert_eq!(all(&new), [""; 0]);
    drop((old, new, db));
    let db = open(dir.path());
    assert_eq!(db.tables().len(), 1);
    assert_eq!(all(&db.tables()[0]), [""; 0]);
}

#[test]
fn a_disk_that_is_nearly_full_refuses_rows_and_takes_them_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { free_bytes_min: u64::MAX, ..Options::default() };
    let db = Database::open(dir.path(), options).unwrap();
    let table = people(&db);
    let error = table.write(&row("a", 1, "v"), None, None).unwrap_err();
    assert_eq!((error.disposition(), error.kind()), (Disposition::Retry, "disk_full"));
    assert!(error.to_string().contains("make room"), "{error}");
    let core: millstream_core::Error = error.into();
    assert_eq!((core.disposition(), core.kind()), (Disposition::Retry, "disk_full"));
    // Offsets of what was written before still go through.
    let source = Source { id: "1".into(), name: "t".into() };
    db.offsets().reset("p", &source, &[(0, 1)]).unwrap();
    drop((table, db));
    let table = open(dir.path()).table("people").unwrap();
    table.write(&row("a", 1, "v"), None, None).unwrap();
    assert_eq!(all(&table), ["a|1|v"]);
}

#[test]
fn handles_from_before_a_reopen_answer_so() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let (table, offsets) = (people(&db), db.offsets());
    let source = Source { id: "1".into(), name: "t".into() };
    offsets.reset("p", &source, &[(0, 1)]).unwrap();
    table.write(&row("a", 1, "v"), None, None).unwrap();
    db.persist().unwrap();
    assert_eq!(db.reopen().unwrap().journal_cut, None);
    assert!(matches!(table.write(&row("b", 1, "v"), None, None), Err(Error::Reopened)));
    let again = offsets.reset("p", &source, &[(0, 2)]);
    assert!(matches!(again, Err(Error::Reopened)));
    let table = db.table("people").unwrap();
    table.write(&row("b", 1, "v"), None, None).unwrap();
    assert_eq!(all(&table), ["a|1|v", "b|1|v"]);
    assert_eq!(db.offsets().get("p").unwrap().offsets, [(0, 1)].into());
}

#[test]
fn what_is_opened_later_is_opened_by_who_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        Database::open_read_only_later(dir.path(), Options::default()),
        Err(Error::NotThere { .. })
    ));
    let db = open(dir.path());
    let table = people(&db);
    table.write(&row("a", 1, "v"), None, None).unwrap();
    db.write_out().unwrap();
    let later = Database::open_read_only_later(dir.path(), Options::default()).unwrap();
    assert!(matches!(later.ready(), Err(Error::Locked { .. })), "nothing was opened before");
    drop((table, db));
    later.ready().unwrap();
    assert_eq!(all(&later.table("people").unwrap()), ["a|1|v"]);
    drop(later);
    let later = Database::open_read_only_later(dir.path(), Options::default()).unwrap();
    assert_eq!(later.tables().len(), 1, "the first use opens it too");
}

#[test]
fn a_sync_that_fails_asks_for_a_reopening_which_keeps_what_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let options = Options { faults: faults.clone(), ..Options::default() };
    let db = Database::open(dir.path(), options).unwrap();
    let table = people(&db);
    table.write(&row("a", 1, "v"), None, None).unwrap();
    db.persist().unwrap();
    faults.fail_syncs(1);
    let error = db.persist().unwrap_err();
    assert!(error.needs_reopen() && db.needs_reopen(), "{error:?}");
    assert!(matches!(table.write(&row("b", 1, "v"), None, None), Err(Error::Failed)));
    db.reopen().unwrap();
    assert!(!db.needs_reopen());
    let table = db.table("people").unwrap();
    table.write(&row("b", 1, "v"), None, None).unwrap();
    db.persist().unwrap();
    assert_eq!(all(&table), ["a|1|v", "b|1|v"]);
}
