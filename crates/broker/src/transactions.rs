//! The requests of transactions, which are not there: each is answered with the error that clients
//! take as final. Most others they would try again for ever.
//!
//! The answers are for those who ask regardless: the requests are not listed among the versions, so
//! that clients know beforehand.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse, EndTxnRequest, EndTxnResponse, TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
};

pub const REFUSED: ResponseError = ResponseError::TransactionalIdAuthorizationFailed;

pub fn add_partitions(
    request: AddPartitionsToTxnRequest,
    version: i16,
) -> AddPartitionsToTxnResponse {
    let refused = |topics: Vec<AddPartitionsToTxnTopic>| {
        let topics = topics.into_iter().map(|topic| {
            let partitions = topic.partitions.into_iter().map(|index| {
                AddPartitionsToTxnPartitionResult::default()
                    .with_partition_index(index)
                    .with_partition_error_code(REFUSED.code())
            });
            AddPartitionsToTxnTopicResult::default()
                .with_name(topic.name)
                .with_results_by_partition(partitions.collect())
        });
        topics.collect()
    };
    let response = AddPartitionsToTxnResponse::default();
    if version < 4 {
        let topics = refused(request.v3_and_below_topics);
        return response.with_results_by_topic_v3_and_below(topics);
    }
    let transactions = request.transactions.into_iter().map(|transaction| {
        AddPartitionsToTxnResult::default()
            .with_transactional_id(transaction.transactional_id)
            .with_topic_results(refused(transaction.topics))
    });
    response.with_results_by_transaction(transactions.collect())
}

pub fn add_offsets(_: AddOffsetsToTxnRequest) -> AddOffsetsToTxnResponse {
    AddOffsetsToTxnResponse::default().with_error_code(REFUSED.code())
}

pub fn end(_: EndTxnRequest) -> EndTxnResponse {
    EndTxnResponse::default().with_error_code(REFUSED.code())
}

pub fn commit_offsets(request: TxnOffsetCommitRequest) -> TxnOffsetCommitResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(REFUSED.code())
        });
        TxnOffsetCommitResponseTopic::default()
            .with_name(topic.name)
            .with_partitions(partitions.collect())
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}
