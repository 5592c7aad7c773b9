//! A blocking client of Kafka that is not ours, to look at a cluster while it fails: what is in a
//! topic, what a group has committed, who leads and who controls.
//!
//! Each question is a connection of its own with a short patience, so that a broker that stands
//! still costs a moment, not the test.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{
    DescribeQuorumRequest, FetchRequest, FindCoordinatorRequest, MetadataRequest,
    OffsetFetchRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use kafka_protocol::records::{Compression, RecordBatchDecoder};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long one question may take, unless somebody is patient.
const PATIENCE: Duration = Duration::from_millis(1_500);
const PATIENCE_LONG: Duration = Duration::from_secs(30);
const FETCH_BYTES: i32 = 8 << 20;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    brokers: Vec<SocketAddr>,
    patience: Duration,
}

/// A topic as a broker sees it, by partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub id: [u8; 16],
    /// -1 where nobody leads.
    pub leaders: Vec<i32>,
    pub replicas: Vec<Vec<i32>>,
    pub in_sync: Vec<Vec<i32>>,
}

/// A record as it is in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub offset: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Bytes)>,
}

impl Client {
    pub fn new(brokers: Vec<SocketAddr>) -> Self {
        Self { brokers, patience: PATIENCE }
    }

    /// For brokers that never stand still: what is asked is asked once, however busy they are.
    pub fn patiently(self) -> Self {
        Self { patience: PATIENCE_LONG, ..self }
    }

