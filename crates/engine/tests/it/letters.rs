//! Dead letters: what they keep, the brake, and the way back.

use crate::harness::{Bench, file, numbered, simple};
use millstream_config::Tombstones;
use millstream_core::{Header, Headers, SchemaKind, Schemas};
use millstream_engine::{PartitionState, replay};
use millstream_log::{BatchBuilder, Codec};
use std::time::Duration;

fn headers<'h>(headers: &[(&'h str, &'h str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let each: Vec<_> = headers
        .iter()
        .map(|(key, value)| Header { key: key.as_bytes(), value: Some(value.as_bytes()) })
        .collect();
    Headers::encode(each.into_iter(), &mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_keeps_the_record_and_says_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 3);
    let mut builder = BatchBuilder::new(Codec::Lz4);
    builder.push(41, Some(b"k0"), Some(br#"{"id":1}"#), &[]);
    // A record that was a letter before, with headers that look like ours.
    let own = headers(&[
        ("trace", "abc"),
        ("millstream.pipeline", "other"),
        ("millstream.oversized", "9 0"),
    ]);
    builder.push(42, Some(b"k1"), Some(b"{\"id\":"), &own);
    builder.push(43, None, None, &[]);
    bench.append("in", 2, builder).await;
    let mut file = simple(dir.path(), "");
    file.spec.source.tombstones = Tombstones::DeadLetter;
    bench.start(&[file]).await;
    bench.idle().await;

    assert_eq!(bench.counts("p"), (3, 1, 0, 2));
    let letters = bench.letters("p.dead");
    assert_eq!(letters.len(), 2);
    let letter = &letters[0];
    assert_eq!(
        (letter.source.as_str(), letter.source_partition, letter.source_offset),
        ("in", 2, 1)
    );
    assert_eq!((letter.pipeline.as_str(), letter.step.as_str()), ("p", "decode json"));
    assert_eq!((letter.attempt, letter.timestamp, letter.truncated.clone()), (1, 42, None));
    assert_eq!(letter.key.as_deref(), Some(&b"k1"[..]));
    assert_eq!(letter.value.as_deref(), Some(&b"{\"id\":"[..]));
    assert_eq!(letter.headers, own);
    assert!(!letter.reason.is_empty() && !letter.kind.is_empty());
    assert_eq!((letters[1].key.clone(), letters[1].value.clone()), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn tombstones_among_events_are_counted_and_the_sum_holds() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 2);
    // Of each ten records the fourth and the eighth have no value, and the tenth no sense.
    for partition in 0..2 {
        let mut builder = BatchBuilder::new(Codec::None);
        for id in 0..100 {
            let value = match id % 10 {
                3 | 7 => None,
                9 => Some("{".to_owned()),
                _ => Some(format!("{{\"id\":{}}}", id + partition * 100)),
            };
            builder.push(0, Some(b"k"), value.as_deref().map(str::as_bytes), &[]);
        }
        bench.append("in", partition as u32, builder).await;
    }
    let only_tombstones = |records: usize| {
        let mut builder = BatchBuilder::new(Codec::None);
        (0..records).for_each(|_| builder.push(0, Some(b"k"), None, &[]));
        builder
    };
    bench.append("in", 0, only_tombstones(7)).await;
    let mut file = simple(dir.path(), "max_dead_ratio: 1\nbatch: { max_rows: 7 }");
    file.spec.steps[0].sql = "SELECT id, v FROM input WHERE id % 10 <> 0".into();
    bench.start(&[file.clone()]).await;
    bench.idle().await;
    // 200 events and 7: 47 tombstones, 20 without sense, 20 that the SQL drops.
    assert_eq!(bench.counts("p"), (207, 120, 67, 20));
    assert_eq!(bench.metric("rows_tombstones_total", "pipeline=\"p\""), 47);
    let mut ids = bench.ids("out");
    ids.sort_unstable();
    let want = (0..200).filter(|id| ![0, 3, 7, 9].contains(&(id % 10)));
    assert_eq!(ids, want.collect::<Vec<i64>>());
    assert!(bench.letters("p.dead").iter().all(|letter| letter.value.is_some()));

    // Kept as dead letters they are none that were passed over.
    file.spec.source.tombstones = Tombstones::DeadLetter;
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 1);
    bench.append("in", 0, only_tombstones(5)).await;
    bench.start(&[file]).await;
    bench.idle().await;
    assert_eq!(bench.counts("p"), (5, 0, 0, 5));
    assert_eq!(bench.metric("rows_tombstones_total", "pipeline=\"p\""), 0);
}

