//! Offsets by what lies at them: the ends, and times.

use super::{Log, at};
use crate::requests;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{ListOffsetsRequest, OffsetForLeaderEpochRequest};
use krafka::Record;
use krafka::admin::{ListOffsetsOptions, OffsetSpec};

const BASE_MS: i64 = 1_700_000_000_000;

/// The offset and the time that a log gives for a question.
async fn ask(log: &Log, topic: &str, spec: OffsetSpec) -> (i64, Option<i64>) {
    let options = ListOffsetsOptions::default();
    let mut found = log.admin().list_offsets([(at(topic, 0), spec)], options).await.unwrap();
    let found = found.remove(&at(topic, 0)).unwrap().unwrap();
    (found.offset, found.timestamp)
}

/// The error, the offset and the time for a question that has no answer: the client would ask
/// again and again. -3 asks for the latest time.
fn ask_once(log: &Log, topic: &str, partition: i32, ms: i64) -> (i16, i64, i64) {
    let partition =
        ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(ms);
    let topic = ListOffsetsTopic::default()
        .with_name(requests::topic(topic))
        .with_partitions(vec![partition]);
    let request =
        ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
    let answer = log.client().call(7, &request);
    let found = &answer.topics[0].partitions[0];
    (found.error_code, found.offset, found.timestamp)
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
    assert_eq!(ask(&log, &topic, OffsetSpec::Earliest).await, (0, None));
    assert_eq!(ask(&log, &topic, OffsetSpec::Latest).await, (6, None));
    let max = ask(&log, &topic, OffsetSpec::MaxTimestamp).await;
    assert_eq!(max, (4, Some(BASE_MS + 50)));
    // The first record that is not older.
    for (ms, offset, kept) in
        [(-1_000, 0, 0), (0, 0, 0), (1, 1, 10), (15, 2, 30), (25, 2, 30), (31, 4, 50), (50, 4, 50)]
    {
        let found = ask(&log, &topic, OffsetSpec::Timestamp(BASE_MS + ms)).await;
        assert_eq!(found, (offset, Some(BASE_MS + kept)), "the first not older than {ms}");
    }
    assert_eq!(ask_once(&log, &topic, 0, BASE_MS + 51), (0, -1, -1));
}

pub async fn of_an_empty_topic(log: Log) {
    let topic = log.topic(1).await;
    assert_eq!(ask(&log, &topic, OffsetSpec::Earliest).await, (0, None));
    assert_eq!(ask(&log, &topic, OffsetSpec::Latest).await, (0, None));
    assert_eq!(ask_once(&log, &topic, 0, 0), (0, -1, -1));
    assert_eq!(ask_once(&log, &topic, 0, -3), (0, -1, -1));
    let unknown = ResponseError::UnknownTopicOrPartition.code();
    assert_eq!(ask_once(&log, &topic, 1, -1).0, unknown);
}

pub async fn of_an_epoch(log: Log) {
    let topic = log.topic(1).await;
    log.produce(&topic, 0, ["a".to_owned(), "b".to_owned()]).await;
    let ask = |partition: i32, current: i32, epoch: i32| {
        let partition = OffsetForLeaderPartition::default()
            .with_partition(partition)
            .with_current_leader_epoch(current)
            .with_leader_epoch(epoch);
        let topic = OffsetForLeaderTopic::default()
            .with_topic(requests::topic(&topic))
            .with_partitions(vec![partition]);
        // As consumers do, whose id is none.
        let request = OffsetForLeaderEpochRequest::default()
            .with_replica_id((-1).into())
            .with_topics(vec![topic]);
        let answer = log.client().call(4, &request);
        let found = &answer.topics[0].partitions[0];
        (found.error_code, found.leader_epoch, found.end_offset)
    };
    assert_eq!(ask(0, -1, 0), (0, 0, 2));
    assert_eq!(ask(0, 0, 0), (0, 0, 2));
    assert_eq!(ask(0, 7, 0), (ResponseError::UnknownLeaderEpoch.code(), -1, -1));
    assert_eq!(ask(9, -1, 0), (ResponseError::UnknownTopicOrPartition.code(), -1, -1));
}
