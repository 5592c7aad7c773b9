//! Batches from the log to consumers, as they are.
//!
//! The answer is written here and not by the library, so that the batches are pieces of the frame
//! instead of a copy in it. Sessions are optional in the protocol: the answer's session id is always
//! 0, and clients name all their partitions each time.

use crate::broker::{EPOCH, Inner};
use crate::connection::share;
use crate::dispatch::{Answered, Pending};
use crate::error::code;
use crate::wire::{Answer, Refused, Request};
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::select_all;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::fetch_request::FetchPartition;
use millstream_log::PartitionLog;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Duration, Instant, sleep_until, timeout_at};
use uuid::Uuid;

/// Not asked again more often than this while an answer is too small to be sent.
const PAUSE: Duration = Duration::from_millis(1);

struct Wanted {
    topics: Vec<WantedTopic>,
    min_bytes: usize,
    max_bytes: usize,
    until: Instant,
}

struct WantedTopic {
    name: TopicName,
    id: Uuid,
    partitions: Vec<WantedPartition>,
}

struct WantedPartition {
    index: i32,
    offset: i64,
    max_bytes: usize,
    log: Result<PartitionLog, ResponseError>,
}

/// What a partition gives.
#[derive(Default, Clone)]
struct Given {
    error: i16,
    high_watermark: i64,
    start: i64,
    records: Bytes,
}

pub fn begin(broker: Arc<Inner>, request: Request) -> Result<Pending, Refused> {
    let decoded: FetchRequest = request.decode()?;
    Ok(Pending::later(async move {
        // A session that this broker did not give.
        if decoded.session_id != 0 && request.version >= 7 {
            let error = ResponseError::FetchSessionIdNotFound.code();
            let answer = encode(&request, error, &[], Vec::new());
            return Answered::with(answer, vec![error]);
        }
        let wanted = wanted(&broker, decoded);
        let (given, permit) = wait(&broker, &wanted).await;
        given.iter().for_each(|given| broker.counters.fetched(&given.records));
        let errors = given.iter().map(|given| given.error).filter(|error| *error != 0);
        let failures = errors.collect();
        let answer = encode(&request, 0, &wanted.topics, given);
        Answered { permit, ..Answered::with(answer, failures) }
    }))
}

fn wanted(broker: &Inner, request: FetchRequest) -> Wanted {
    let bytes = |bytes: i32| usize::try_from(bytes).unwrap_or(0);
    let max_bytes = bytes(request.max_bytes).min(broker.options.limits.fetch_bytes);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let topics = request.topics.into_iter().map(|wanted| {
        let topic = broker.topic(&wanted.topic, wanted.topic_id);
        let unknown = match wanted.topic_id.is_nil() {
            true => ResponseError::UnknownTopicOrPartition,
            false => ResponseError::UnknownTopicId,
        };
        let partitions = wanted.partitions.into_iter().map(|partition: FetchPartition| {
            let log = match &topic {
                None => Err(unknown),
                Some(topic) => u32::try_from(partition.partition)
                    .ok()
                    .and_then(|index| topic.partition(index))
                    .ok_or(ResponseError::UnknownTopicOrPartition),
            };
            WantedPartition {
                index: partition.partition,
                offset: partition.fetch_offset,
                max_bytes: bytes(partition.partition_max_bytes),
                log: log.and_then(|log| match partition.current_leader_epoch {
                    epoch if epoch > EPOCH => Err(ResponseError::UnknownLeaderEpoch),
                    _ => Ok(log),
                }),
            }
        });
        WantedTopic { name: wanted.topic, id: wanted.topic_id, partitions: partitions.collect() }
    });
    Wanted {
        topics: topics.collect(),
        min_bytes: bytes(request.min_bytes),
        max_bytes,
        until: Instant::now() + wait.min(Duration::from_secs(600)),
    }
}

/// Waits until there is enough, or one partition has an error, or the time is over.
async fn wait(broker: &Inner, wanted: &Wanted) -> (Vec<Given>, Option<OwnedSemaphorePermit>) {
    loop {
        let over = Instant::now() >= wanted.until;
        // Known before anything is read, so that nothing that comes meanwhile is slept over.
        let ends: Vec<i64> = wanted.partitions().map(WantedPartition::end).collect();
        let news = wanted.partitions().zip(&ends).any(|(partition, end)| partition.offset != *end);
        if news || over || wanted.min_bytes == 0 {
            let permit = match news {
                true => share(&broker.budgets.fetches, wanted.max_bytes).await.ok(),
                false => None,
            };
            let given = read(wanted);
            let bytes: usize = given.iter().map(|given| given.records.len()).sum();
            let failed = given.iter().any(|given| given.error != 0);
            if over || failed || bytes >= wanted.min_bytes {
                return (given, permit.filter(|_| bytes > 0));
            }
        }
        let beyond: Vec<_> = wanted
            .partitions()
            .zip(ends)
            .filter_map(|(partition, end)| Some(Box::pin(partition.log.as_ref().ok()?.beyond(end))))
            .collect();
        if beyond.is_empty() {
            sleep_until(wanted.until).await;
        } else if timeout_at(wanted.until, select_all(beyond)).await.is_ok() && news {
            sleep_until(wanted.until.min(Instant::now() + PAUSE)).await;
        }
    }
}

