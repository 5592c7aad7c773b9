//! A broker that is a script, for tests: one partition, whose log they append to and cut back.
//!
//! It does with epochs what Kafka does: refuses requests with another leader's epoch than its own, and
//! answers a fetch after an epoch that ends earlier in its log with that end.

use super::cluster::topic_name;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::fetch_response::{
    EpochEndOffset, FetchableTopicResponse, PartitionData,
};
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset as EpochEnd, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, DescribeConfigsResponse, FetchRequest, FetchResponse,
    FindCoordinatorResponse, HeartbeatResponse, ListOffsetsRequest, ListOffsetsResponse,
    MetadataResponse, OffsetFetchResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use millstream_log::{BatchBuilder, Codec};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

pub(super) const TOPIC: &str = "t";
const OUT_OF_RANGE: i16 = 1;
const FENCED_LEADER_EPOCH: i16 = 74;
const UNKNOWN_LEADER_EPOCH: i16 = 76;
/// What every heartbeat of a group is answered: the coordinator times out.
const GROUP_REFUSED: i16 = 7;
/// Records in a batch.
const BATCH: i64 = 10;

pub(super) fn topic_id() -> Uuid {
    Uuid::from_u128(7)
}

/// What the broker has.
pub(super) struct Script {
    /// The newest version of a fetch that it knows.
    pub fetch_version: i16,
    /// Whether it can be asked where an epoch ends.
    pub tells_epochs: bool,
    pub start: i64,
    /// The topic's settings, or the code of the error that is told instead.
    pub settings: Result<Vec<(&'static str, &'static str)>, i16>,
    /// Epochs, each with the offset after its last record.
    pub epochs: Vec<(i32, i64)>,
    /// The batch with this offset says that it is somewhere else.
    pub displaced: Option<i64>,
    /// What retention has taken by the time that somebody asks for the beginning.
    pub start_soon: i64,
    /// There is a second partition, led by whoever listens at this port.
    pub other: Option<u16>,
}

pub(super) struct Broker {
    pub address: String,
    script: Arc<Mutex<Script>>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            fetch_version: 16,
            tells_epochs: true,
            start: 0,
            settings: Ok(Vec::new()),
            epochs: Vec::new(),
            displaced: None,
            start_soon: 0,
            other: None,
        }
    }
}

impl Script {
    /// A leader of this epoch writes up to an offset.
    pub fn append(&mut self, epoch: i32, to: i64) {
        match self.epochs.last_mut() {
            Some((last, end)) if *last == epoch => *end = to,
            _ => self.epochs.push((epoch, to)),
        }
    }

    pub fn cut(&mut self, at: i64) {
        let mut from = 0;
        self.epochs.retain_mut(|(_, to)| {
            let keep = from < at;
            from = *to;
            *to = at.min(*to);
            keep
        });
    }

    pub fn end(&self) -> i64 {
        self.epochs.last().map_or(0, |(_, to)| *to)
    }

    fn leader_epoch(&self) -> i32 {
        self.epochs.last().map_or(0, |(epoch, _)| *epoch)
    }

    /// The newest epoch up to this one, and where it ends; -1 when the epoch is of the future.
    fn epoch_end(&self, epoch: i32) -> (i32, i64) {
        if epoch > self.leader_epoch() {
            return (-1, -1);
        }
        let known =
            self.epochs.iter().rev().find(|(known, to)| *known <= epoch && *to > self.start);
        *known.unwrap_or(&(epoch, self.start))
    }

    fn fenced(&self, told: i32) -> Option<i16> {
        match told {
            -1 => None,
            told if told < self.leader_epoch() => Some(FENCED_LEADER_EPOCH),
            told if told > self.leader_epoch() => Some(UNKNOWN_LEADER_EPOCH),
            _ => None,
        }
    }

    /// The batches from the one that holds an offset.
    fn batches(&self, offset: i64) -> Bytes {
        let mut bytes = Vec::new();
        let mut from = 0;
        for (epoch, to) in &self.epochs {
            while from < *to {
                let next = to.min(&(from + BATCH)).to_owned();
                if next > offset.max(self.start) {
                    let mut builder = BatchBuilder::new(Codec::None);
                    for _ in from..next {
                        builder.push(0, None, Some(format!("epoch {epoch}").as_bytes()), &[]);
                    }
                    let displaced = self.displaced.is_some_and(|at| (from..next).contains(&at));
                    let base = from + if displaced { 1 << 40 } else { 0 };
                    let mut batch = builder.finish().into_bytes_at(base);
                    batch[12..16].copy_from_slice(&epoch.to_be_bytes());
                    bytes.extend(batch);
                }
                from = next;
            }
        }
        bytes.into()
    }
}

