//! Batches from producers into the log, as they are.

use crate::broker::{Inner, blocking};
use crate::dispatch::{Answered, Pending};
use crate::error::{code, invalid};
use crate::wire::{Refused, Request, text};
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    InitProducerIdRequest, InitProducerIdResponse, ProduceRequest, ProduceResponse,
};
use kafka_protocol::protocol::StrBytes;
use millstream_log::{Appended, PartitionLog, RawBatch, Topic};
use std::sync::Arc;
use tokio::task::yield_now;

/// Why a partition's records were not appended.
struct Rejected {
    code: ResponseError,
    message: StrBytes,
}

/// What is to become of one partition's records.
struct Outcome {
    index: i32,
    partition: Option<PartitionLog>,
    appended: Result<Appended, Rejected>,
}

/// Appends at once; what is left is to wait for the syncs.
pub async fn begin(broker: &Arc<Inner>, request: Request) -> Result<Pending, Refused> {
    let (decoded, request) = request.take::<ProduceRequest>()?;
    let acks = decoded.acks;
    let transactional = decoded.transactional_id.is_some();
    let mut topics = Vec::with_capacity(decoded.topic_data.len());
    for data in decoded.topic_data {
        let topic = broker.topic(&data.name, data.topic_id);
        let mut outcomes = Vec::with_capacity(data.partition_data.len());
        for part in data.partition_data {
            let partition =
                topic.as_ref().and_then(|topic| topic.partition(u32::try_from(part.index).ok()?));
            let appended = match (&partition, part.records) {
                _ if !(-1..=1).contains(&acks) => Err(ResponseError::InvalidRequiredAcks.into()),
                _ if transactional => Err(ResponseError::InvalidTxnState.into()),
                (None, _) => Err(unknown(topic.as_ref(), data.topic_id.is_nil())),
                (_, None) => Err(ResponseError::InvalidRecord.into()),
                (Some(partition), Some(records)) => append(broker, partition, records),
            };
            outcomes.push(Outcome { index: part.index, partition, appended });
            // A small batch may unpack to a large one.
            yield_now().await;
        }
        topics.push((data.name, data.topic_id, outcomes));
    }
    Ok(Pending::begun(async move {
        let mut responses = Vec::with_capacity(topics.len());
        for (name, id, outcomes) in topics {
            let mut partitions = Vec::with_capacity(outcomes.len());
            for outcome in outcomes {
                partitions.push(settle(outcome, acks).await);
            }
            responses.push(
                TopicProduceResponse::default()
                    .with_name(name)
                    .with_topic_id(id)
                    .with_partition_responses(partitions),
            );
        }
        (acks != 0)
            .then(|| Answered::new(&request, &ProduceResponse::default().with_responses(responses)))
    }))
}

fn append(broker: &Inner, partition: &PartitionLog, records: Bytes) -> Result<Appended, Rejected> {
    let batches = RawBatch::split(records).map_err(|why| {
        let message = text(&format!("these bytes are not a record batch: {why}"));
        Rejected { code: invalid(&why), message }
    })?;
    for batch in &batches {
        let header = batch.header();
        if header.bytes > broker.options.limits.batch_bytes {
            return Err(ResponseError::MessageTooLarge.into());
        }
        if header.is_control() || header.is_transactional() {
            let message = text("there are no transactions here");
            return Err(Rejected { code: ResponseError::InvalidRecord, message });
        }
    }
    if batches.len() != 1 {
        let message = text("a request has one record batch for a partition");
        return Err(Rejected { code: ResponseError::InvalidRecord, message });
    }
    let appended = partition.append_raw(&batches).map_err(Rejected::from)?;
    let headers = || batches.iter().map(RawBatch::header);
    let records = headers().map(|header| u64::from(header.records)).sum();
    broker.counters.produced(records, headers().map(|header| header.bytes as u64).sum());
    Ok(appended)
}

/// Acknowledged means on disk, also to a client that asked for less.
async fn settle(outcome: Outcome, acks: i16) -> PartitionProduceResponse {
    let response = PartitionProduceResponse::default().with_index(outcome.index);
    let settled = match outcome.appended {
        // Nobody waits for the answer.
        Ok(_) if acks == 0 => return response,
        Ok(appended) => appended.durable.await.map(|()| appended.base_offset).map_err(Into::into),
        Err(rejected) => Err(rejected),
    };
    let start = outcome.partition.map_or(-1, |partition| partition.start_offset());
    match settled {
        Ok(base) => response.with_base_offset(base).with_log_start_offset(start),
        Err(Rejected { code, message }) => response
            .with_error_code(code.code())
            .with_base_offset(-1)
            .with_log_start_offset(start)
            .with_error_message(Some(message)),
    }
}

fn unknown(topic: Option<&Topic>, by_name: bool) -> Rejected {
    match (topic, by_name) {
        (None, false) => ResponseError::UnknownTopicId.into(),
        _ => ResponseError::UnknownTopicOrPartition.into(),
    }
}

/// A number that no producer had before.
pub async fn init_producer_id(
    broker: &Arc<Inner>,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let response = InitProducerIdResponse::default().with_producer_id((-1).into());
    let failed =
        |code: ResponseError| response.clone().with_producer_epoch(-1).with_error_code(code.code());
    if request.transactional_id.is_some() {
        return failed(crate::transactions::REFUSED);
    }
    let inner = broker.clone();
    match blocking(move || inner.store.next_producer()).await {
        Ok(id) => response.with_producer_id(id.into()).with_producer_epoch(0),
        Err(error) => {
            tracing::error!(%error, "no id can be given to a producer");
            failed(ResponseError::CoordinatorNotAvailable)
        }
    }
}

impl From<ResponseError> for Rejected {
    fn from(code: ResponseError) -> Rejected {
        Rejected { code, message: text(&code.to_string()) }
    }
}

impl From<millstream_log::Error> for Rejected {
    fn from(error: millstream_log::Error) -> Rejected {
        Rejected { code: code(&error), message: text(&error.to_string()) }
    }
}
