//! Partitions of the embedded log into a topic of a cluster, batch by batch as they are on disk, so
//! that records keep their order and their distance: an empty partition gives them the offsets that
//! they have.

use super::cluster::{Cluster, EARLIEST, LATEST, topic_name};
use super::error::answered;
use super::letters::{KafkaTopic, KafkaWriter};
use futures::StreamExt;
use futures::future::BoxFuture;
use kafka_protocol::messages::CreateTopicsRequest;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::protocol::StrBytes;
use millstream_core::{Error, Result};
use millstream_log::codec::Header;
use millstream_log::{BatchBuilder, EncodedBatch, PartitionLog, Raw, Reader};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Read of a partition at a time.
const READ_BYTES: usize = 1 << 20;
/// Reads of one partition that are on their way, and partitions that are copied at the same time.
const IN_FLIGHT_MAX: usize = 3;
const PARTITIONS_AT_ONCE: usize = 8;
/// How long a topic that was just made may have no leader.
const LEADERS_WITHIN: Duration = Duration::from_secs(60);
/// A record's own fields and those of its batch, beside key, value and headers.
const AROUND_A_RECORD: usize = 128;

/// A topic as the brokers have it.
#[derive(Debug, Clone)]
pub struct TopicState {
    /// Nil where the brokers are too old to have ids.
    pub id: Uuid,
    /// The first offset and the one after the last record, by partition.
    pub partitions: Vec<(i64, i64)>,
}

/// What is to be copied of a partition: its records from `from` up to `upto`.
#[derive(Clone)]
pub struct Span {
    pub log: PartitionLog,
    pub from: i64,
    pub upto: i64,
}

impl Cluster {
    /// A topic and where its partitions begin and end; `None` where there is none.
    pub async fn topic_state(&self, name: &str) -> Result<Option<TopicState>> {
        let name: Arc<str> = name.into();
        let found = self.refresh(Some(std::slice::from_ref(&name))).await?;
        let Some(topic) = found.get(&name).filter(|topic| !topic.partitions.is_empty()) else {
            return Ok(None);
        };
        let mut partitions = Vec::new();
        for index in 0..topic.partitions.len() as i32 {
            let at = |time| self.offset_at(&name, index, time, false);
            partitions.push((at(EARLIEST).await?.unwrap_or(0), at(LATEST).await?.unwrap_or(0)));
        }
        Ok(Some(TopicState { id: topic.id, partitions }))
    }

