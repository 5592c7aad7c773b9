//! What the tests share: a directory, a clock that they move, and rows as text.

use arrow_array::RecordBatch;
use arrow_array::{ArrayRef, Int64Array, StringArray};
use arrow_schema::{Field, Schema, SchemaRef};
use millstream_core::types;
use millstream_tables::{Clock, Database, Options, Scan, Table, TableSpec};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

pub const START_MS: i64 = 1_700_000_000_000;

/// A clock that only moves when told to.
#[derive(Clone)]
pub struct Hands(Arc<AtomicI64>);

impl Hands {
    pub fn new() -> Self {
        Self(Arc::new(AtomicI64::new(START_MS * 1000)))
    }

    pub fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_micros() as i64, Ordering::Relaxed);
    }

    pub fn options(&self) -> Options {
        let us = self.0.clone();
        let clock = Clock::new(move || us.load(Ordering::Relaxed));
        Options { clock, free_bytes_min: 0, ..Options::default() }
    }
}

pub fn open(dir: &Path) -> Database {
    Database::open(dir, Hands::new().options()).unwrap()
}

pub fn schema(columns: &[(&str, &str)]) -> SchemaRef {
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, text)| Field::new(*name, types::parse(text).unwrap(), true))
        .collect();
    Arc::new(Schema::new(fields))
}

pub fn spec(name: &str, columns: &[(&str, &str)], partition: &[&str], rest: &[&str]) -> TableSpec {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    TableSpec {
        name: name.to_owned(),
        columns: schema(columns),
        partition_key: names(partition),
        clustering: names(rest),
        ttl: None,
        grace: TableSpec::GRACE,
    }
}

/// A table of `k string, n bigint, v string` with the key `(k), n`.
pub fn people(db: &Database) -> Table {
    let columns = [("k", "string"), ("n", "bigint"), ("v", "string")];
    db.create_table(spec("people", &columns, &["k"], &["n"])).unwrap()
}

pub fn row(k: &str, n: i64, v: impl Into<Option<&'static str>>) -> RecordBatch {
    rows(&[(k, n, v.into())])
}

pub fn rows(rows: &[(&str, i64, Option<&str>)]) -> RecordBatch {
    let columns: [(&str, ArrayRef); 3] = [
        ("k", Arc::new(rows.iter().map(|r| Some(r.0)).collect::<StringArray>())),
        ("n", Arc::new(rows.iter().map(|r| Some(r.1)).collect::<Int64Array>())),
        ("v", Arc::new(rows.iter().map(|r| r.2).collect::<StringArray>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, c)| (name, c, true))).unwrap()
}

pub fn keys(keys: &[(&str, i64)]) -> RecordBatch {
    let rows: Vec<_> = keys.iter().map(|(k, n)| (*k, *n, None)).collect();
    self::rows(&rows).project(&[0, 1]).unwrap()
}

pub fn at(timestamps: &[i64]) -> Int64Array {
    Int64Array::from(timestamps.to_vec())
}

/// The rows of batches as text, a line each, columns separated by `|`.
pub fn text(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cells: Vec<_> = batch
                .columns()
                .iter()
                .map(|c| arrow_cast::display::array_value_to_string(c, row).unwrap())
                .collect();
            lines.push(cells.join("|"));
        }
    }
    lines
}

/// All rows of a table, in key order.
pub fn all(table: &Table) -> Vec<String> {
    scan(table, Scan::default())
}

pub fn scan(table: &Table, scan: Scan) -> Vec<String> {
    let batches: Vec<_> = table.scan(scan).unwrap().map(Result::unwrap).collect();
    text(&batches)
}

/// A copy as a crash would leave it: of what is on the disk, while the database is open.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
