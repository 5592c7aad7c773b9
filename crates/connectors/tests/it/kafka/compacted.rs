//! A topic that Kafka's own cleaner has compacted: what is left is read, what is gone counts as read.

use super::member::Member;
use super::*;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use millstream_core::{Source, Start};
use millstream_log::BatchBuilder;
use millstream_testkit::services::{self, unique};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Writes one batch as it is, which a sink does not: keys without values.
async fn put(broker: &str, topic: &str, records: &[(&str, Option<&str>)]) {
    let mut batch = BatchBuilder::new(Codec::Lz4);
    // Segments roll by what records say of the time.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    for (key, value) in records {
        batch.push(now, Some(key.as_bytes()), value.map(str::as_bytes), &[]);
    }
    let data = PartitionProduceData::default()
        .with_records(Some(Bytes::from(batch.finish().into_bytes_at(0))));
    let name = StrBytes::from_string(topic.to_owned());
    let topic = TopicProduceData::default().with_name(name.into()).with_partition_data(vec![data]);
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic]);
    let header = RequestHeader::default().with_request_api_key(0).with_request_api_version(9);
    let mut frame = BytesMut::new();
    header.encode(&mut frame, 2).unwrap();
    request.encode(&mut frame, 9).unwrap();
    let mut stream = tokio::net::TcpStream::connect(broker).await.unwrap();
    let mut out = BytesMut::new();
    out.put_i32(frame.len() as i32);
    out.extend_from_slice(&frame);
    stream.write_all(&out).await.unwrap();
    let mut answer = vec![0; stream.read_i32().await.unwrap() as usize];
    stream.read_exact(&mut answer).await.unwrap();
    let mut answer = Bytes::from(answer);
    ResponseHeader::decode(&mut answer, 1).unwrap();
    let response = ProduceResponse::decode(&mut answer, 9).unwrap();
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
}

/// The offsets that are there, each with its key and value.
type Kept = BTreeMap<i64, (String, Option<String>)>;

/// What the topic holds now.
async fn kept(source: &KafkaSource, end: i64) -> Kept {
    let mut reader = source.reader(0, Start::Earliest).await.unwrap();
    let mut kept = Kept::new();
    loop {
        let records = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap();
        let records = records.unwrap().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        for record in records.iter() {
            kept.insert(record.offset, (text(record.key.unwrap()), record.value.map(text)));
        }
        if records.next_offset() >= end {
            return kept;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_compaction_left_is_read_and_the_commit_and_the_lag_reach_the_end() {
    let Some(kafka) = services::kafka() else { return };
    let topic = unique("compacted");
    kafka.create_topic(
        &topic,
        1,
        &[
            ("cleanup.policy", "compact"),
            ("segment.ms", "300"),
            ("min.cleanable.dirty.ratio", "0.01"),
            ("max.compaction.lag.ms", "500"),
            ("retention.ms", "-1"),
        ],
    );
    let broker = kafka.bootstrap();
    let keys: Vec<String> = (0..50).map(|key| format!("key {key}")).collect();
    let mut last: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut end = 0;
    for round in 0..20 {
        let value = format!("round {round}");
        let records: Vec<_> = keys
            .iter()
            .enumerate()
            // Others of them in every round, so that batches are left with holes and without records.
            .filter(|(at, _)| round == 0 || (at + round) % 3 != 0)
            .map(|(_, key)| (key.as_str(), Some(value.as_str())))
            .collect();
        put(&broker, &topic, &records).await;
        end += records.len() as i64;
        last.extend(records.iter().map(|(key, v)| ((*key).to_owned(), v.map(str::to_owned))));
    }
    let gone: Vec<_> = keys[..10].iter().map(|key| (key.as_str(), None)).collect();
    put(&broker, &topic, &gone).await;
    end += 10;
    last.extend(keys[..10].iter().map(|key| (key.clone(), None)));
    // The newest segment is never compacted: this one is only there to be it.
    tokio::time::sleep(Duration::from_millis(400)).await;
    put(&broker, &topic, &[("the end", Some("is here"))]).await;
    end += 1;
    last.insert("the end".into(), Some("is here".into()));

    let cluster = cluster(&broker);
    let looking = source(&cluster, reading(&topic, &unique("looking"))).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let kept = loop {
        let kept = kept(&looking, end).await;
        if kept.len() == last.len() {
            break kept;
        }
        assert!(tokio::time::Instant::now() < deadline, "{} are left", kept.len());
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    assert_eq!(kept.into_values().collect::<BTreeMap<_, _>>(), last);

    let member = Member::join(source(&cluster, reading(&topic, &topic)).await);
    until("the commit is at the end", || member.notes.lock().committed.values().copied().eq([end]))
        .await;
    assert_eq!(member.source.end_of(0), Some(end), "nothing is behind");
    {
        let notes = member.notes.lock();
        let tombstones = notes.seen.iter().filter(|seen| seen.value.is_none()).count();
        assert_eq!((notes.seen.len(), tombstones), (last.len(), 10));
        let offsets: Vec<i64> = notes.seen.iter().map(|seen| seen.offset).collect();
        assert!(offsets.is_sorted() && offsets.windows(2).any(|two| two[1] > two[0] + 1));
    }
    member.leave().await;

    // Who begins in a gap begins at what comes after it.
    let member = Member::join(source(&cluster, reading(&topic, &topic)).await);
    put(&broker, &topic, &[("one more", Some("is new"))]).await;
    until("what is new is read", || member.seen() == 1).await;
    member.leave().await;
    let mut reader = looking.reader(0, Start::Offset(1)).await.unwrap();
    let records = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap().unwrap();
    assert!(records.next_offset() > 1 && records.skipped() == 0);
}
