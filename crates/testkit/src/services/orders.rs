//! What a test does to a cluster that it has to itself, or to a topic of its own on a shared one.

use super::client::{Client, topic_name};
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, CreateAclsRequest, CreateTopicsRequest, DeleteAclsRequest,
    ElectLeadersRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest, ProduceRequest,
};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long an order may take to be followed, failures of the cluster included.
const PATIENCE: Duration = Duration::from_secs(180);
const TIMEOUT_MS: i32 = 10_000;
const DUPLICATE_SEQUENCE: i16 = 46;

/// The numbers of the protocol for what rights are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum Right {
    Read = 3,
    Write = 4,
}

impl Client {
    /// A topic whose partitions are on these brokers, the preferred leader first.
    pub fn create_on(&self, topic: &str, replicas: &[&[i32]], config: &[(&str, &str)]) {
        let assignments = replicas.iter().enumerate().map(|(index, nodes)| {
            CreatableReplicaAssignment::default()
                .with_partition_index(index as i32)
                .with_broker_ids(nodes.iter().map(|node| (*node).into()).collect())
        });
        let configs = config.iter().map(|(name, value)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        });
        let creatable = CreatableTopic::default()
            .with_name(topic_name(topic))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_assignments(assignments.collect())
            .with_configs(configs.collect());
        let request =
            CreateTopicsRequest::default().with_timeout_ms(TIMEOUT_MS).with_topics(vec![creatable]);
        until(&format!("{topic} is made"), || {
            let response = self.ask(&request, 5)?;
            match response.topics.first().map(|topic| topic.error_code) {
                // It may have been made by an answer that was lost.
                Some(0 | 36) => Ok(()),
                code => Err(io::Error::other(format!("{code:?}"))),
            }
        });
        until(&format!("{topic} is led"), || {
            let (seen, _) = self.topic(topic)?;
            match seen.leaders.len() == replicas.len() && seen.leaders.iter().all(|l| *l >= 0) {
                true => Ok(()),
                false => Err(io::Error::other(format!("{seen:?}"))),
            }
        });
    }

    /// Sets a topic's setting, or takes it back.
    pub fn configure(&self, topic: &str, name: &str, value: Option<&str>) {
        let config = AlterableConfig::default()
            .with_name(text(name))
            .with_config_operation(i8::from(value.is_none()))
            .with_value(value.map(text));
        let resource = AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(topic))
            .with_configs(vec![config]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        until(&format!("{topic} has {name}"), || {
            let response = self.ask(&request, 1)?;
            match response.responses.first().map(|told| told.error_code) {
                Some(0) => Ok(()),
                code => Err(io::Error::other(format!("{code:?}"))),
            }
        });
    }

    /// Makes the preferred replica of each partition its leader.
    pub fn elect_preferred(&self, topic: &str) {
        let (seen, _) = until(&format!("{topic} is seen"), || self.topic(topic));
        let wanted = TopicPartitions::default()
            .with_topic(topic_name(topic))
            .with_partitions((0..seen.leaders.len() as i32).collect());
        let request = ElectLeadersRequest::default()
            .with_timeout_ms(TIMEOUT_MS)
            .with_topic_partitions(Some(vec![wanted]));
        until(&format!("{topic} is led by the preferred"), || {
            self.ask(&request, 2)?;
            let (seen, _) = self.topic(topic)?;
            match seen.leaders.iter().zip(&seen.replicas).all(|(leader, all)| *leader == all[0]) {
                true => Ok(()),
                false => Err(io::Error::other(format!("{seen:?}"))),
            }
        });
    }

    /// Puts each partition on other brokers, and waits until it is there.
    pub fn reassign(&self, topic: &str, replicas: &[Vec<i32>]) {
        let partitions = replicas.iter().enumerate().map(|(index, nodes)| {
            ReassignablePartition::default()
                .with_partition_index(index as i32)
                .with_replicas(Some(nodes.iter().map(|node| (*node).into()).collect()))
        });
        let wanted = ReassignableTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(partitions.collect());
        let request = AlterPartitionReassignmentsRequest::default()
            .with_timeout_ms(TIMEOUT_MS)
            .with_topics(vec![wanted]);
        until(&format!("{topic} is to move"), || self.ask(&request, 0));
        until(&format!("{topic} has moved"), || {
            let (seen, _) = self.topic(topic)?;
            match seen.replicas == replicas {
                true => Ok(()),
                false => Err(io::Error::other(format!("{seen:?}"))),
            }
        });
    }

    /// Denies a user something on a topic, or takes that back.
    pub fn deny(&self, user: &str, right: Right, topic: &str, denied: bool) {
        let (principal, host) = (text(&format!("User:{user}")), text("*"));
        until(&format!("{user} may or may not {right:?} {topic}"), || {
            let codes: Vec<i16> = match denied {
                true => {
                    let creation = AclCreation::default()
                        .with_resource_type(2)
                        .with_resource_name(text(topic))
                        .with_resource_pattern_type(3)
                        .with_principal(principal.clone())
                        .with_host(host.clone())
                        .with_operation(right as i8)
                        .with_permission_type(2);
                    let request = CreateAclsRequest::default().with_creations(vec![creation]);
                    self.ask(&request, 2)?.results.iter().map(|told| told.error_code).collect()
                }
                false => {
                    let filter = DeleteAclsFilter::default()
                        .with_resource_type_filter(2)
                        .with_resource_name_filter(Some(text(topic)))
                        .with_pattern_type_filter(3)
                        .with_principal_filter(Some(principal.clone()))
                        .with_host_filter(Some(host.clone()))
                        .with_operation(right as i8)
                        .with_permission_type(2);
                    let request = DeleteAclsRequest::default().with_filters(vec![filter]);
                    self.ask(&request, 2)?.filter_results.iter().map(|t| t.error_code).collect()
                }
            };
            match codes.iter().all(|code| *code == 0) {
                true => Ok(()),
                false => Err(io::Error::other(format!("{codes:?}"))),
            }
        });
    }

    /// Somebody who writes, each record once whatever happens meanwhile.
    pub fn feeder(&self) -> Feeder {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(TIMEOUT_MS)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let told = until("a producer has an id", || {
            let told = self.ask(&request, 4)?;
            match told.error_code {
                0 => Ok(told),
                code => Err(io::Error::other(format!("{code}"))),
            }
        });
        Feeder {
            client: self.clone(),
            id: told.producer_id.0,
            epoch: told.producer_epoch,
            sequences: BTreeMap::new(),
        }
    }
}