fn read(wanted: &Wanted) -> Vec<Given> {
    let mut left = wanted.max_bytes;
    let mut first = true;
    let mut given = Vec::new();
    for partition in wanted.partitions() {
        let log = match &partition.log {
            Ok(log) => log,
            Err(error) => {
                given.push(Given { error: error.code(), ..Given::default() }.without_offsets());
                continue;
            }
        };
        let mut found = Given {
            error: 0,
            high_watermark: log.end_offset(),
            start: log.start_offset(),
            records: Bytes::new(),
        };
        if partition.offset < found.start {
            found.error = ResponseError::OffsetOutOfRange.code();
        } else {
            let max = left.min(partition.max_bytes);
            match log.read_raw(partition.offset, max) {
                // The first batch of all is given whatever its size, so that a reader gets past it.
                Ok(records) if first || records.len() <= max => found.records = records,
                Ok(_) => {}
                Err(error) => found.error = code(&error).code(),
            }
        }
        if found.error != 0 {
            // Readers that are told that they are out of range look for the offsets themselves.
            found.high_watermark = found.high_watermark.max(0);
        }
        // Retention may have moved the start since.
        first &= found.records.is_empty();
        left = left.saturating_sub(found.records.len());
        given.push(found);
    }
    given
}

impl Wanted {
    fn partitions(&self) -> impl Iterator<Item = &WantedPartition> {
        self.topics.iter().flat_map(|topic| &topic.partitions)
    }
}

impl WantedPartition {
    /// The end of what can be read; -2, which nobody asks for, where that is an error.
    fn end(&self) -> i64 {
        match &self.log {
            Ok(log) if log.refused().is_none() => log.end_offset(),
            _ => -2,
        }
    }
}

impl Given {
    fn without_offsets(self) -> Given {
        Given { high_watermark: -1, start: -1, ..self }
    }
}

fn encode(request: &Request, error: i16, topics: &[WantedTopic], given: Vec<Given>) -> Answer {
    let version = request.version;
    let flexible = version >= 12;
    let mut given = given.into_iter();
    let mut pieces = Vec::new();
    let mut out = BytesMut::with_capacity(64 + 64 * topics.len());
    out.put_i32(0);
    out.put_i32(request.correlation);
    if flexible {
        out.put_u8(0);
    }
    out.put_i32(0);
    if version >= 7 {
        out.put_i16(error);
        out.put_i32(0);
    }
    put_len(&mut out, topics.len(), flexible);
    for topic in topics {
        match version {
            13.. => out.put_slice(topic.id.as_bytes()),
            12 => {
                put_len(&mut out, topic.name.len(), true);
                out.put_slice(topic.name.as_bytes());
            }
            _ => {
                out.put_i16(topic.name.len() as i16);
                out.put_slice(topic.name.as_bytes());
            }
        }
        put_len(&mut out, topic.partitions.len(), flexible);
        for partition in &topic.partitions {
            let given = given.next().unwrap_or_default();
            out.put_i32(partition.index);
            out.put_i16(given.error);
            out.put_i64(given.high_watermark);
            // Without transactions, all that is there is stable.
            out.put_i64(given.high_watermark);
            if version >= 5 {
                out.put_i64(given.start);
            }
            put_len(&mut out, 0, flexible);
            if version >= 11 {
                out.put_i32(-1);
            }
            put_len(&mut out, given.records.len(), flexible);
            if !given.records.is_empty() {
                pieces.push(out.split().freeze());
                pieces.push(given.records);
            }
            if flexible {
                out.put_u8(0);
            }
        }
        if flexible {
            out.put_u8(0);
        }
    }
    if flexible {
        out.put_u8(0);
    }
    pieces.push(out.freeze());
    Answer::framed(pieces)
}

/// The length of an array or of bytes.
fn put_len(out: &mut BytesMut, len: usize, flexible: bool) {
    if !flexible {
        return out.put_i32(len as i32);
    }
    let mut rest = len as u32 + 1;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}
