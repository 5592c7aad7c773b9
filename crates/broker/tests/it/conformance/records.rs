//! Records into a log and out of it.

use super::{Log, at, eventually, refusal, take, values};
use crate::client::batch;
use crate::requests::{fetch, produce};
use bytes::Bytes;
use kafka_protocol::ResponseError;
use krafka::admin::{DeleteRecordsOptions, ListOffsetsOptions, OffsetSpec};
use krafka::consumer::AutoOffsetReset;
use krafka::error::ErrorCode;
use krafka::producer::Acks;
use krafka::{Compression, Record};
use std::time::Duration;

pub async fn come_back(log: Log) {
    let topic = log.topic(3).await;
    let producer = log.kafka.producer().acks(Acks::All).build().await.unwrap();
    let sent = |at: i32| {
        Record::new(&topic, format!("value {at}"))
            .partition(at % 3)
            .key(format!("key {at}"))
            .timestamp(1_700_000_000_000 + i64::from(at))
            .header("first", format!("{at}"))
            .null_header("second")
            .header("first", "again")
    };
    for at in 0..30 {
        let kept = producer.send(sent(at)).await.unwrap();
        assert_eq!((kept.partition, kept.offset), (at % 3, i64::from(at / 3)));
    }
    let tombstone = Record::tombstone(&topic, "gone").partition(0);
    assert_eq!(producer.send(tombstone).await.unwrap().offset, 10);
    let bare = Record::new(&topic, Bytes::new()).partition(0);
    assert_eq!(producer.send(bare).await.unwrap().offset, 11);
    producer.close().await.unwrap();

    let mut records = log.read(&topic, vec![0, 1, 2], 32).await;
    records.sort_by_key(|record| (record.partition, record.offset));
    for at in 0..30 {
        let partition = at % 3;
        let skipped = [0, 12, 22][partition as usize];
        let record = &records[skipped + (at / 3) as usize];
        assert_eq!((record.partition, record.offset), (partition, i64::from(at / 3)));
        assert_eq!(record.key_str(), Some(format!("key {at}").as_str()));
        assert_eq!(record.value_str(), Some(format!("value {at}").as_str()));
        assert_eq!(record.timestamp, 1_700_000_000_000 + i64::from(at));
        let header = |key: &str, value: &str| (key.to_owned(), Some(Bytes::from(value.to_owned())));
        let number = header("first", &at.to_string());
        assert_eq!(record.headers, [number, ("second".into(), None), header("first", "again")]);
    }
    let (tombstone, bare) = (&records[10], &records[11]);
    assert_eq!((tombstone.key_str(), &tombstone.value), (Some("gone"), &None));
    assert_eq!((&bare.key, &bare.value), (&None, &Some(Bytes::new())));
}

pub async fn every_codec(log: Log) {
    let topic = log.topic(1).await;
    let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4];
    for codec in codecs {
        let producer = log.kafka.producer().compression(codec);
        let producer = producer.linger(Duration::from_millis(50)).build().await.unwrap();
        let mut sent = Vec::new();
        for at in 0..100 {
            let record = Record::new(&topic, format!("{codec:?} {at} {}", "x".repeat(100)));
            sent.push(producer.enqueue(record).await.unwrap());
        }
        for sent in sent {
            assert!(sent.await.unwrap().is_success());
        }
        producer.close().await.unwrap();
    }
    let records = log.read(&topic, vec![0], 400).await;
    for (at, record) in records.iter().enumerate() {
        let starts = format!("{:?} {} x", codecs[at / 100], at % 100);
        assert!(record.value_str().unwrap().starts_with(&starts), "{at}: {starts}");
        assert_eq!(record.offset, at as i64);
    }
}

pub async fn a_fetch_waits(log: Log) {
    let topic = log.topic(1).await;
    let mut client = log.client();
    // Longer than the test's patience: it is the record that ends it.
    let waiting = fetch(12, &topic, Default::default(), 0).with_max_wait_ms(300_000);
    client.send(12, &waiting);
    log.produce(&topic, 0, ["late".to_owned()]).await;
    let answer = client.receive::<kafka_protocol::messages::FetchRequest>(12);
    let partition = &answer.responses[0].partitions[0];
    assert_eq!((partition.error_code, partition.high_watermark), (0, 1));
    assert!(partition.records.as_ref().is_some_and(|records| !records.is_empty()));

    // One that asks for nothing new is answered when its time is over.
    let over = fetch(12, &topic, Default::default(), 1).with_max_wait_ms(10);
    let answer = client.call(12, &over);
    let partition = &answer.responses[0].partitions[0];
    assert_eq!(partition.error_code, 0);
    assert!(partition.records.as_ref().is_none_or(|records| records.is_empty()));
}

