//! Where a partition begins and ends, and what offset a time has.

use crate::broker::{EPOCH, Inner, blocking};
use crate::error::code;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{
    ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
};
use millstream_log::PartitionLog;
use std::sync::Arc;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
/// The earliest that is not in a remote store; there is none.
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

pub async fn list(
    broker: &Arc<Inner>,
    request: ListOffsetsRequest,
    version: i16,
) -> ListOffsetsResponse {
    let broker = broker.clone();
    // A time is looked for in files.
    blocking(move || {
        let topics = request.topics.into_iter().map(|topic| {
            let log = broker.log.topic(&topic.name);
            let partitions = topic.partitions.into_iter().map(|asked| {
                let response = ListOffsetsPartitionResponse::default()
                    .with_partition_index(asked.partition_index)
                    .with_timestamp(-1)
                    .with_offset(-1);
                let index = u32::try_from(asked.partition_index).ok();
                let log = log.as_ref().and_then(|log| log.partition(index?));
                let found = match log {
                    None => Err(ResponseError::UnknownTopicOrPartition),
                    Some(log) => find(&log, asked.timestamp).map_err(|error| code(&error)),
                };
                match found {
                    Ok(Some((offset, timestamp))) => response
                        .with_offset(offset)
                        .with_timestamp(timestamp)
                        .with_leader_epoch(if version >= 4 { EPOCH } else { -1 }),
                    Ok(None) => response,
                    Err(error) => response.with_error_code(error.code()),
                }
            });
            let partitions = partitions.collect();
            ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions)
        });
        ListOffsetsResponse::default().with_topics(topics.collect())
    })
    .await
}

/// An offset and its timestamp, -1 where none was asked for.
fn find(log: &PartitionLog, timestamp: i64) -> millstream_log::Result<Option<(i64, i64)>> {
    if let Some(refused) = log.refused() {
        return Err(refused.clone());
    }
    match timestamp {
        LATEST => Ok(Some((log.end_offset(), -1))),
        EARLIEST | EARLIEST_LOCAL => Ok(Some((log.start_offset(), -1))),
        MAX_TIMESTAMP => log.max_time(),
        LATEST_TIERED => Ok(None),
        timestamp => log.record_at_time(timestamp),
    }
}

/// There is one epoch: it ends where the log does.
pub fn leader_epochs(
    broker: &Inner,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let log = broker.log.topic(&topic.topic);
        let partitions = topic.partitions.into_iter().map(|asked| {
            let response = EpochEndOffset::default().with_partition(asked.partition);
            let index = u32::try_from(asked.partition).ok();
            let Some(log) = log.as_ref().and_then(|log| log.partition(index?)) else {
                return response.with_error_code(ResponseError::UnknownTopicOrPartition.code());
            };
            match (asked.current_leader_epoch, asked.leader_epoch) {
                (current, _) if current > EPOCH => {
                    response.with_error_code(ResponseError::UnknownLeaderEpoch.code())
                }
                (_, EPOCH..) => response.with_leader_epoch(EPOCH).with_end_offset(log.end_offset()),
                _ => response,
            }
        });
        let partitions = partitions.collect();
        OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(partitions)
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}
