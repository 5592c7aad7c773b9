//! The errors in an answer, wherever its kind has them: what is counted by code.

use kafka_protocol::messages::*;

/// An answer that may say that something failed.
pub trait Failures {
    /// Names every code, also 0 for what went well.
    fn codes(&self, note: &mut dyn FnMut(i16));

    fn failures(&self) -> Vec<i16> {
        let mut failures = Vec::new();
        self.codes(&mut |code| {
            if code != 0 {
                failures.push(code);
            }
        });
        failures
    }
}

impl Failures for ProduceResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        let partitions = self.responses.iter().flat_map(|topic| &topic.partition_responses);
        partitions.for_each(|partition| note(partition.error_code));
    }
}

impl Failures for ListOffsetsResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| note(partition.error_code));
    }
}

impl Failures for MetadataResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        self.topics.iter().for_each(|topic| note(topic.error_code));
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| note(partition.error_code));
    }
}

impl Failures for DescribeTopicPartitionsResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        self.topics.iter().for_each(|topic| note(topic.error_code));
    }
}

impl Failures for OffsetCommitResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| note(partition.error_code));
    }
}

impl Failures for OffsetFetchResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
        self.groups.iter().for_each(|group| note(group.error_code));
    }
}

impl Failures for OffsetDeleteResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| note(partition.error_code));
    }
}

impl Failures for FindCoordinatorResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
        self.coordinators.iter().for_each(|coordinator| note(coordinator.error_code));
    }
}

impl Failures for LeaveGroupResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
        self.members.iter().for_each(|member| note(member.error_code));
    }
}

impl Failures for DescribeGroupsResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        self.groups.iter().for_each(|group| note(group.error_code));
    }
}

impl Failures for ConsumerGroupDescribeResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        self.groups.iter().for_each(|group| note(group.error_code));
    }
}

impl Failures for DeleteGroupsResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        self.results.iter().for_each(|result| note(result.error_code));
    }
}

impl Failures for CreateTopicsResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        self.topics.iter().for_each(|topic| note(topic.error_code));
    }
}

impl Failures for DeleteTopicsResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        self.responses.iter().for_each(|topic| note(topic.error_code));
    }
}

impl Failures for CreatePartitionsResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        self.results.iter().for_each(|topic| note(topic.error_code));
    }
}

impl Failures for DeleteRecordsResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| note(partition.error_code));
    }
}

impl Failures for OffsetForLeaderEpochResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| note(partition.error_code));
    }
}

impl Failures for AddPartitionsToTxnResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
        let by_transaction = self.results_by_transaction.iter();
        let topics = by_transaction.flat_map(|transaction| &transaction.topic_results);
        let topics = topics.chain(&self.results_by_topic_v3_and_below);
        let partitions = topics.flat_map(|topic| &topic.results_by_partition);
        partitions.for_each(|partition| note(partition.partition_error_code));
    }
}

impl Failures for TxnOffsetCommitResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.for_each(|partition| note(partition.error_code));
    }
}

impl Failures for AddOffsetsToTxnResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
    }
}

impl Failures for EndTxnResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
    }
}

impl Failures for CreateAclsResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        self.results.iter().for_each(|result| note(result.error_code));
    }
}

impl Failures for DeleteAclsResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        self.filter_results.iter().for_each(|result| note(result.error_code));
    }
}

impl Failures for DescribeConfigsResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        self.results.iter().for_each(|result| note(result.error_code));
    }
}

impl Failures for AlterConfigsResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        self.responses.iter().for_each(|response| note(response.error_code));
    }
}

impl Failures for IncrementalAlterConfigsResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        self.responses.iter().for_each(|response| note(response.error_code));
    }
}

impl Failures for ApiVersionsResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
    }
}

impl Failures for SaslHandshakeResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
    }
}

impl Failures for SaslAuthenticateResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
    }
}

impl Failures for JoinGroupResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
    }
}

impl Failures for SyncGroupResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
    }
}

impl Failures for HeartbeatResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
    }
}

impl Failures for ListGroupsResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
    }
}

impl Failures for InitProducerIdResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
    }
}

impl Failures for DescribeAclsResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
    }
}

impl Failures for DescribeClusterResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
    }
}

impl Failures for ConsumerGroupHeartbeatResponse {
    fn codes(&self, note: &mut dyn FnMut(i16)) {
        note(self.error_code);
    }
}
