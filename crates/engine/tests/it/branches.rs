//! Steps and sinks that branch, and what is counted where.

use crate::harness::{Bench, file, numbered};
use std::time::Duration;

const BRANCHES: &str = "
pipeline: p
source:
  topic: in
  format: { json: { columns: { id: bigint, tags: 'string[]' } } }
steps:
  - name: all
    sql: SELECT id, tags, 100 / (id - 7) AS share FROM input WHERE id < 100
  - name: even
    sql: SELECT id FROM input WHERE id % 2 = 0
  - name: tags
    from: source
    sql: SELECT i.id, t.tag FROM input i CROSS JOIN UNNEST(i.tags) AS t(tag)
sinks:
  - topic: even
    from: even
    format: json
  - topic: tags
    from: tags
    format: json
  - name: everything
    from: all
    discard: true
max_dead_ratio: 1
";

#[tokio::test(flavor = "multi_thread")]
async fn every_source_row_ends_once_whatever_it_became() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 2);
    let mut values = numbered(0..10);
    // Three rows of one, none of the other two; both branches drop the last.
    values.push(r#"{"id":200,"tags":["a","b","c"]}"#.into());
    values.push(r#"{"id":11,"tags":["x"]}"#.into());
    values.push(r#"{"id":300,"tags":[]}"#.into());
    // One branch fails on it, the other writes it: dead.
    values.push(r#"{"id":7,"tags":["seven"]}"#.into());
    values.push("not JSON".into());
    bench.produce("in", 0, &values).await;
    bench.produce("in", 1, &numbered(20..30)).await;
    bench.start(&[file(dir.path(), "p.yaml", BRANCHES)]).await;
    bench.idle().await;
    assert!(bench.engine.drain(Duration::from_secs(10)).await);

    // Filtered: 300. Dead: the two 7s and the text. `200` is out by its tags alone.
    assert_eq!(bench.counts("p"), (25, 21, 1, 3));
    // The two partitions' batches may come in either order.
    let mut even = bench.ids("even");
    even.sort_unstable();
    assert_eq!(even, [0, 2, 4, 6, 8, 20, 22, 24, 26, 28]);
    assert_eq!(bench.ids("tags"), [200, 200, 200, 11, 7]);
    assert_eq!(bench.metric("sink_rows_total", r#"sink="even""#), 10);
    assert_eq!(bench.metric("sink_rows_total", r#"sink="tags""#), 5);
    assert_eq!(bench.metric("sink_rows_total", r#"sink="everything""#), 20);
    assert_eq!(bench.letters("p.dead").len(), 3);
    assert_eq!(bench.metric("errors_total", r#"step="all",kind="divide_by_zero""#), 2);
    assert_eq!(bench.metric("errors_total", r#"step="decode json""#), 1);
    assert_eq!(bench.metric("queue_rows", "p"), 0);
    assert_eq!(bench.metric("in_flight_batches", "p"), 0);
    assert_eq!((bench.committed("p", 0), bench.committed("p", 1)), (Some(15), Some(10)));
    assert_eq!(bench.metric("committed_offset", r#"partition="0""#), 15);
    assert_eq!(bench.metric("lag_rows", "p"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_on_parallelism_changes_nothing_but_the_speed() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 8);
    for partition in 0..8 {
        bench.produce("in", partition, &numbered(0..500)).await;
    }
    let text = "parallelism: 2\nbatch: { max_rows: 16 }";
    bench.start(&[crate::harness::simple(dir.path(), text)]).await;
    bench.idle().await;
    assert_eq!(bench.counts("p"), (4000, 4000, 0, 0));
}