    /// Makes a topic and waits until each of its partitions has a leader. Without `replicas` there
    /// are as many as the cluster makes by default.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: u32,
        replicas: Option<u16>,
        settings: &[(&str, String)],
    ) -> Result<TopicState> {
        let doing = format!("making topic `{name}`");
        let configs = settings.iter().map(|(name, value)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_string((*name).to_owned()))
                .with_value(Some(StrBytes::from_string(value.clone())))
        });
        let request = CreateTopicsRequest::default()
            .with_timeout_ms(self.timeout().as_millis() as i32)
            .with_topics(vec![
                CreatableTopic::default()
                    .with_name(topic_name(name))
                    .with_num_partitions(partitions as i32)
                    .with_replication_factor(replicas.map_or(-1, |replicas| replicas as i16))
                    .with_configs(configs.collect()),
            ]);
        let response = self.ask(&request, 7).await?;
        if let Some(refused) = response.topics.iter().find(|topic| topic.error_code != 0) {
            let said = refused.error_message.as_ref().map(|said| said.as_str().to_owned());
            let error = answered(&doing, refused.error_code);
            return Err(match said {
                Some(said) => {
                    Error::new(error.disposition(), "broker", format!("{error} ({said})"))
                }
                None => error,
            });
        }
        let deadline = tokio::time::Instant::now() + LEADERS_WITHIN;
        loop {
            let last = match self.topic_state(name).await {
                Ok(Some(topic)) if topic.partitions.len() == partitions as usize => {
                    return Ok(topic);
                }
                Ok(_) => None,
                Err(error) => Some(error),
            };
            if tokio::time::Instant::now() > deadline {
                let error = Error::retry("no_leader", format!("{doing}: nobody leads it yet"));
                return Err(match last {
                    Some(last) => error.because(last),
                    None => error,
                });
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Copies each span to the partition of the same number. `copied` is told of records as they are
/// durable there.
pub async fn copy(
    cluster: Cluster,
    topic: &str,
    spans: Vec<Span>,
    copied: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let to = KafkaTopic::open(cluster, topic).await?;
    let (writer, bytes_max) = (to.writer(), to.bytes_max());
    let copies = spans.into_iter().map(|span| copy_span(&writer, bytes_max, span, copied));
    let mut copies = futures::stream::iter(copies).buffer_unordered(PARTITIONS_AT_ONCE);
    while let Some(done) = copies.next().await {
        done?;
    }
    Ok(())
}

async fn copy_span(
    writer: &KafkaWriter,
    bytes_max: usize,
    span: Span,
    copied: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let Span { log, mut from, upto } = span;
    let mut under_way: VecDeque<(u64, BoxFuture<'static, Result<()>>)> = VecDeque::new();
    while from < upto {
        let reading = log.clone();
        let read = move || next_batches(&reading, from, bytes_max);
        let read = tokio::task::spawn_blocking(read).await;
        let (batches, next) = read.map_err(|error| failed(&log, from, error))??;
        let records = batches.iter().map(|batch| batch.len() as u64).sum();
        under_way.push_back((records, writer.append(log.index(), batches)));
        from = next;
        if under_way.len() >= IN_FLIGHT_MAX
            && let Some((records, acknowledged)) = under_way.pop_front()
        {
            acknowledged.await?;
            copied(records);
        }
    }
    for (records, acknowledged) in under_way {
        acknowledged.await?;
        copied(records);
    }
    Ok(())
}

/// Some batches from an offset on, none larger than the topic takes, and the offset after them.
fn next_batches(
    log: &PartitionLog,
    from: i64,
    bytes_max: usize,
) -> Result<(Vec<EncodedBatch>, i64)> {
    let read = |bytes| log.read_raw(from, bytes).map_err(|error| failed(log, from, error));
    let raw = match read(READ_BYTES)? {
        Raw::Larger(bytes) => read(bytes)?,
        raw => raw,
    };
    let Raw::Batches { bytes: raw, .. } = raw else {
        return Err(failed(log, from, "the partition ends before its end"));
    };
    let (mut batches, mut next, mut rest) = (Vec::new(), from, &raw[..]);
    while !rest.is_empty() {
        let header = Header::read(rest).map_err(|error| failed(log, next, error))?;
        let (batch, tail) = rest.split_at(header.bytes.min(rest.len()));
        rest = tail;
        // One that does not fit, or of which a part is there already, is packed anew.
        if header.bytes > bytes_max || header.base_offset < next {
            batches.extend(repack(log, &header, next, bytes_max)?);
        } else {
            let batch = EncodedBatch::parse(batch.to_vec());
            batches.push(batch.map_err(|error| failed(log, next, error))?);
        }
        next = header.next_offset();
    }
    match next > from {
        true => Ok((batches, next)),
        false => Err(failed(log, from, "the partition ends before its end")),
    }
}

/// The records of a batch from an offset on, in batches that fit.
fn repack(
    log: &PartitionLog,
    header: &Header,
    from: i64,
    bytes_max: usize,
) -> Result<Vec<EncodedBatch>> {
    let codec = header.codec().map_err(|error| failed(log, from, error))?;
    let mut builder = BatchBuilder::new(codec);
    let mut batches = Vec::new();
    let mut finish = |builder: &mut BatchBuilder, offset: i64| {
        let batch = builder.finish();
        let bytes = batch.as_bytes().len();
        if bytes > bytes_max {
            return Err(Error::stop(
                "too_large",
                format!(
                    "the record at offset {offset} of {}/{} takes {bytes} bytes and the topic takes \
                     {bytes_max}: raise its `max.message.bytes` and begin again",
                    log.topic(),
                    log.index()
                ),
            ));
        }
        batches.push(batch);
        Ok(())
    };
    let end = header.next_offset();
    let mut reader = Reader::new(log, from, 1).map_err(|error| failed(log, from, error))?;
    while reader.offset() < end {
        let records = reader.try_next().map_err(|error| failed(log, from, error))?;
        let Some(records) = records else { break };
        for record in records.iter().take_while(|record| record.offset < end) {
            let lengths = [record.key, record.value].map(|part| part.map_or(0, <[u8]>::len));
            let bytes = lengths[0] + lengths[1] + record.headers.0.len() + AROUND_A_RECORD;
            if !builder.is_empty() && builder.bytes() + bytes > bytes_max {
                finish(&mut builder, record.offset - 1)?;
            }
            builder.push(record.timestamp, record.key, record.value, record.headers.0);
        }
    }
    if !builder.is_empty() {
        finish(&mut builder, end - 1)?;
    }
    Ok(batches)
}

fn failed(log: &PartitionLog, offset: i64, error: impl std::fmt::Display) -> Error {
    let (topic, partition) = (log.topic(), log.index());
    Error::stop("copy", format!("reading {topic}/{partition} from offset {offset}: {error}"))
}