    /// What the first broker that answers says.
    pub fn ask<R: Request>(&self, request: &R, version: i16) -> io::Result<R::Response> {
        let mut last = io::Error::other("no brokers");
        for broker in &self.brokers {
            match self.exchange(*broker, request, version) {
                Ok(response) => return Ok(response),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A topic, with the address of each broker. An error while it is not there.
    pub fn topic(&self, name: &str) -> io::Result<(Seen, BTreeMap<i32, SocketAddr>)> {
        let wanted = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = MetadataRequest::default()
            .with_topics(Some(vec![wanted]))
            .with_allow_auto_topic_creation(false);
        let response = self.ask(&request, 12)?;
        let mut brokers = BTreeMap::new();
        for broker in &response.brokers {
            let address = format!("{}:{}", broker.host.as_str(), broker.port);
            brokers.insert(broker.node_id.0, address.parse().map_err(io::Error::other)?);
        }
        let mut topics = response.topics.into_iter();
        let Some(topic) = topics.next().filter(|topic| matches!(topic.error_code, 0 | 5)) else {
            return Err(io::Error::other(format!("there is no topic {name} now")));
        };
        let mut partitions = topic.partitions;
        partitions.sort_by_key(|partition| partition.partition_index);
        let ids = |of: &[kafka_protocol::messages::BrokerId]| of.iter().map(|id| id.0).collect();
        let seen = Seen {
            id: *topic.topic_id.as_bytes(),
            leaders: partitions.iter().map(|p| p.leader_id.0).collect(),
            replicas: partitions.iter().map(|p| ids(&p.replica_nodes)).collect(),
            in_sync: partitions.iter().map(|p| ids(&p.isr_nodes)).collect(),
        };
        Ok((seen, brokers))
    }

    /// The controller that is active now.
    pub fn controller(&self) -> io::Result<i32> {
        let partitions = vec![PartitionData::default()];
        let topic = TopicData::default()
            .with_topic_name(topic_name("__cluster_metadata"))
            .with_partitions(partitions);
        let response = self.ask(&DescribeQuorumRequest::default().with_topics(vec![topic]), 1)?;
        let told = response.topics.first().and_then(|topic| topic.partitions.first());
        match told {
            Some(told) if told.error_code == 0 && told.leader_id.0 >= 0 => Ok(told.leader_id.0),
            _ => Err(io::Error::other("nobody is the controller now")),
        }
    }

    /// The committed offsets of a group, by partition; those without one are left out.
    pub fn committed(&self, group: &str, topic: &str) -> io::Result<BTreeMap<i32, i64>> {
        let (seen, brokers) = self.topic(topic)?;
        let key = StrBytes::from_string(group.to_owned());
        let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![key.clone()]);
        let found = self.ask(&request, 4)?;
        let coordinator = found.coordinators.first().filter(|found| found.error_code == 0);
        let node = coordinator.map(|found| found.node_id.0);
        let address = node.and_then(|node| brokers.get(&node));
        let address = address.ok_or_else(|| io::Error::other("no coordinator now"))?;
        let topics = OffsetFetchRequestTopics::default()
            .with_name(topic_name(topic))
            .with_partition_indexes((0..seen.leaders.len() as i32).collect());
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(key.into())
            .with_topics(Some(vec![topics]));
        let request = OffsetFetchRequest::default().with_groups(vec![group]);
        let response = self.exchange(*address, &request, 8)?;
        let told = response.groups.first().filter(|told| told.error_code == 0);
        let told = told.ok_or_else(|| io::Error::other("the coordinator does not know now"))?;
        let mut offsets = BTreeMap::new();
        for partition in told.topics.iter().flat_map(|topic| &topic.partitions) {
            if partition.error_code != 0 {
                return Err(io::Error::other("the coordinator does not know now"));
            }
            if partition.committed_offset >= 0 {
                offsets.insert(partition.partition_index, partition.committed_offset);
            }
        }
        Ok(offsets)
    }

    /// What a partition holds from an offset on, as far as a reader may see.
    pub fn read(&self, topic: &str, partition: i32, from: i64) -> io::Result<Vec<Stored>> {
        let (seen, brokers) = self.topic(topic)?;
        let leader = seen.leaders.get(partition as usize).and_then(|leader| brokers.get(leader));
        let leader = leader.ok_or_else(|| io::Error::other("nobody leads the partition now"))?;
        let (mut found, mut from) = (Vec::new(), from);
        loop {
            let wanted = FetchPartition::default()
                .with_partition(partition)
                .with_fetch_offset(from)
                .with_partition_max_bytes(FETCH_BYTES);
            let request = FetchRequest::default()
                .with_replica_id((-1).into())
                .with_max_bytes(FETCH_BYTES)
                .with_session_epoch(-1)
                .with_topics(vec![
                    FetchTopic::default()
                        .with_topic(topic_name(topic))
                        .with_partitions(vec![wanted]),
                ]);
            let response = self.exchange(*leader, &request, 11)?;
            let mut told = response.responses.into_iter().flat_map(|topic| topic.partitions);
            let told = told.next().filter(|told| told.error_code == 0);
            let told = told.ok_or_else(|| io::Error::other("the leader does not answer this"))?;
            let part = stored(told.records.unwrap_or_default())?;
            let new: Vec<_> = part.into_iter().filter(|record| record.offset >= from).collect();
            let Some(last) = new.last() else { return Ok(found) };
            from = last.offset + 1;
            found.extend(new);
        }
    }

    pub(super) fn at(&self, node: i32, topic: &str) -> io::Result<SocketAddr> {
        let (_, brokers) = self.topic(topic)?;
        brokers.get(&node).copied().ok_or_else(|| io::Error::other(format!("{node} is away")))
    }

    pub(super) fn exchange<R: Request>(
        &self,
        broker: SocketAddr,
        request: &R,
        version: i16,
    ) -> io::Result<R::Response> {
        let mut stream = TcpStream::connect_timeout(&broker, self.patience)?;
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_write_timeout(Some(self.patience))?;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_client_id(Some(StrBytes::from_static_str("testkit")));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        header.encode(&mut frame, R::header_version(version)).map_err(io::Error::other)?;
        request.encode(&mut frame, version).map_err(io::Error::other)?;
        let length = frame.len() as u32 - 4;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        stream.write_all(&frame)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut answer)?;
        let mut answer = Bytes::from(answer);
        ResponseHeader::decode(&mut answer, R::Response::header_version(version))
            .map_err(io::Error::other)?;
        R::Response::decode(&mut answer, version).map_err(io::Error::other)
    }
}

pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// The records of whole batches; a last one that was cut off is left out.
fn stored(mut batches: Bytes) -> io::Result<Vec<Stored>> {
    let mut found = Vec::new();
    while batches.len() >= 12 {
        let length = 12 + (&batches[8..12]).get_u32() as usize;
        if batches.len() < length {
            break;
        }
        let mut batch = batches.split_to(length);
        let set = RecordBatchDecoder::decode_with_custom_compression(&mut batch, Some(unpack));
        let records = set.map_err(io::Error::other)?.records;
        found.extend(records.into_iter().filter(|record| !record.control).map(|record| {
            Stored {
                offset: record.offset,
                key: record.key,
                value: record.value,
                headers: record
                    .headers
                    .into_iter()
                    .map(|(name, value)| (name.as_str().to_owned(), value.unwrap_or_default()))
                    .collect(),
            }
        }));
    }
    Ok(found)
}

fn unpack(packed: &mut Bytes, codec: Compression) -> anyhow::Result<Bytes> {
    let mut bytes = Vec::new();
    match codec {
        Compression::None => return Ok(packed.clone()),
        Compression::Lz4 => {
            lz4_flex::frame::FrameDecoder::new(packed.reader()).read_to_end(&mut bytes)?;
        }
        other => anyhow::bail!("{other:?} is not read here"),
    }
    Ok(bytes.into())
}
