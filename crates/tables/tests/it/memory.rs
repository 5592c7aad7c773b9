//! What a table costs in memory and at a start, with rows of the size of an event.

use crate::support::*;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use millstream_tables::{Database, Options};
use std::sync::Arc;
use std::time::Instant;

const ROWS: i64 = 400_000;
const BATCH: i64 = 2_000;

fn resident_mib(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
#[ignore = "takes a while; alone in its process: cargo test -p millstream-tables memory:: -- --ignored --nocapture"]
fn memory_is_bounded_and_a_start_is_quick() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { free_bytes_min: 0, ..Options::default() };
    let db = Database::open(dir.path(), options()).unwrap();
    let table = people(&db);
    let value = "v".repeat(280);
    let began = Instant::now();
    for from in (0..ROWS).step_by(BATCH as usize) {
        let range = || from..from + BATCH;
        // Spread over the key space, so that everything overlaps when it is compacted.
        let key = |n: i64| format!("{:016x}", (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let columns: [(&str, ArrayRef); 3] = [
            ("k", Arc::new(range().map(|n| Some(key(n))).collect::<StringArray>())),
            ("n", Arc::new(range().map(Some).collect::<Int64Array>())),
            ("v", Arc::new(range().map(|_| Some(value.as_str())).collect::<StringArray>())),
        ];
        table.write(&RecordBatch::try_from_iter(columns).unwrap(), None, None).unwrap();
        if from % (BATCH * 20) == 0 {
            db.persist().unwrap();
        }
    }
    db.persist().unwrap();
    let busy = resident_mib("VmHWM");
    println!("{ROWS} rows in {:?}, peak {busy} MiB, {:?}", began.elapsed(), db.stats().unwrap());
    drop((table, db));
    let began = Instant::now();
    let db = Database::open(dir.path(), options()).unwrap();
    println!("opened in {:?}, now {} MiB", began.elapsed(), resident_mib("VmRSS"));
    let table = db.table("people").unwrap();
    assert_eq!(
        table
            .scan(millstream_tables::Scan::default())
            .unwrap()
            .map(|b| b.unwrap().num_rows())
            .sum::<usize>(),
        ROWS as usize
    );
    assert!(busy < 100, "{busy} MiB");
}
