//! Offsets by what lies at them: the ends, and times.

use super::{Log, at, refusal};
use krafka::Record;
use krafka::admin::{ListOffsetsOptions, OffsetSpec};
use krafka::error::ErrorCode;

const BASE_MS: i64 = 1_700_000_000_000;

/// The offset and the time that a log gives for a question.
async fn ask(log: &Log, topic: &str, spec: OffsetSpec) -> Option<(i64, Option<i64>)> {
    let options = ListOffsetsOptions::default();
    let mut found = log.admin().list_offsets([(at(topic, 0), spec)], options).await.unwrap();
    match found.remove(&at(topic, 0)).unwrap() {
        Ok(found) => Some((found.offset, found.timestamp)),
        none => {
            // The client's word for offset -1.
            assert_eq!(refusal(none), ErrorCode::OffsetNotAvailable);
            None
        }
    }
}

pub async fn by_time(log: Log) {
    let topic = log.topic(1).await;
    let producer = log.kafka.producer().build().await.unwrap();
    // Times go back now and then, as those of many producers do.
    for (at, ms) in [0, 10, 30, 20, 50, 40].into_iter().enumerate() {
        let record = Record::new(&topic, format!("{at}")).timestamp(BASE_MS + ms);
        assert_eq!(producer.send(record).await.unwrap().offset, at as i64);
    }
    producer.close().await.unwrap();
    assert_eq!(ask(&log, &topic, OffsetSpec::Earliest).await, Some((0, None)));
    assert_eq!(ask(&log, &topic, OffsetSpec::Latest).await, Some((6, None)));
    let max = ask(&log, &topic, OffsetSpec::MaxTimestamp).await;
    assert_eq!(max, Some((4, Some(BASE_MS + 50))));
    // The first record that is not older.
    let times = [(-1_000, Some((0, 0))), (0, Some((0, 0))), (1, Some((1, 10)))];
    let times = times.into_iter().chain([(15, Some((2, 30))), (25, Some((2, 30)))]);
    for (ms, expected) in times.chain([(31, Some((4, 50))), (50, Some((4, 50))), (51, None)]) {
        let found = ask(&log, &topic, OffsetSpec::Timestamp(BASE_MS + ms)).await;
        let expected = expected.map(|(offset, ms)| (offset, Some(BASE_MS + ms)));
        assert_eq!(found, expected, "the first record that is not older than {ms}");
    }
}

pub async fn of_an_empty_topic(log: Log) {
    let topic = log.topic(1).await;
    assert_eq!(ask(&log, &topic, OffsetSpec::Earliest).await, Some((0, None)));
    assert_eq!(ask(&log, &topic, OffsetSpec::Latest).await, Some((0, None)));
    assert_eq!(ask(&log, &topic, OffsetSpec::Timestamp(0)).await, None);
    assert_eq!(ask(&log, &topic, OffsetSpec::MaxTimestamp).await, None);
    let asked = [(at(&topic, 1), OffsetSpec::Latest)];
    // The client looks for the partition's leader until its patience ends.
    let options = ListOffsetsOptions::default().timeout(std::time::Duration::from_secs(2));
    let found = log.admin().list_offsets(asked, options).await.unwrap();
    assert!(found[&at(&topic, 1)].is_err());
}
