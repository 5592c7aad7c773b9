//! Writing: each row once and in order, where Java's client would put it, and an answer for each
//! that the topic cannot take.

use super::member::Member;
use super::*;
use arrow_array::builder::{MapBuilder, StringBuilder};
use millstream_core::{Disposition, Source};
use millstream_log::partition_for;
use millstream_testkit::events::Fate;
use millstream_testkit::services::{self, Listener, unique};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_where_javas_client_puts_them() {
    let Some(kafka) = services::kafka() else { return };
    let (ours, theirs) = (unique("ours"), unique("theirs"));
    for topic in [&ours, &theirs] {
        kafka.create_topic(topic, 7, KEEP);
    }
    let cluster = cluster(&kafka.bootstrap());
    let keys: Vec<String> = (0..200).map(|n| format!("key-{n}-{}", "x".repeat(n % 9))).collect();
    let events: Vec<_> = keys.iter().map(|k| Event::new(k.clone(), 1, Fate::Out)).collect();
    produce(&cluster, &ours, Codec::Lz4, &events).await;
    java_produces(&kafka, &theirs, &keys);
    let placed = async |topic: &str| {
        let member = Member::join(source(&cluster, reading(topic, topic)).await);
        until("all are read", || member.seen() == keys.len()).await;
        let seen = member.notes.lock().seen.clone();
        member.leave().await;
        seen.into_iter().map(|s| (s.key.unwrap(), s.partition)).collect::<BTreeMap<_, _>>()
    };
    let (ours, theirs) = (placed(&ours).await, placed(&theirs).await);
    assert_eq!(ours, theirs);
    for (key, partition) in ours {
        assert_eq!(partition_for(&key, 7), partition);
    }
}

/// Kafka's own console producer.
fn java_produces(kafka: &services::Kafka, topic: &str, keys: &[String]) {
    let program = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dev/services");
    let mut child = std::process::Command::new(program)
        .args(["kafka", "produce", "--topic", topic])
        .args(["--property", "parse.key=true", "--property", "key.separator=|"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    for key in keys {
        writeln!(input, "{key}|value").unwrap();
    }
    drop(input);
    assert!(child.wait().unwrap().success(), "{}", kafka.bootstrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_costs_itself_only() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("small");
    kafka.create_topic(&topic, 2, &[("max.message.bytes", "20000"), ("retention.ms", "-1")]);
    let cluster = cluster(&kafka.bootstrap());
    // Random enough that packing does not help; then one that packing makes fit.
    let mut state = 88_172_645_463_325_252u64;
    let noise: String = (0..40_000)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b'!' + (state % 90) as u8)
        })
        .collect();
    let keys = ["a", "b", "c", "d", "e"];
    let lines = ["1", &noise, "2", &"z".repeat(100_000), "3"];
    let many: Vec<String> = (0..500).map(|n| format!("{n}-{}", &noise[n..n + 300])).collect();
    let rows = |keys: Vec<&str>, lines: Vec<&str>| {
        let at: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![1; keys.len()]));
        RecordBatch::try_from_iter([
            ("key", Arc::new(StringArray::from(keys)) as ArrayRef),
            ("line", Arc::new(StringArray::from(lines)) as ArrayRef),
            ("at", at),
        ])
        .unwrap()
    };
    let first = rows(keys.to_vec(), lines.to_vec());
    let mut sink = sink(&cluster, Target::Topic(topic.as_str().into()), Codec::Lz4, &first);
    let receipt = sink.write(&batch(first)).await.unwrap();
    assert_eq!(receipt.rows, 4);
    let [(1, why)] = receipt.rejected.as_slice() else { panic!("{:?}", receipt.rejected) };
    assert!(why.contains("takes at most 20000") && why.contains(&topic), "{why}");
    receipt.durable.await.unwrap();
    // More than one batch may hold.
    let rest = rows(vec!["k"; 500], many.iter().map(String::as_str).collect());
    let receipt = sink.write(&batch(rest)).await.unwrap();
    assert!(receipt.rejected.is_empty());
    receipt.durable.await.unwrap();
    let member = Member::join(source(&cluster, reading(&topic, &topic)).await);
    until("all are read", || member.seen() == 504).await;
    member.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_shrinks_is_learnt() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("shrinks");
    kafka.create_topic(&topic, 1, KEEP);
    // It does not ask for the limit again before it is told.
    let mut forgetful = options(&kafka.bootstrap());
    forgetful.metadata_refresh = Duration::from_secs(3_600);
    let cluster = Cluster::new(forgetful, Handle::current()).unwrap();
    let rows = rows(&events(9, 300));
    let destinations = Destinations::new(cluster.clone());
    let open = || {
        let options = KafkaSinkOptions {
            target: Target::Topic(topic.as_str().into()),
            columns: RecordColumns { key: Some("key".into()), ..RecordColumns::default() },
            codec: Codec::None,
            encoder: Box::new(JsonEncoder::new(rows.schema()).unwrap()),
        };
        KafkaSink::new(options, cluster.clone(), destinations.clone())
    };
    let mut sink = open();
    sink.write(&batch(rows.clone())).await.unwrap().durable.await.unwrap();
    let limit = "max.message.bytes=4096";
    kafka.tool(&[
        "configs",
        "--alter",
        "--entity-type",
        "topics",
        "--entity-name",
        &topic,
        "--add-config",
        limit,
    ]);
    let mut failed = 0;
    loop {
        match sink.write(&batch(rows.clone())).await {
            Ok(receipt) => match receipt.durable.await {
                Ok(()) => break,
                Err(error) => assert_eq!(error.kind(), "too_large"),
            },
            Err(error) => assert_eq!(error.kind(), "too_large"),
        }
        // As an engine does: a new sink, from the last commit.
        failed += 1;
        assert!(failed < 10, "it does not learn");
        sink = open();
    }
    assert!(failed > 0, "the broker still took it");
    assert_eq!(read_count(&cluster, &topic).await, 600);
}