/// Writes with sequence numbers of its own, and waits for all in-sync replicas.
pub struct Feeder {
    client: Client,
    id: i64,
    epoch: i16,
    sequences: BTreeMap<(String, i32), i32>,
}

impl Feeder {
    /// Writes keys and values; waits as long as it takes, within reason.
    pub fn feed(&mut self, topic: &str, partition: i32, records: &[(String, Vec<u8>)]) {
        if records.is_empty() {
            return;
        }
        let sequence = self.sequences.entry((topic.to_owned(), partition)).or_insert(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let records: Vec<Record> = (0..)
            .zip(records)
            .map(|(at, (key, value))| Record {
                transactional: false,
                control: false,
                delete_horizon: false,
                partition_leader_epoch: -1,
                producer_id: self.id,
                producer_epoch: self.epoch,
                timestamp_type: TimestampType::Creation,
                offset: at,
                sequence: *sequence + at as i32,
                timestamp: now as i64,
                key: Some(key.clone().into()),
                value: Some(value.clone().into()),
                headers: Default::default(),
            })
            .collect();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        let mut batch = bytes::BytesMut::new();
        RecordBatchEncoder::encode(&mut batch, &records, &options).expect("records that fit");
        let data = PartitionProduceData::default()
            .with_index(partition)
            .with_records(Some(batch.freeze()));
        let data = TopicProduceData::default()
            .with_name(topic_name(topic))
            .with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_transactional_id(None)
            .with_acks(-1)
            .with_timeout_ms(1_000)
            .with_topic_data(vec![data]);
        until(&format!("{topic}/{partition} takes records"), || {
            let (seen, _) = self.client.topic(topic)?;
            let leader = *seen.leaders.get(partition as usize).unwrap_or(&-1);
            let response = self.client.exchange(self.client.at(leader, topic)?, &request, 9)?;
            let told = response.responses.first().and_then(|t| t.partition_responses.first());
            match told.map(|told| told.error_code) {
                Some(0 | DUPLICATE_SEQUENCE) => Ok(()),
                code => Err(io::Error::other(format!("{code:?}"))),
            }
        });
        *sequence += records.len() as i32;
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn until<T>(what: &str, mut done: impl FnMut() -> io::Result<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match done() {
            Ok(done) => return done,
            Err(error) if Instant::now() > deadline => panic!("{what}: {error}"),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}