pub async fn a_fetch_ends(log: Log) {
    let topic = log.topic(1).await;
    log.produce(&topic, 0, (0..5).map(|at| at.to_string())).await;
    let mut client = log.client();
    let mut ask = |name: &str, offset: i64| {
        let answer = client.call(12, &fetch(12, name, Default::default(), offset));
        answer.responses[0].partitions[0].error_code
    };
    assert_eq!(ask(&topic, 0), 0);
    assert_eq!(ask(&topic, 6), ResponseError::OffsetOutOfRange.code());
    assert_eq!(ask(&topic, -1), ResponseError::OffsetOutOfRange.code());
    let unknown = ResponseError::UnknownTopicOrPartition.code();
    assert_eq!(ask("conformance-nobody-made-this", 0), unknown);
    let stranger = uuid::Uuid::from_u128(7);
    let answer = client.call(13, &fetch(13, "", stranger, 0));
    let error = answer.responses[0].partitions[0].error_code;
    assert_eq!(error, ResponseError::UnknownTopicId.code());
}

pub async fn a_damaged_batch(log: Log) {
    let topic = log.topic(1).await;
    let mut client = log.client();
    let mut send = |records: Bytes| {
        let answer = client.call(9, &produce(9, &topic, Default::default(), records));
        let partition = &answer.responses[0].partition_responses[0];
        (partition.error_code, partition.base_offset)
    };
    let right = batch(&["a", "b"], None);
    assert_eq!(send(right.clone()), (0, 0));
    let mut wrong = right.to_vec();
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    assert_eq!(send(wrong.into()), (ResponseError::CorruptMessage.code(), -1));
    assert_eq!(send(right), (0, 2));
}

pub async fn deleted(log: Log) {
    let topic = log.topic(1).await;
    log.produce(&topic, 0, (0..10).map(|at| at.to_string())).await;
    let admin = log.admin();
    let delete = async |before: i64| {
        let options = DeleteRecordsOptions::default();
        let asked = [(at(&topic, 0), before)];
        admin.delete_records(asked, options).await.unwrap().remove(&at(&topic, 0)).unwrap()
    };
    let earliest = async || {
        let asked = [(at(&topic, 0), OffsetSpec::Earliest)];
        let found = admin.list_offsets(asked, ListOffsetsOptions::default()).await.unwrap();
        found[&at(&topic, 0)].as_ref().unwrap().offset
    };
    assert_eq!(delete(4).await.unwrap(), 4);
    assert_eq!(earliest().await, 4);
    // Deleting less does nothing.
    assert_eq!(delete(2).await.unwrap(), 4);
    assert_eq!(refusal(delete(11).await), ErrorCode::OffsetOutOfRange);
    assert_eq!(values(&log.read(&topic, vec![0], 6).await), ["4", "5", "6", "7", "8", "9"]);
    let mut client = log.client();
    let answer = client.call(12, &fetch(12, &topic, Default::default(), 3));
    let error = answer.responses[0].partitions[0].error_code;
    assert_eq!(error, ResponseError::OffsetOutOfRange.code());

    // A reader that stands below the start goes on where it was told to.
    let consumer = log.kafka.consumer_without_group();
    let consumer = consumer.auto_offset_reset(AutoOffsetReset::Earliest).build().await.unwrap();
    consumer.assign(&topic, vec![0]).await.unwrap();
    consumer.seek(&topic, 0, 1).await.unwrap();
    assert_eq!(take(&consumer, 6).await[0].offset, 4);
    consumer.close().await.unwrap();

    assert_eq!(delete(-1).await.unwrap(), 10);
    assert_eq!(earliest().await, 10);
    log.produce(&topic, 0, ["next".to_owned()]).await;
    let next = eventually("what came after is read", async || {
        log.read(&topic, vec![0], 1).await.into_iter().next()
    });
    let next = next.await;
    assert_eq!((next.offset, next.value_str()), (10, Some("next")));
}
