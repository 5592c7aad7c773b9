//! One of every request, with something in each array.

use crate::client::{batch, frame};
use bytes::Bytes;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Request, StrBytes};
use uuid::Uuid;

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub fn topic(name: &str) -> TopicName {
    TopicName(text(name))
}

pub fn group(name: &str) -> GroupId {
    GroupId(text(name))
}

/// Called with each request in each version that this broker lists.
pub trait Each {
    fn each<Q: Request>(&mut self, version: i16, request: Q);
}

/// Collects the frames.
pub struct Frames(pub Vec<Vec<u8>>);

impl Each for Frames {
    fn each<Q: Request>(&mut self, version: i16, request: Q) {
        self.0.push(frame(version, 7, &request));
    }
}

pub fn produce(version: i16, name: &str, id: Uuid, records: Bytes) -> ProduceRequest {
    use produce_request::{PartitionProduceData, TopicProduceData};
    let data = PartitionProduceData::default().with_index(0).with_records(Some(records));
    let topic_data = TopicProduceData::default().with_partition_data(vec![data]);
    let topic_data = match version {
        13.. => topic_data.with_topic_id(id),
        _ => topic_data.with_name(topic(name)),
    };
    ProduceRequest::default().with_acks(-1).with_timeout_ms(1_000).with_topic_data(vec![topic_data])
}

pub fn fetch(version: i16, name: &str, id: Uuid, offset: i64) -> FetchRequest {
    use fetch_request::{FetchPartition, FetchTopic};
    let partition = FetchPartition::default()
        .with_partition(0)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20);
    let asked = FetchTopic::default().with_partitions(vec![partition]);
    let asked = match version {
        13.. => asked.with_topic_id(id),
        _ => asked.with_topic(topic(name)),
    };
    FetchRequest::default().with_min_bytes(1).with_max_bytes(1 << 20).with_topics(vec![asked])
}

