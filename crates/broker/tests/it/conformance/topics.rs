//! Topics as operators make, grow, change and delete them.

use super::{Log, at, eventually, refusal, values};
use crate::requests::{fetch, produce};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::CreateTopicsRequest;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use krafka::admin::{
    AlterConsumerGroupOffsetsOptions, ConfigOp, ConfigResource, CreatePartitionsOptions,
    CreateTopicsOptions, DeleteTopicsOptions, DescribeConfigsOptions,
    IncrementalAlterConfigsOptions, ListConsumerGroupOffsetsOptions, ListTopicsOptions, NewTopic,
};
use krafka::error::ErrorCode;
use millstream_testkit::services::unique;

async fn create(log: &Log, topic: NewTopic, validate: bool) -> krafka::Result<()> {
    let name = topic.name.clone();
    let options = CreateTopicsOptions::default().validate_only(validate);
    let mut made = log.admin().create_topics(vec![topic], options).await?;
    made.remove(&name).unwrap().map(|_| ())
}

async fn delete(log: &Log, name: &str) -> krafka::Result<()> {
    let options = DeleteTopicsOptions::default();
    log.admin().delete_topics([name], options).await?.remove(name).unwrap()
}

async fn grow(log: &Log, name: &str, count: i32) -> krafka::Result<()> {
    let options = CreatePartitionsOptions::default();
    log.admin().create_partitions([(name, count)], options).await?.remove(name).unwrap()
}

pub async fn made(log: Log) {
    let name = unique("conformance");
    create(&log, NewTopic::new(&name, 3, 1).unwrap(), true).await.unwrap();
    let names = log.admin().list_topics(ListTopicsOptions::default()).await.unwrap();
    assert!(!names.contains(&name), "one that was only asked about");
    log.create(&name, 3).await;
    let described = log.describe(&name).await.unwrap();
    let indexes: Vec<_> = described.partitions.iter().map(|one| one.partition).collect();
    assert_eq!(indexes, [0, 1, 2]);
    assert_ne!(described.topic_id, [0; 16]);
    for partition in &described.partitions {
        assert_eq!(partition.leader.as_slice(), partition.replicas);
        assert_eq!(partition.isr, partition.replicas);
    }
    let names = log.admin().list_topics(ListTopicsOptions::default()).await.unwrap();
    assert!(names.contains(&name));
    delete(&log, &name).await.unwrap();
    eventually("the topic is gone", async || {
        let names = log.admin().list_topics(ListTopicsOptions::default()).await.unwrap();
        (!names.contains(&name)).then_some(())
    })
    .await;
    assert_eq!(refusal(delete(&log, &name).await), ErrorCode::UnknownTopicOrPartition);
}

pub async fn refused(log: Log) {
    let topic = log.topic(2).await;
    let again = NewTopic::new(&topic, 1, 1).unwrap();
    assert_eq!(refusal(create(&log, again, false).await), ErrorCode::TopicAlreadyExists);
    let spread = NewTopic::new(unique("conformance"), 1, 3).unwrap();
    let spread = refusal(create(&log, spread, false).await);
    assert_eq!(spread, ErrorCode::InvalidReplicationFactor);
    // The client would not ask for this one.
    let name = CreatableTopic::default().with_name(crate::requests::topic("no name, to a log"));
    let request = CreateTopicsRequest::default().with_topics(vec![name.with_num_partitions(1)]);
    let answer = log.client().call(5, &request);
    assert_eq!(answer.topics[0].error_code, ResponseError::InvalidTopicException.code());
    let mut odd = NewTopic::new(unique("conformance"), 1, 1).unwrap();
    odd.configs.insert("nobody.knows.this".to_owned(), "1".to_owned());
    assert_eq!(refusal(create(&log, odd, false).await), ErrorCode::InvalidConfig);
    for count in [1, 2] {
        let refused = refusal(grow(&log, &topic, count).await);
        assert_eq!(refused, ErrorCode::InvalidPartitions, "{count} where there are 2");
    }
    let unknown = refusal(grow(&log, "conformance-nobody-made-this", 2).await);
    assert_eq!(unknown, ErrorCode::UnknownTopicOrPartition);
}

pub async fn options(log: Log) {
    let topic = log.topic(1).await;
    let resource = ConfigResource::topic(&topic);
    let alter = async |op: ConfigOp| {
        let options = IncrementalAlterConfigsOptions::default();
        let asked = [(resource.clone(), vec![op])];
        log.admin().incremental_alter_configs(asked, options).await.unwrap().remove(&resource)
    };
    let read = async || {
        let options = DescribeConfigsOptions::default();
        let mut found = log.admin().describe_configs([resource.clone()], options).await.unwrap();
        let found = found.remove(&resource).unwrap().unwrap();
        found.into_iter().find(|entry| entry.name == "retention.ms").unwrap().value
    };
    alter(ConfigOp::set("retention.ms", "3600000")).await.unwrap().unwrap();
    eventually("the option is set", async || {
        (read().await.as_deref() == Some("3600000")).then_some(())
    })
    .await;
    let wrong = alter(ConfigOp::set("retention.ms", "soon")).await.unwrap();
    assert_eq!(refusal(wrong), ErrorCode::InvalidConfig);
    assert_eq!(read().await.as_deref(), Some("3600000"));
    alter(ConfigOp::delete("retention.ms")).await.unwrap().unwrap();
    eventually("the option is as it was", async || {
        (read().await.as_deref() != Some("3600000")).then_some(())
    })
    .await;
}