const AVRO: &str = r#"{"type":"record","name":"R","fields":[{"name":"id","type":"long"}]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_no_schema_explains_cost_one_record_each() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 1);
    let registry = &bench.home.registry;
    let id = Schemas::register(registry, "in-value", SchemaKind::Avro, AVRO).await.unwrap();
    let framed = |id: u32, body: &[u8]| [&[0], &id.to_be_bytes()[..], body].concat();
    let mut builder = BatchBuilder::new(Codec::None);
    for value in [
        framed(id, &[2]),
        framed(4711, &[4]),
        [&[7], &id.to_be_bytes()[..], &[4]].concat(),
        framed(id, &[6, 0]),
        framed(id, &[]),
        vec![0, 0],
        vec![],
        framed(id, &[8]),
    ] {
        builder.push(0, None, Some(&value), &[]);
    }
    bench.append("in", 0, builder).await;
    let text = "
pipeline: p
source: { topic: in, format: avro }
sinks: [{ topic: out, format: json }]
";
    bench.start(&[file(dir.path(), "p.yaml", text)]).await;
    bench.idle().await;
    assert_eq!(bench.counts("p"), (8, 2, 0, 6));
    assert_eq!(bench.ids("out"), [1, 4]);
    let letters = bench.letters("p.dead");
    assert_eq!((letters[0].kind.as_str(), letters[0].schema_id), ("unknown_schema", Some(4711)));
    for (letter, word) in letters.iter().zip(["4711", "0x07", "left over", "", "too few", "empty"])
    {
        assert!(letter.reason.contains(word), "{word}: {}", letter.reason);
    }
    assert_eq!(letters[1].schema_id, None);
    assert_eq!(letters[2].schema_id, Some(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_the_reader_cannot_follow_holds_its_partition_only() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 2);
    let registry = &bench.home.registry;
    let id = Schemas::register(registry, "in-value", SchemaKind::Avro, AVRO).await.unwrap();
    let other = r#"{"type":"record","name":"R","fields":[{"name":"id","type":"string"}]}"#;
    let wrong = Schemas::register(registry, "other", SchemaKind::Avro, other).await.unwrap();
    for (partition, ids) in [(0, [id, id]), (1, [id, wrong])] {
        for id in ids {
            let mut builder = BatchBuilder::new(Codec::None);
            builder.push(0, None, Some(&[&[0], &id.to_be_bytes()[..], &[2]].concat()), &[]);
            bench.append("in", partition, builder).await;
        }
    }
    let text = "
pipeline: p
source: { topic: in, format: avro }
sinks: [{ topic: out, format: json }]
batch: { max_rows: 1 }
";
    bench.start(&[file(dir.path(), "p.yaml", text)]).await;
    bench.until("holding", |b| b.report("p").partitions[1].state == PartitionState::Holding).await;
    bench
        .until("committed", |b| b.committed("p", 0) == Some(2) && b.committed("p", 1) == Some(1))
        .await;
    let report = bench.report("p");
    assert_eq!(report.state, PartitionState::Holding);
    let reason = report.partitions[1].reason.clone().unwrap();
    assert!(reason.contains(&format!("schema id {wrong}")), "{reason}");
    assert_eq!(bench.metric("partition_holding", r#"partition="1""#), 1);
    assert_eq!(bench.letters("p.dead").len(), 0);
    assert!(bench.engine.drain(Duration::from_secs(5)).await, "a partition that holds can stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_above_the_bound_keeps_its_beginning_and_a_checksum() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    let long = "x".repeat(300_000);
    std::fs::write(dir.path().join("a.log"), format!("one\n{long}\nthree\n")).unwrap();
    let text = "
pipeline: p
source: { file: a.log, format: text, max_record_bytes: 100kB }
sinks: [{ topic: out, format: json }]
";
    bench.start(&[file(dir.path(), "p.yaml", text)]).await;
    bench.idle().await;
    assert_eq!(bench.counts("p"), (3, 2, 0, 1));
    let letters = bench.letters("p.dead");
    let kept = letters[0].value.as_ref().unwrap();
    assert_eq!(kept.len(), 64 * 1024);
    assert_eq!(letters[0].source_offset, 4);
    let note = format!("300000 {:08x}", crc32c::crc32c(long.as_bytes()));
    assert_eq!(letters[0].truncated.as_deref(), Some(note.as_str()));
    assert!(letters[0].reason.contains("300000 bytes"), "{}", letters[0].reason);
    let opened = bench.engine.pipeline("p").unwrap();
    let replayed = replay(&opened, None).await.unwrap();
    assert_eq!((replayed.replayed, replayed.skipped), (0, 1), "it is not whole any more");
}

fn divides(dir: &std::path::Path, by: &str) -> millstream_config::Pipeline {
    let text = format!(
        "
pipeline: p
source:
  topic: in
  format: {{ json: {{ columns: {{ id: bigint, tags: 'string[]' }} }} }}
steps:
  - sql: |
      SELECT i.id, t.tag, 10 / {by} AS share
      FROM input i CROSS JOIN UNNEST(i.tags) AS t(tag)
sinks: [{{ topic: out, format: json }}]
"
    );
    file(dir, "p.yaml", &text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_replayed_once_and_tried_again_when_it_fails() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::at(dir.path());
    bench.topic("in", 1);
    let rows = [5, 0, 9, 1].map(|id| format!(r#"{{"id":{id},"tags":["a","b"]}}"#));
    bench.produce("in", 0, &rows).await;
    bench.start(&[divides(dir.path(), "(i.id * (i.id - 9))")]).await;
    bench.idle().await;
    assert_eq!(bench.counts("p"), (4, 2, 0, 2));
    assert_eq!(bench.ids("out"), [5, 5, 1, 1]);

    // Mended for one of the two.
    bench.restart().await;
    bench.start(&[divides(dir.path(), "(i.id - 9)")]).await;
    bench.idle().await;
    assert_eq!(bench.counts("p"), (0, 0, 0, 0), "replay is not the source");
    let opened = bench.engine.pipeline("p").unwrap();
    let first = replay(&opened, None).await.unwrap();
    assert_eq!((first.replayed, first.out, first.dead, first.skipped), (2, 1, 1, 0));
    assert_eq!(bench.ids("out"), [5, 5, 1, 1, 0, 0], "two rows of one letter");
    let letters = bench.letters("p.dead");
    assert_eq!(letters.iter().map(|l| l.attempt).collect::<Vec<_>>(), [1, 1, 2]);
    assert_eq!(letters[2].source_offset, 2);

    // What was replayed is skipped; what failed again is not.
    let second = replay(&opened, None).await.unwrap();
    assert_eq!((second.replayed, second.dead, second.skipped), (1, 1, 2));
    assert_eq!(bench.letters("p.dead").len(), 4);
    assert_eq!(bench.letters("p.dead")[3].attempt, 3);
    let chosen = replay(&opened, Some(&[(0, 0)])).await.unwrap();
    assert_eq!((chosen.replayed, chosen.skipped), (0, 1));
    assert!(replay(&opened, Some(&[(0, 99)])).await.is_err());
    assert_eq!(bench.ids("out").len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brake_holds_its_partition_and_lets_go_with_a_higher_ratio() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::at(dir.path());
    bench.topic("in", 2);
    bench.produce("in", 0, &numbered(0..100)).await;
    let bad = |n| std::iter::repeat_n("bad".to_owned(), n).collect::<Vec<_>>();
    bench.produce("in", 0, &bad(500)).await;
    bench.produce("in", 0, &bad(1)).await;
    bench.produce("in", 0, &numbered(100..150)).await;
    bench.produce("in", 1, &numbered(0..200)).await;
    let pipeline =
        |ratio| simple(dir.path(), &format!("batch: {{ max_rows: 50 }}\nmax_dead_ratio: {ratio}"));
    bench.start(&[pipeline("0.05")]).await;
    bench.until("holding", |b| b.report("p").partitions[0].state == PartitionState::Holding).await;
    bench.until("done beside it", |b| b.committed("p", 1) == Some(200)).await;

    bench.until("committed", |b| b.committed("p", 0) == Some(600)).await;
    let report = bench.report("p");
    assert!(report.waits_for.iter().any(|line| line.contains("max_dead_ratio")), "{report:?}");
    bench.produce("in", 0, &numbered(150..151)).await;
    assert_eq!(bench.report("p").partitions[0].lag, 52, "the lag grows while it holds");
    assert_eq!(bench.letters("p.dead").len(), 500, "5 % of 10,000");
    assert_eq!(bench.counts("p"), (800, 300, 0, 500));

    bench.restart().await;
    bench.start(&[pipeline("0.5")]).await;
    bench.idle().await;
    assert_eq!(bench.counts("p"), (52, 51, 0, 1));
    assert_eq!(bench.letters("p.dead").len(), 501);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_sink_refuses_count_for_the_brake() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::at(dir.path());
    bench.topic("in", 1);
    // A null in the key of a table.
    bench.produce("in", 0, &numbered(0..600)).await;
    let text = "
pipeline: p
source: { topic: in, format: { json: { columns: { id: bigint, v: string } } } }
sinks: [{ table: t, key: [v] }]
batch: { max_rows: 100 }
";
    bench.start(&[file(dir.path(), "p.yaml", text)]).await;
    bench.until("holding", |b| b.report("p").state == PartitionState::Holding).await;
    assert_eq!(bench.letters("p.dead").len(), 500);
    bench.until("committed", |b| b.committed("p", 0) == Some(500)).await;
    assert_eq!(bench.counts("p"), (500, 0, 0, 500));
}