/// `name` is a topic, `id` its id.
pub fn each(name: &str, id: Uuid, visit: &mut impl Each) {
    for version in 0..=4 {
        let request = ApiVersionsRequest::default();
        visit.each(
            version,
            match version {
                3.. => request
                    .with_client_software_name(text("test"))
                    .with_client_software_version(text("1")),
                _ => request,
            },
        );
    }
    for version in 0..=13 {
        let asked = metadata_request::MetadataRequestTopic::default().with_name(Some(topic(name)));
        visit.each(version, MetadataRequest::default().with_topics(Some(vec![asked])));
    }
    for version in 3..=13 {
        visit.each(version, produce(version, name, id, batch(&["a", "b"], None)));
    }
    for version in 4..=17 {
        visit.each(version, fetch(version, name, id, 0));
    }
    for version in 1..=10 {
        use list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
        let asked = [-1, -2, -3, 0, i64::MAX].map(|time| {
            ListOffsetsPartition::default().with_partition_index(0).with_timestamp(time)
        });
        let topics =
            ListOffsetsTopic::default().with_name(topic(name)).with_partitions(asked.into());
        visit.each(version, ListOffsetsRequest::default().with_topics(vec![topics]));
    }
    for version in 2..=9 {
        use offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(0)
            .with_committed_offset(1)
            .with_committed_metadata(Some(text("m")));
        let committed = OffsetCommitRequestTopic::default()
            .with_name(topic(name))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(group("alone"))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![committed]);
        visit.each(version, request);
    }
    for version in 1..=9 {
        use offset_fetch_request::{
            OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
        };
        let request = OffsetFetchRequest::default();
        visit.each(
            version,
            match version {
                8.. => request.with_groups(vec![
                    OffsetFetchRequestGroup::default().with_group_id(group("alone")).with_topics(
                        Some(vec![
                            OffsetFetchRequestTopics::default()
                                .with_name(topic(name))
                                .with_partition_indexes(vec![0, 9]),
                        ]),
                    ),
                    OffsetFetchRequestGroup::default()
                        .with_group_id(group("alone"))
                        .with_topics(None),
                ]),
                _ => request.with_group_id(group("alone")).with_topics(Some(vec![
                    OffsetFetchRequestTopic::default()
                        .with_name(topic(name))
                        .with_partition_indexes(vec![0, 9]),
                ])),
            },
        );
    }
    for version in 0..=6 {
        let request = FindCoordinatorRequest::default();
        visit.each(
            version,
            match version {
                4.. => request.with_coordinator_keys(vec![text("alone")]),
                _ => request.with_key(text("alone")),
            },
        );
    }
    for version in 0..=9 {
        use join_group_request::JoinGroupRequestProtocol;
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(Bytes::from_static(b"m"));
        let request = JoinGroupRequest::default()
            .with_group_id(group(&format!("joined-{version}")))
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(if version >= 1 { 10_000 } else { -1 })
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        visit.each(version, request);
    }
    for version in 0..=4 {
        visit.each(version, HeartbeatRequest::default().with_group_id(group("alone")));
    }
    for version in 0..=5 {
        let request = LeaveGroupRequest::default().with_group_id(group("alone"));
        let member = leave_group_request::MemberIdentity::default().with_member_id(text("nobody"));
        visit.each(
            version,
            match version {
                3.. => request.with_members(vec![member]),
                _ => request.with_member_id(text("nobody")),
            },
        );
    }
    for version in 0..=5 {
        let assignment =
            sync_group_request::SyncGroupRequestAssignment::default().with_member_id(text("x"));
        let request = SyncGroupRequest::default()
            .with_group_id(group("alone"))
            .with_assignments(vec![assignment]);
        visit.each(version, request);
    }
    for version in 0..=6 {
        let groups = vec![group("alone"), group("nobody")];
        visit.each(version, DescribeGroupsRequest::default().with_groups(groups));
    }
    for version in 0..=5 {
        let request = ListGroupsRequest::default();
        let request =
            if version >= 4 { request.with_states_filter(vec![text("Empty")]) } else { request };
        let request =
            if version >= 5 { request.with_types_filter(vec![text("classic")]) } else { request };
        visit.each(version, request);
    }
    for version in 0..=1 {
        visit.each(version, SaslHandshakeRequest::default().with_mechanism(text("PLAIN")));
    }
    for version in 0..=2 {
        visit.each(version, SaslAuthenticateRequest::default().with_auth_bytes("x".into()));
    }
    for version in 2..=7 {
        use create_topics_request::{
            CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
        };
        let config = CreatableTopicConfig::default()
            .with_name(text("retention.ms"))
            .with_value(Some(text("1000")));
        let assignment = CreatableReplicaAssignment::default().with_broker_ids(vec![BrokerId(1)]);
        let asked = |suffix: &str| {
            CreatableTopic::default()
                .with_name(topic(&format!("{name}-{version}{suffix}")))
                .with_replication_factor(1)
                .with_configs(vec![config.clone()])
        };
        let topics = vec![
            asked("a").with_num_partitions(2),
            asked("b")
                .with_num_partitions(-1)
                .with_replication_factor(-1)
                .with_assignments(vec![assignment]),
            asked("no/name").with_num_partitions(1),
        ];
        visit.each(version, CreateTopicsRequest::default().with_topics(topics));
    }
    for version in 0..=3 {
        use create_partitions_request::CreatePartitionsTopic;
        let asked = CreatePartitionsTopic::default()
            .with_name(topic(&format!("{name}-7a")))
            .with_count(3 + i32::from(version))
            .with_assignments(None);
        visit.each(version, CreatePartitionsRequest::default().with_topics(vec![asked]));
    }
    for version in 1..=4 {
        use describe_configs_request::DescribeConfigsResource;
        let of = |kind, name: &str| {
            DescribeConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(name))
                .with_configuration_keys(None)
        };
        let some = of(2, name).with_configuration_keys(Some(vec![text("retention.ms")]));
        let resources = vec![of(2, name), some, of(4, "1"), of(2, "nobody")];
        visit.each(version, DescribeConfigsRequest::default().with_resources(resources));
    }
    for version in 0..=1 {
        use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
        let config = AlterableConfig::default()
            .with_name(text("retention.bytes"))
            .with_value(Some(text("1000000")));
        let resource = AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(name))
            .with_configs(vec![config]);
        visit.each(
            version,
            IncrementalAlterConfigsRequest::default().with_resources(vec![resource]),
        );
    }
    for version in 0..=2 {
        use alter_configs_request::{AlterConfigsResource, AlterableConfig};
        let config =
            AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("-1")));
        let resource = AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(name))
            .with_configs(vec![config]);
        visit.each(version, AlterConfigsRequest::default().with_resources(vec![resource]));
    }
    for version in 0..=2 {
        use delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
        let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(1);
        let asked =
            DeleteRecordsTopic::default().with_name(topic(name)).with_partitions(vec![partition]);
        visit.each(version, DeleteRecordsRequest::default().with_topics(vec![asked]));
    }
    for version in 0..=5 {
        visit.each(version, InitProducerIdRequest::default().with_transactional_id(None));
    }
    for version in 2..=4 {
        use offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
        let partition = OffsetForLeaderPartition::default().with_partition(0).with_leader_epoch(0);
        let asked = OffsetForLeaderTopic::default()
            .with_topic(topic(name))
            .with_partitions(vec![partition]);
        visit.each(version, OffsetForLeaderEpochRequest::default().with_topics(vec![asked]));
    }
    transactions(name, visit);
    for version in 1..=3 {
        visit.each(version, DescribeAclsRequest::default());
        let creation = create_acls_request::AclCreation::default();
        visit.each(version, CreateAclsRequest::default().with_creations(vec![creation]));
        let filter = delete_acls_request::DeleteAclsFilter::default();
        visit.each(version, DeleteAclsRequest::default().with_filters(vec![filter]));
    }
    for version in 0..=2 {
        visit.each(version, DescribeClusterRequest::default());
    }
    for version in 0..=1 {
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group(&format!("modern-{version}")))
            .with_member_id(text("m"))
            .with_member_epoch(0)
            .with_rebalance_timeout_ms(10_000)
            .with_subscribed_topic_names(Some(vec![topic(name)]))
            .with_topic_partitions(Some(vec![
                consumer_group_heartbeat_request::TopicPartitions::default()
                    .with_topic_id(id)
                    .with_partitions(vec![0]),
            ]));
        visit.each(version, request);
        let groups = vec![group("modern-0"), group("nobody")];
        visit.each(version, ConsumerGroupDescribeRequest::default().with_group_ids(groups));
    }
    {
        use describe_topic_partitions_request::{Cursor, TopicRequest};
        let asked = TopicRequest::default().with_name(topic(name));
        let request = DescribeTopicPartitionsRequest::default()
            .with_topics(vec![asked])
            .with_response_partition_limit(2);
        visit.each(0, request.clone());
        let cursor = Cursor::default().with_topic_name(topic(name)).with_partition_index(1);
        visit.each(0, request.with_cursor(Some(cursor)));
    }
    {
        use offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
        let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
        let asked = OffsetDeleteRequestTopic::default()
            .with_name(topic(name))
            .with_partitions(vec![partition]);
        let request =
            OffsetDeleteRequest::default().with_group_id(group("alone")).with_topics(vec![asked]);
        visit.each(0, request);
    }
    for version in 0..=2 {
        let names = vec![group("alone"), group("nobody")];
        visit.each(version, DeleteGroupsRequest::default().with_groups_names(names));
    }
    for version in 1..=6 {
        let gone = format!("{name}-2{}", if version % 2 == 0 { "a" } else { "b" });
        let request = DeleteTopicsRequest::default();
        visit.each(
            version,
            match version {
                6.. => request.with_topics(vec![
                    delete_topics_request::DeleteTopicState::default()
                        .with_name(Some(topic(&gone))),
                ]),
                _ => request.with_topic_names(vec![topic(&gone)]),
            },
        );
    }
}