pub async fn grown(log: Log) {
    let topic = log.topic(1).await;
    let id = log.id(&topic).await;
    log.produce(&topic, 0, ["first".to_owned()]).await;
    grow(&log, &topic, 3).await.unwrap();
    eventually("there are three partitions", async || {
        let described = log.describe(&topic).await.ok()?;
        (described.partitions.iter().filter(|one| one.leader.is_some()).count() == 3).then_some(())
    })
    .await;
    assert_eq!(log.id(&topic).await, id);
    // Who came before keeps what it knows of a topic for a while.
    let kafka = krafka::Kafka::builder(&log.bootstrap).connect().await.unwrap();
    let newcomer = Log { kafka, ..log.clone() };
    newcomer.produce(&topic, 2, ["last".to_owned()]).await;
    let mut records = newcomer.read(&topic, vec![0, 1, 2], 2).await;
    records.sort_by_key(|record| record.partition);
    assert_eq!(values(&records), ["first", "last"]);
    assert_eq!(records[1].offset, 0);
}

pub async fn made_again(log: Log) {
    let topic = log.topic(1).await;
    let group = unique("conformance");
    let first = log.id(&topic).await;
    log.produce(&topic, 0, (0..5).map(|at| at.to_string())).await;
    let commit = AlterConsumerGroupOffsetsOptions::default();
    let committed = [(at(&topic, 0), 4)];
    let done = log.admin().alter_consumer_group_offsets(&group, committed, commit).await.unwrap();
    done[&at(&topic, 0)].as_ref().unwrap();

    delete(&log, &topic).await.unwrap();
    eventually("the name is free", async || {
        create(&log, NewTopic::new(&topic, 1, 1).unwrap(), false).await.ok()
    })
    .await;
    let second = eventually("it has another id", async || {
        let id = uuid::Uuid::from_bytes(log.describe(&topic).await.ok()?.topic_id);
        (id != first && !id.is_nil()).then_some(id)
    })
    .await;
    let mut client = log.client();
    eventually("it begins at zero, under its own id", async || {
        let answer = client.call(13, &fetch(13, "", second, 0));
        let partition = &answer.responses[0].partitions[0];
        (partition.error_code == 0).then(|| assert_eq!(partition.high_watermark, 0))
    })
    .await;
    let answer = client.call(13, &fetch(13, "", first, 0));
    let error = answer.responses[0].partitions[0].error_code;
    assert_eq!(error, ResponseError::UnknownTopicId.code());
    let records = crate::client::batch(&["v"], None);
    let answer = client.call(13, &produce(13, "", first, records));
    let error = answer.responses[0].partition_responses[0].error_code;
    assert_eq!(error, ResponseError::UnknownTopicId.code());
    // What was committed was committed to the other topic.
    eventually("the offsets went with the topic", async || {
        let options = ListConsumerGroupOffsetsOptions::default().partitions(vec![at(&topic, 0)]);
        let found = log.admin().list_consumer_group_offsets(&group, options).await.unwrap();
        match found.get(&at(&topic, 0)) {
            Some(Ok(found)) if found.offset.is_some() => None,
            _ => Some(()),
        }
    })
    .await;
}

pub async fn pages(log: Log) {
    use kafka_protocol::messages::DescribeTopicPartitionsRequest;
    use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
    let topic = log.topic(5).await;
    let mut client = log.client();
    let asked = TopicRequest::default().with_name(crate::requests::topic(&topic));
    let mut request = DescribeTopicPartitionsRequest::default()
        .with_topics(vec![asked])
        .with_response_partition_limit(2);
    let mut pages = Vec::new();
    loop {
        let answer = client.call(0, &request);
        let described = &answer.topics[0];
        assert_eq!(described.error_code, 0);
        let indexes = described.partitions.iter().map(|partition| partition.partition_index);
        pages.push(indexes.collect::<Vec<i32>>());
        let Some(next) = answer.next_cursor else { break };
        request.cursor = Some(
            Cursor::default()
                .with_topic_name(next.topic_name)
                .with_partition_index(next.partition_index),
        );
    }
    assert_eq!(pages, [vec![0, 1], vec![2, 3], vec![4]]);
}
