//! Groups: who reads what, and how far each has come.

use super::{Log, PATIENCE, at, eventually, poll, refusal, take};
use crate::client::Client;
use crate::requests::{self, text};
use futures::future::join_all;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::OffsetCommitRequest;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use krafka::Kafka;
use krafka::admin::{
    AlterConsumerGroupOffsetsOptions, CreatePartitionsOptions, DeleteConsumerGroupOffsetsOptions,
    DeleteConsumerGroupsOptions, DescribeConsumerGroupsOptions, ListConsumerGroupOffsetsOptions,
    ListConsumerGroupsOptions,
};
use krafka::consumer::{AutoOffsetReset, Consumer, GroupProtocol};
use krafka::error::ErrorCode;
use millstream_testkit::services::unique;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

async fn member(log: &Log, topic: &str, group: &str, protocol: GroupProtocol) -> Consumer {
    // A process of its own, as far as the log can tell.
    let kafka = Kafka::builder(&log.bootstrap).metadata_max_age(Duration::from_secs(1));
    let consumer = kafka
        .connect()
        .await
        .unwrap()
        .consumer(group)
        .group_protocol(protocol)
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .enable_auto_commit(false);
    // Of the other protocol's members the log says how long they may be silent.
    let consumer = match protocol {
        GroupProtocol::Classic => consumer
            .session_timeout(Duration::from_secs(3))
            .heartbeat_interval(Duration::from_millis(300)),
        _ => consumer,
    };
    let consumer = consumer.build().await.unwrap();
    consumer.subscribe([topic]).await.unwrap();
    consumer
}

/// Polls all of them until each has as many partitions as is said, and gives what came meanwhile
/// as partition, offset and value. What is read is committed.
async fn settle(members: &[&Consumer], topic: &str, counts: &[usize]) -> Vec<(i32, i64, String)> {
    let mut read = Vec::new();
    let settling = async {
        loop {
            let mut found = Vec::new();
            let polls = members.iter().map(|member| member.poll(Duration::from_millis(200)));
            for (member, records) in members.iter().zip(join_all(polls).await) {
                let records = records.unwrap();
                // A commit may meet a rebalance: the next one says the same or more.
                let _ = member.commit().await;
                read.extend(records.into_iter().map(|record| {
                    let value = record.value_str().unwrap_or_default().to_owned();
                    (record.partition, record.offset, value)
                }));
                found.push(member.assignment().await.remove(topic).unwrap_or_default());
            }
            let all: BTreeSet<_> = found.iter().flatten().copied().collect();
            let lens: Vec<_> = found.iter().map(Vec::len).collect();
            if lens == counts && all.len() == counts.iter().sum::<usize>() {
                return;
            }
        }
    };
    if tokio::time::timeout(PATIENCE, settling).await.is_err() {
        let mut found = Vec::new();
        for member in members {
            found.push(member.assignment().await);
        }
        panic!("the members never had {counts:?} partitions, but {found:?}");
    }
    read
}

/// The commits of a group in these partitions of a topic.
async fn committed(log: &Log, group: &str, topic: &str) -> BTreeMap<i32, i64> {
    let options = ListConsumerGroupOffsetsOptions::default();
    let found = log.admin().list_consumer_group_offsets(group, options).await.unwrap();
    let found = found.into_iter().filter(|(place, _)| place.topic == topic);
    let found = found.map(|(place, found)| (place.partition, found.unwrap().offset));
    found.filter_map(|(partition, offset)| Some((partition, offset?))).collect()
}

/// A commit by nobody in particular.
fn commit(
    group: &str,
    topic: &str,
    partition: i32,
    offset: i64,
    words: &str,
) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text(words)));
    let topic = OffsetCommitRequestTopic::default()
        .with_name(requests::topic(topic))
        .with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(requests::group(group))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

async fn delete_offset(log: &Log, group: &str, topic: &str) -> krafka::Result<()> {
    let options = DeleteConsumerGroupOffsetsOptions::default();
    let place = at(topic, 0);
    let admin = log.admin();
    let mut deleted =
        admin.delete_consumer_group_offsets(group, [place.clone()], options).await.unwrap();
    deleted.remove(&place).unwrap()
}

async fn delete(log: &Log, group: &str) -> krafka::Result<()> {
    let options = DeleteConsumerGroupsOptions::default();
    log.admin().delete_consumer_groups([group], options).await?.remove(group).unwrap()
}