async fn read_count(cluster: &Cluster, topic: &str) -> i64 {
    let source = source(cluster, reading(topic, &unique("count"))).await;
    let mut count = 0;
    for partition in 0..source.partitions() {
        count += source.offset_of(partition, millstream_core::Place::Latest).await.unwrap();
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_may_name_its_topic_and_carry_headers() {
    let Some(kafka) = services::kafka() else { return };
    let (first, compacted) = (unique("first"), unique("compacted"));
    kafka.create_topic(&first, 1, &[]);
    kafka.create_topic(&compacted, 1, &[("cleanup.policy", "compact")]);
    let cluster = cluster(&kafka.bootstrap());
    let missing = unique("missing");
    let topics: ArrayRef = Arc::new(StringArray::from(vec![
        Some(first.as_str()),
        Some(missing.as_str()),
        None,
        Some(compacted.as_str()),
        Some(compacted.as_str()),
    ]));
    let keys: ArrayRef =
        Arc::new(StringArray::from(vec![None, Some("k"), Some("k"), None, Some("k")]));
    let mut headers = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for at in 0..5 {
        headers.keys().append_value("row");
        headers.values().append_value(at.to_string());
        headers.append(true).unwrap();
    }
    let headers: ArrayRef = Arc::new(headers.finish());
    let rows = RecordBatch::try_from_iter([
        ("topic", topics),
        ("key", keys.clone()),
        ("value", keys),
        ("headers", headers),
    ])
    .unwrap();
    let target = Target::Column("topic".into());
    let columns = RecordColumns {
        key: Some("key".into()),
        headers: Some("headers".into()),
        ..RecordColumns::default()
    };
    KafkaSink::accepts(&rows.schema(), &target, &columns).unwrap();
    let value = rows.project(&[2]).unwrap();
    let options = KafkaSinkOptions {
        target,
        columns,
        codec: Codec::Zstd,
        encoder: Box::new(OneColumn(JsonEncoder::new(value.schema()).unwrap())),
    };
    let mut sink = KafkaSink::new(options, cluster.clone(), Destinations::new(cluster.clone()));
    let receipt = sink.write(&batch(rows)).await.unwrap();
    let why: Vec<_> = receipt.rejected.iter().map(|(row, _)| *row).collect();
    assert_eq!(why, [1, 2, 3]);
    assert!(receipt.rejected[0].1.contains(&missing));
    assert!(receipt.rejected[2].1.contains("compacted"));
    receipt.durable.await.unwrap();

    let member = Member::join(source(&cluster, reading(&compacted, &compacted)).await);
    until("it is read", || member.seen() == 1).await;
    assert_eq!(member.notes.lock().seen[0].key.as_deref(), Some(&b"k"[..]));
    let headers = member.notes.lock().headers.clone();
    assert_eq!(headers, [("row".to_owned(), "4".to_owned())]);
    member.leave().await;
}

/// Encodes the third column only.
struct OneColumn(JsonEncoder);

#[async_trait::async_trait]
impl millstream_core::Encoder for OneColumn {
    fn encode(&mut self, rows: &RecordBatch) -> millstream_core::Result<millstream_core::Encoded> {
        self.0.encode(&rows.project(&[2]).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_stops_and_is_named() {
    let Some(kafka) = services::kafka() else { return };
    let cluster = cluster(&kafka.brokers(Listener::Plain));
    let missing = unique("missing");
    let rows = rows(&events(1, 5));
    let mut sink = sink(&cluster, Target::Topic(missing.as_str().into()), Codec::None, &rows);
    let error = sink.write(&batch(rows)).await.err().unwrap();
    assert_eq!(error.disposition(), Disposition::Stop);
    assert!(error.to_string().contains(&missing), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_may_be_a_tombstone() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("tombs");
    kafka.create_topic(&topic, 1, &[("cleanup.policy", "compact")]);
    let cluster = cluster(&kafka.bootstrap());
    let keys: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("b"), Some("a"), None]));
    let values: ArrayRef = Arc::new(arrow_array::Float64Array::from(vec![1.0, 2.0, f64::NAN, 4.0]));
    let gone = Some(true);
    let gone: ArrayRef =
        Arc::new(arrow_array::BooleanArray::from(vec![None, Some(false), gone, gone]));
    let rows =
        RecordBatch::try_from_iter([("key", keys), ("value", values), ("gone", gone)]).unwrap();
    let columns = RecordColumns {
        key: Some("key".into()),
        tombstone: Some("gone".into()),
        ..RecordColumns::default()
    };
    let target = Target::Topic(topic.as_str().into());
    KafkaSink::accepts(&rows.schema(), &target, &columns).unwrap();
    for (tombstone, said) in [("value", "is a boolean"), ("no", "there is no column `no`")] {
        let columns = RecordColumns { tombstone: Some(tombstone.into()), ..columns.clone() };
        let why = KafkaSink::accepts(&rows.schema(), &target, &columns).unwrap_err();
        assert!(why.contains(said), "{why}");
    }
    let encoder = JsonEncoder::new(columns.value_schema(&rows.schema())).unwrap();
    let options =
        KafkaSinkOptions { target, columns, codec: Codec::None, encoder: Box::new(encoder) };
    let mut sink = KafkaSink::new(options, cluster.clone(), Destinations::new(cluster.clone()));
    let receipt = sink.write(&batch(rows)).await.unwrap();
    assert_eq!((receipt.rows, receipt.rejected.len()), (3, 1));
    assert!(receipt.rejected[0].1.contains("no key"), "{:?}", receipt.rejected);
    receipt.durable.await.unwrap();
    let found = raw(&cluster, &topic).await;
    let found: Vec<_> = found.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
    let value = |text| Some(text);
    assert_eq!(
        found,
        [
            ("a", value(r#"{"key":"a","value":1.0}"#)),
            ("b", value(r#"{"key":"b","value":2.0}"#)),
            ("a", None)
        ]
    );
}

/// The keys and values of partition 0.
async fn raw(cluster: &Cluster, topic: &str) -> Vec<(String, Option<String>)> {
    let source = source(cluster, reading(topic, &unique("raw"))).await;
    let end = source.offset_of(0, millstream_core::Place::Latest).await.unwrap();
    let mut reader = source.reader(0, millstream_core::Start::Offset(0)).await.unwrap();
    let mut found = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    while (found.len() as i64) < end {
        for record in reader.next().await.unwrap().unwrap().iter() {
            found.push((record.key.map_or(String::new(), text), record.value.map(text)));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_the_broker_refuses_cost_themselves_only() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("refuses");
    let cluster = cluster(&kafka.bootstrap());
    kafka.create_topic(&topic, 2, &[("message.timestamp.after.max.ms", "60000")]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let (now, late) = (now.as_millis() as i64, 3_600_000);
    let part = |from: i64| {
        let keys: ArrayRef =
            Arc::new(StringArray::from_iter_values((from..from + 200).map(|n| format!("k{n}"))));
        let at: ArrayRef = Arc::new(TimestampMillisecondArray::from_iter_values(
            (from..from + 200).map(|n| if n % 70 == 69 { now + late } else { now }),
        ));
        RecordBatch::try_from_iter([("key", keys.clone()), ("line", keys), ("at", at)]).unwrap()
    };
    let target = Target::Topic(topic.as_str().into());
    let columns = RecordColumns {
        key: Some("key".into()),
        timestamp: Some("at".into()),
        ..RecordColumns::default()
    };
    let destinations = Destinations::new(cluster.clone());
    let open = || {
        let options = KafkaSinkOptions {
            target: target.clone(),
            columns: columns.clone(),
            codec: Codec::Lz4,
            encoder: Box::new(JsonEncoder::new(part(0).schema()).unwrap()),
        };
        KafkaSink::new(options, cluster.clone(), destinations.clone())
    };
    // As an engine does: what is not durable comes again, through a new sink.
    let (mut sink, mut rejected, mut failed) = (open(), Vec::new(), 0);
    for from in [0, 200, 400] {
        loop {
            let receipt = sink.write(&batch(part(from))).await.unwrap();
            let error = match receipt.durable.await {
                Ok(()) => {
                    rejected.extend(receipt.rejected.into_iter().map(|(row, why)| {
                        assert!(why.contains("the broker refuses the record"), "{why}");
                        from + i64::from(row)
                    }));
                    break;
                }
                Err(error) => error,
            };
            assert_eq!((error.kind(), error.disposition()), ("refused", Disposition::Retry));
            failed += 1;
            sink = open();
        }
    }
    assert_eq!(failed, 1, "it takes care from the second time on");
    assert_eq!(rejected, (0..600).filter(|n| n % 70 == 69).collect::<Vec<_>>());
    let expected = 600 - rejected.len() as i64;
    let written = read_count(&cluster, &topic).await;
    // One of the two partitions may have been written when the other was refused.
    assert!((expected..expected + 200).contains(&written), "{written} of {expected}");
}