impl Broker {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = Arc::new(Mutex::new(script));
        let serving = script.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, serving.clone(), port));
            }
        });
        Self { address: format!("127.0.0.1:{port}"), script }
    }

    pub fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock());
    }

    pub fn look<T>(&self, look: impl FnOnce(&Script) -> T) -> T {
        look(&self.script.lock())
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<Script>>, port: u16) {
    while let Ok(length) = stream.read_i32().await {
        let mut frame = vec![0; length as usize];
        if stream.read_exact(&mut frame).await.is_err() {
            return;
        }
        let mut frame = Bytes::from(frame);
        let (key, version) = ((&frame[..2]).get_i16(), (&frame[2..4]).get_i16());
        let api = ApiKey::try_from(key).unwrap();
        let header =
            RequestHeader::decode(&mut frame, api.request_header_version(version)).unwrap();
        let (body, quiet) = script.lock().answer(api, version, frame, port);
        // A fetch that finds nothing waits a little.
        tokio::time::sleep(Duration::from_millis(if quiet { 10 } else { 0 })).await;
        let mut answer = BytesMut::new();
        ResponseHeader::default()
            .with_correlation_id(header.correlation_id)
            .encode(&mut answer, api.response_header_version(version))
            .unwrap();
        answer.extend_from_slice(&body);
        let mut out = BytesMut::new();
        out.put_i32(answer.len() as i32);
        out.extend_from_slice(&answer);
        if stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

impl Script {
    fn answer(&self, api: ApiKey, version: i16, mut body: Bytes, port: u16) -> (BytesMut, bool) {
        match api {
            ApiKey::ApiVersions => (encoded(&self.versions(), version), false),
            ApiKey::Metadata => (encoded(&self.metadata(port), version), false),
            ApiKey::ListOffsets => {
                let request = ListOffsetsRequest::decode(&mut body, version).unwrap();
                let earliest = request.topics[0].partitions[0].timestamp == -2;
                let told = ListOffsetsPartitionResponse::default().with_offset(if earliest {
                    self.start.max(self.start_soon)
                } else {
                    self.end()
                });
                let topic = ListOffsetsTopicResponse::default()
                    .with_name(topic_name(TOPIC))
                    .with_partitions(vec![told]);
                let response = ListOffsetsResponse::default().with_topics(vec![topic]);
                (encoded(&response, version), false)
            }
            ApiKey::OffsetForLeaderEpoch => {
                let request = OffsetForLeaderEpochRequest::decode(&mut body, version).unwrap();
                let asked = &request.topics[0].partitions[0];
                let told = match self.fenced(asked.current_leader_epoch) {
                    Some(code) => EpochEnd::default().with_error_code(code),
                    None => {
                        let (epoch, end) = self.epoch_end(asked.leader_epoch);
                        EpochEnd::default().with_leader_epoch(epoch).with_end_offset(end)
                    }
                };
                let topic = OffsetForLeaderTopicResult::default()
                    .with_topic(topic_name(TOPIC))
                    .with_partitions(vec![told]);
                let response = OffsetForLeaderEpochResponse::default().with_topics(vec![topic]);
                (encoded(&response, version), false)
            }
            ApiKey::Fetch => {
                let request = FetchRequest::decode(&mut body, version).unwrap();
                let asked = &request.topics[0].partitions[0];
                let (offset, epoch) = (asked.fetch_offset, asked.last_fetched_epoch);
                let told = PartitionData::default()
                    .with_high_watermark(self.end())
                    .with_last_stable_offset(self.end());
                let (ended_epoch, ended) = self.epoch_end(epoch);
                let told = match self.fenced(asked.current_leader_epoch) {
                    Some(code) => told.with_error_code(code),
                    None if epoch >= 0 && ended < 0 => told.with_error_code(OUT_OF_RANGE),
                    None if epoch >= 0 && (ended_epoch < epoch || ended < offset) => told
                        .with_diverging_epoch(
                            EpochEndOffset::default()
                                .with_epoch(ended_epoch)
                                .with_end_offset(ended),
                        ),
                    None if !(self.start..=self.end()).contains(&offset) => {
                        told.with_error_code(OUT_OF_RANGE)
                    }
                    None => told.with_records(Some(self.batches(offset))),
                };
                let quiet = told.records.as_ref().is_some_and(Bytes::is_empty);
                let topic = FetchableTopicResponse::default()
                    .with_topic(topic_name(if version < 13 { TOPIC } else { "" }))
                    .with_topic_id(if version < 13 { Uuid::nil() } else { topic_id() })
                    .with_partitions(vec![told]);
                let response = FetchResponse::default().with_responses(vec![topic]);
                (encoded(&response, version), quiet)
            }
            ApiKey::DescribeConfigs => {
                let mut result = DescribeConfigsResult::default();
                match &self.settings {
                    Ok(settings) => {
                        result.configs = settings
                            .iter()
                            .map(|(name, value)| {
                                DescribeConfigsResourceResult::default()
                                    .with_name(StrBytes::from_static_str(name))
                                    .with_value(Some(StrBytes::from_static_str(value)))
                            })
                            .collect();
                    }
                    Err(code) => result.error_code = *code,
                }
                let response = DescribeConfigsResponse::default().with_results(vec![result]);
                (encoded(&response, version), false)
            }
            ApiKey::FindCoordinator => {
                let found = Coordinator::default()
                    .with_node_id(1.into())
                    .with_host(StrBytes::from_static_str("127.0.0.1"))
                    .with_port(i32::from(port));
                let response = FindCoordinatorResponse::default().with_coordinators(vec![found]);
                (encoded(&response, version), false)
            }
            // Nobody has committed anything.
            ApiKey::OffsetFetch => {
                let group = OffsetFetchResponseGroup::default();
                let response = OffsetFetchResponse::default().with_groups(vec![group]);
                (encoded(&response, version), false)
            }
            ApiKey::Heartbeat => {
                let response = HeartbeatResponse::default().with_error_code(GROUP_REFUSED);
                (encoded(&response, version), false)
            }
            other => panic!("nobody asks a script for {other:?}"),
        }
    }

    fn versions(&self) -> ApiVersionsResponse {
        let mut known = vec![
            (ApiKey::ApiVersions, 3),
            (ApiKey::Metadata, 12),
            (ApiKey::ListOffsets, 7),
            (ApiKey::DescribeConfigs, 4),
            (ApiKey::FindCoordinator, 4),
            (ApiKey::OffsetFetch, 8),
            (ApiKey::Heartbeat, 4),
            (ApiKey::Fetch, self.fetch_version),
        ];
        if self.tells_epochs {
            known.push((ApiKey::OffsetForLeaderEpoch, 4));
        }
        let keys = known.into_iter().map(|(key, max)| {
            ApiVersion::default().with_api_key(key as i16).with_min_version(0).with_max_version(max)
        });
        ApiVersionsResponse::default().with_api_keys(keys.collect())
    }

    fn metadata(&self, port: u16) -> MetadataResponse {
        let nodes = [Some(port), self.other].into_iter().flatten().zip(1..);
        let brokers = nodes.clone().map(|(port, node)| {
            MetadataResponseBroker::default()
                .with_node_id(node.into())
                .with_host(StrBytes::from_static_str("127.0.0.1"))
                .with_port(i32::from(port))
        });
        let partitions = nodes.map(|(_, node)| {
            MetadataResponsePartition::default()
                .with_partition_index(node - 1)
                .with_leader_id(node.into())
                .with_leader_epoch(self.leader_epoch())
        });
        let topic = MetadataResponseTopic::default()
            .with_name(Some(topic_name(TOPIC)))
            .with_topic_id(topic_id())
            .with_partitions(partitions.collect());
        MetadataResponse::default().with_brokers(brokers.collect()).with_topics(vec![topic])
    }
}

fn encoded(message: &impl Encodable, version: i16) -> BytesMut {
    let mut bytes = BytesMut::new();
    message.encode(&mut bytes, version).unwrap();
    bytes
}