fn transactions(name: &str, visit: &mut impl Each) {
    let tx = || TransactionalId(text("tx"));
    for version in 0..=5 {
        use add_partitions_to_txn_request::{
            AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
        };
        let asked =
            AddPartitionsToTxnTopic::default().with_name(topic(name)).with_partitions(vec![0, 1]);
        let request = AddPartitionsToTxnRequest::default();
        visit.each(
            version,
            match version {
                4.. => request.with_transactions(vec![
                    AddPartitionsToTxnTransaction::default()
                        .with_transactional_id(tx())
                        .with_topics(vec![asked]),
                ]),
                _ => request
                    .with_v3_and_below_transactional_id(tx())
                    .with_v3_and_below_topics(vec![asked]),
            },
        );
    }
    for version in 0..=4 {
        let request = AddOffsetsToTxnRequest::default().with_transactional_id(tx());
        visit.each(version, request.with_group_id(group("alone")));
    }
    for version in 0..=5 {
        visit.each(version, EndTxnRequest::default().with_transactional_id(tx()));
    }
    for version in 0..=5 {
        use txn_offset_commit_request::{
            TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
        };
        let committed = TxnOffsetCommitRequestTopic::default()
            .with_name(topic(name))
            .with_partitions(vec![TxnOffsetCommitRequestPartition::default()]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(tx())
            .with_group_id(group("alone"))
            .with_topics(vec![committed]);
        visit.each(version, request);
    }
}