pub async fn offsets(log: Log) {
    let topic = log.topic(3).await;
    let group = unique("conformance");
    let admin = log.admin();
    let set = async |offsets: Vec<(i32, i64)>| {
        let options = AlterConsumerGroupOffsetsOptions::default();
        let offsets =
            offsets.into_iter().map(|(partition, offset)| (at(&topic, partition), offset));
        let done = admin.alter_consumer_group_offsets(&group, offsets, options).await.unwrap();
        done.into_values().collect::<krafka::Result<Vec<_>>>()
    };
    assert_eq!(committed(&log, &group, &topic).await, BTreeMap::new());
    set(vec![(0, 5), (1, 7)]).await.unwrap();
    assert_eq!(committed(&log, &group, &topic).await, BTreeMap::from([(0, 5), (1, 7)]));
    // Offsets go back as well as forth.
    set(vec![(0, 2)]).await.unwrap();
    assert_eq!(committed(&log, &group, &topic).await, BTreeMap::from([(0, 2), (1, 7)]));
    assert_eq!(refusal(set(vec![(3, 1)]).await), ErrorCode::UnknownTopicOrPartition);

    // A commit carries the reader's own words.
    let words = commit(&group, &topic, 2, 9, "as far as this");
    let answer = log.client().call(8, &words);
    assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    let options = ListConsumerGroupOffsetsOptions::default().partitions(vec![at(&topic, 2)]);
    let found = admin.list_consumer_group_offsets(&group, options).await.unwrap();
    let found = found[&at(&topic, 2)].as_ref().unwrap();
    assert_eq!((found.offset, found.metadata.as_deref()), (Some(9), Some("as far as this")));

    delete_offset(&log, &group, &topic).await.unwrap();
    assert_eq!(committed(&log, &group, &topic).await, BTreeMap::from([(1, 7), (2, 9)]));
    let stranger = unique("conformance");
    assert_eq!(refusal(delete_offset(&log, &stranger, &topic).await), ErrorCode::GroupIdNotFound);
}

pub async fn strangers(log: Log) {
    let topic = log.topic(1).await;
    let group = unique("conformance");
    let reader = member(&log, &topic, &group, GroupProtocol::Classic).await;
    settle(&[&reader], &topic, &[1]).await;
    let mut client = log.client();
    let attempt = |client: &mut Client, member: &str, generation: i32| {
        let request = commit(&group, &topic, 0, 1, "")
            .with_member_id(text(member))
            .with_generation_id_or_member_epoch(generation);
        client.call(8, &request).topics[0].partitions[0].error_code
    };
    let unknown = ResponseError::UnknownMemberId.code();
    assert_eq!(attempt(&mut client, "nobody", 1), unknown);
    assert_eq!(attempt(&mut client, "", -1), unknown, "while there are members");
    let known = reader.group_metadata().await.unwrap();
    let (id, generation) = (known.member_id(), known.generation_id());
    let stale = ResponseError::IllegalGeneration.code();
    assert_eq!(attempt(&mut client, id, generation + 1), stale);
    assert_eq!(attempt(&mut client, id, generation), 0);
    assert_eq!(committed(&log, &group, &topic).await, BTreeMap::from([(0, 1)]));
    reader.close().await.unwrap();
    assert_eq!(attempt(&mut client, "", -1), 0, "nobody reads any more");
}

