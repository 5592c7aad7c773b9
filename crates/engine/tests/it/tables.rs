//! The table sink: write timestamps, and time to live.

use crate::harness::{Bench, file};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;

const TABLE: &str = "
pipeline: p
source:
  topic: in
  format: { json: { columns: { id: bigint, at: timestamp, v: string } } }
sinks: [{ table: t, key: [id], timestamp: at, ttl: TTL }]
";

fn rows(bench: &Bench) -> Vec<(i64, String)> {
    let table = bench.home.tables.table("t").unwrap();
    let mut rows = Vec::new();
    for batch in table.scan(Default::default()).unwrap() {
        let batch = batch.unwrap();
        let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>();
        let values = batch.column_by_name("v").unwrap().as_string::<i32>();
        rows.extend(
            (0..batch.num_rows()).map(|row| (ids.value(row), values.value(row).to_owned())),
        );
    }
    rows
}

fn row(id: i64, second: u32, v: &str) -> String {
    format!(r#"{{"id":{id},"at":"2024-01-01T00:00:{second:02}Z","v":"{v}"}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_row_with_the_last_timestamp_stays_in_whatever_order_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::at(dir.path());
    bench.topic("in", 1);
    let values = [row(1, 30, "late"), row(2, 10, "old"), row(1, 20, "early"), row(2, 40, "new")];
    bench.produce("in", 0, &values).await;
    // The same, one batch later.
    bench.produce("in", 0, &[row(1, 25, "between"), row(3, 1, "only")]).await;
    let text = TABLE.replace("TTL", "30d");
    bench.start(&[file(dir.path(), "p.yaml", &text)]).await;
    bench.idle().await;
    let want = [(1, "late"), (2, "new"), (3, "only")].map(|(id, v)| (id, v.to_owned()));
    assert_eq!(rows(&bench), want);
    assert_eq!(bench.counts("p"), (6, 6, 0, 0));

    // All of it again changes nothing.
    bench.engine.reset("p", millstream_core::Place::Earliest, None).await.unwrap();
    bench.until("read", |b| b.metric("rows_out_total", "p") == 12).await;
    assert_eq!(rows(&bench), want);
    bench.restart().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_lives_from_its_write_not_from_its_timestamp() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 1);
    bench.produce("in", 0, &[row(1, 30, "of 2024")]).await;
    let text = TABLE.replace("TTL", "1s");
    bench.start(&[file(dir.path(), "p.yaml", &text)]).await;
    bench.idle().await;
    assert_eq!(rows(&bench).len(), 1, "its timestamp is long past");
    bench.until("expired", |b| rows(b).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timestamp_that_the_sql_puts_out_of_range_is_a_dead_letter_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 1);
    let events = [0, 253_402_300_799_999, 253_402_300_800_000, i64::MAX, -62_135_596_800_001];
    let events: Vec<String> =
        events.iter().enumerate().map(|(id, ms)| format!(r#"{{"id":{id},"ms":{ms}}}"#)).collect();
    bench.produce("in", 0, &events).await;
    let text = "
pipeline: p
source:
  topic: in
  format: { json: { columns: { id: bigint, ms: bigint } } }
steps:
  - sql: SELECT id, to_timestamp_millis(ms) AS at, 'v' AS v FROM input
sinks: [{ table: t, key: [id], timestamp: at }]
max_dead_ratio: 1
";
    bench.start(&[file(dir.path(), "p.yaml", text)]).await;
    bench.idle().await;
    assert_eq!(bench.counts("p"), (5, 2, 0, 3));
    assert_eq!(rows(&bench), [(0, "v".to_owned()), (1, "v".to_owned())]);
    for (letter, value) in bench.letters("p.dead").iter().zip([
        "253402300800000",
        "9223372036854775807",
        "-62135596800001",
    ]) {
        let reason = &letter.reason;
        assert!(reason.contains(value) && reason.contains("to 9999-12-31"), "{reason}");
    }
}