pub async fn shares(log: Log, protocol: GroupProtocol) {
    const EACH: i64 = 20;
    let topic = log.topic(4).await;
    let group = unique("conformance");
    for partition in 0..4 {
        log.produce(&topic, partition, (0..EACH).map(|at| at.to_string())).await;
    }
    let first = member(&log, &topic, &group, protocol).await;
    let mut read = settle(&[&first], &topic, &[4]).await;
    let second = member(&log, &topic, &group, protocol).await;
    read.extend(settle(&[&first, &second], &topic, &[2, 2]).await);

    let options = DescribeConsumerGroupsOptions::default();
    let described = log.admin().describe_consumer_groups([&group], options).await.unwrap();
    let described = described[&group].as_ref().unwrap();
    assert_eq!((described.state.as_str(), described.members.len()), ("Stable", 2));
    let assigned = described.members.iter().flat_map(|member| member.assignment.iter().flatten());
    let mut assigned: Vec<_> = assigned.flat_map(|topic| topic.partitions.clone()).collect();
    assigned.sort_unstable();
    assert_eq!(assigned, [0, 1, 2, 3]);

    for partition in 0..4 {
        log.produce(&topic, partition, (EACH..2 * EACH).map(|at| at.to_string())).await;
    }
    let all: BTreeMap<_, _> = (0..4).map(|partition| (partition, 2 * EACH)).collect();
    eventually("all is committed", async || {
        read.extend(settle(&[&first, &second], &topic, &[2, 2]).await);
        (committed(&log, &group, &topic).await == all).then_some(())
    })
    .await;
    second.close().await.unwrap();
    read.extend(settle(&[&first], &topic, &[4]).await);
    log.produce(&topic, 3, ["the last".to_owned()]).await;
    let last = take(&first, 1).await;
    assert_eq!((last[0].partition, last[0].offset), (3, 2 * EACH), "nothing is read again");
    first.close().await.unwrap();

    // Each in order; what was read and not committed at a rebalance may come twice.
    let distinct: BTreeSet<_> = read.iter().map(|(partition, at, _)| (*partition, *at)).collect();
    let expected = (0..4).flat_map(|partition| (0..2 * EACH).map(move |at| (partition, at)));
    assert_eq!(distinct, expected.collect());
    assert!(read.iter().all(|(_, at, value)| *value == at.to_string()));
}

pub async fn silence(log: Log, protocol: GroupProtocol) {
    let topic = log.topic(2).await;
    let group = unique("conformance");
    let first = member(&log, &topic, &group, protocol).await;
    let elsewhere = tokio::runtime::Runtime::new().unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    elsewhere.spawn({
        let (log, topic, group) = (log.clone(), topic.clone(), group.clone());
        async move {
            let second = member(&log, &topic, &group, protocol).await;
            let mut tell = Some(tell);
            loop {
                let _ = second.poll(Duration::from_millis(50)).await;
                let has = second.assignment().await.values().map(Vec::len).sum::<usize>();
                if let Some(tell) = tell.take_if(|_| has == 1) {
                    let _ = tell.send(());
                }
            }
        }
    });
    settle(&[&first], &topic, &[1]).await;
    told.await.unwrap();
    // It says no word of leaving.
    elsewhere.shutdown_background();
    settle(&[&first], &topic, &[2]).await;
    first.close().await.unwrap();
}

pub async fn new_partitions(log: Log, protocol: GroupProtocol) {
    let topic = log.topic(1).await;
    let reader = member(&log, &topic, &unique("conformance"), protocol).await;
    settle(&[&reader], &topic, &[1]).await;
    let options = CreatePartitionsOptions::default();
    let grown = log.admin().create_partitions([(&topic, 3)], options).await.unwrap();
    grown[&topic].as_ref().unwrap();
    settle(&[&reader], &topic, &[3]).await;
    log.produce(&topic, 2, ["there".to_owned()]).await;
    let read = tokio::time::timeout(PATIENCE, poll(&reader)).await.unwrap();
    assert_eq!((read[0].partition, read[0].value_str()), (2, Some("there")));
    reader.close().await.unwrap();
}

pub async fn deleted(log: Log, protocol: GroupProtocol) {
    let topic = log.topic(1).await;
    let group = unique("conformance");
    log.produce(&topic, 0, ["v".to_owned()]).await;
    let reader = member(&log, &topic, &group, protocol).await;
    take(&reader, 1).await;
    reader.commit().await.unwrap();
    let subscribed = refusal(delete_offset(&log, &group, &topic).await);
    assert_eq!(subscribed, ErrorCode::GroupSubscribedToTopic);
    assert_eq!(refusal(delete(&log, &group).await), ErrorCode::NonEmptyGroup);
    reader.close().await.unwrap();

    let listed = async || {
        let found = log.admin().list_consumer_groups(ListConsumerGroupsOptions::default()).await;
        let found = found.unwrap().into_values().flat_map(|listed| listed.unwrap());
        found.into_iter().find(|listed| listed.group_id == group)
    };
    eventually("the group is empty", async || {
        (listed().await?.state.as_deref() == Some("Empty")).then_some(())
    })
    .await;
    assert_eq!(committed(&log, &group, &topic).await, BTreeMap::from([(0, 1)]));
    delete(&log, &group).await.unwrap();
    assert_eq!(committed(&log, &group, &topic).await, BTreeMap::new());
    assert!(listed().await.is_none());
    assert_eq!(refusal(delete(&log, &group).await), ErrorCode::GroupIdNotFound);
}
