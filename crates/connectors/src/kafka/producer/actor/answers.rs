//! What brokers say to what was sent.

use super::{Actor, CLUSTER, Flown, part_of};
use crate::kafka::error::{
    CONCURRENT_TRANSACTIONS, DUPLICATE_SEQUENCE, INVALID_PRODUCER_EPOCH,
    INVALID_PRODUCER_ID_MAPPING, INVALID_RECORD, INVALID_TIMESTAMP, INVALID_TXN_STATE,
    MESSAGE_TOO_LARGE, OUT_OF_ORDER_SEQUENCE, PRODUCER_FENCED, RECORD_LIST_TOO_LARGE, Refused,
    TRANSACTION_ABORTABLE, UNKNOWN_PRODUCER_ID, UNKNOWN_TOPIC_OR_PARTITION, answered, words,
};
use crate::kafka::producer::Partition;
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use millstream_core::{Disposition, Error, Result};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a topic may be missing before it is gone: after it was made not every broker knows it.
const MISSING_FOR: Duration = Duration::from_secs(30);
/// How long the coordinator takes to end the transaction before this one.
const ENDING: Duration = Duration::from_millis(10);

impl Actor {
    pub(super) fn landed(&mut self, flown: Flown) -> Result<()> {
        if let Flown::Answered { round, node: Some(node), .. } = &flown
            && *round == self.round
            && let Some(busy) = self.busy.get_mut(node)
        {
            *busy = busy.saturating_sub(1);
        }
        match flown {
            Flown::Connected(node, connected) => {
                self.connecting.remove(&node);
                if let Err(error) = connected {
                    if error.disposition() == Disposition::Stop {
                        return Err(error);
                    }
                    for (partition, lane) in &mut self.lanes {
                        let led = self.cluster.leader(&partition.0, partition.1);
                        if !lane.queue.is_empty() && led.is_some_and(|led| led.leader == node) {
                            self.trouble.waits(part_of(partition), &error);
                            self.stale.insert(partition.0.clone());
                            lane.wait();
                        }
                    }
                }
            }
            Flown::Refreshed(refreshed) => match refreshed {
                Ok(()) => self.trouble.goes_on(CLUSTER),
                Err(error) if error.disposition() == Disposition::Stop => return Err(error),
                Err(error) => self.trouble.waits(CLUSTER, &error),
            },
            Flown::Added(partitions, added) => {
                self.adding = false;
                added?;
                self.added.extend(partitions);
            }
            Flown::Answered { round, .. } if round != self.round => {}
            Flown::Answered { batches, answer: Err(error), .. } => {
                if error.disposition() == Disposition::Stop {
                    return Err(error);
                }
                for (partition, sequence) in batches {
                    self.trouble.waits(part_of(&partition), &error);
                    self.stale.insert(partition.0.clone());
                    if let Some(lane) = self.lanes.get_mut(&partition) {
                        lane.not_taken(sequence);
                    }
                }
            }
            Flown::Answered { batches, answer: Ok(response), .. } => {
                let mut told: HashMap<Partition, PartitionProduceResponse> = HashMap::new();
                for topic in response.responses {
                    let name: Arc<str> = topic.name.as_str().into();
                    for partition in topic.partition_responses {
                        told.insert((name.clone(), partition.index), partition);
                    }
                }
                for (partition, sequence) in batches {
                    let response = told.remove(&partition);
                    self.answered(partition, sequence, response)?;
                }
            }
        }
        Ok(())
    }

    fn answered(
        &mut self,
        partition: Partition,
        sequence: i32,
        response: Option<PartitionProduceResponse>,
    ) -> Result<()> {
        let Some(lane) = self.lanes.get_mut(&partition) else { return Ok(()) };
        let (topic, index) = &partition;
        let doing = || format!("writing to partition {index} of `{topic}`");
        let Some(response) = response else {
            lane.not_taken(sequence);
            return Ok(());
        };
        match response.error_code {
            0 | DUPLICATE_SEQUENCE => {
                let freed = lane.taken(sequence);
                self.shared.bytes.send_modify(|bytes| *bytes = bytes.saturating_sub(freed));
                self.trouble.goes_on(part_of(&partition));
                self.trouble.goes_on(CLUSTER);
            }
            // One before it was not taken, and goes first.
            OUT_OF_ORDER_SEQUENCE if !lane.is_first(sequence) => lane.not_taken(sequence),
            CONCURRENT_TRANSACTIONS => lane.not_taken_for(sequence, ENDING),
            OUT_OF_ORDER_SEQUENCE
            | UNKNOWN_PRODUCER_ID
            | INVALID_PRODUCER_EPOCH
            | INVALID_PRODUCER_ID_MAPPING
            | INVALID_TXN_STATE
            | PRODUCER_FENCED
            | TRANSACTION_ABORTABLE => {
                return Err(Error::retry(
                    "producer_forgotten",
                    format!("{}: the broker does not remember what we sent before", doing()),
                ));
            }
            MESSAGE_TOO_LARGE | RECORD_LIST_TOO_LARGE => {
                let bytes =
                    lane.queue.iter().find(|i| i.sequence == sequence).map(|i| i.bytes.len());
                let bytes = bytes.unwrap_or(0);
                (self.on_too_large)(&partition, bytes);
                return Err(Error::retry(
                    "too_large",
                    format!("{}: a batch of {bytes} bytes is too large for the topic now", doing()),
                ));
            }
            code @ (INVALID_RECORD | INVALID_TIMESTAMP) => {
                let error = refused(doing(), code, response);
                let freed = lane.refused(sequence, &error);
                // Those behind it were numbered after it.
                let freed = freed.ok_or(error)?;
                self.shared.bytes.send_modify(|bytes| *bytes = bytes.saturating_sub(freed));
            }
            UNKNOWN_TOPIC_OR_PARTITION if lane.is_missing_for(MISSING_FOR) => {
                return Err(Error::stop(
                    "no_topic",
                    format!("{}: it is not there any more; create it again", doing()),
                ));
            }
            code => {
                let error = answered(doing(), code);
                let said = response.error_message.map(|m| m.as_str().to_owned());
                // A right that is given back is one that was waited for: nothing was taken meanwhile.
                let waits = error.kind() == "not_authorised" && self.coordinator.is_none();
                if error.disposition() == Disposition::Stop && !waits {
                    return Err(match said {
                        Some(said) => error.because(said),
                        None => error,
                    });
                }
                self.trouble.waits(part_of(&partition), &error);
                if code == UNKNOWN_TOPIC_OR_PARTITION {
                    lane.missing_since.get_or_insert_with(Instant::now);
                }
                lane.not_taken(sequence);
                self.stale.insert(partition.0);
            }
        }
        Ok(())
    }
}

/// A broker will never take some records of a batch.
fn refused(doing: String, code: i16, response: PartitionProduceResponse) -> Error {
    let records = response.record_errors.iter().map(|record| {
        let why = record.batch_index_error_message.as_ref().map(|why| why.as_str().to_owned());
        (record.batch_index.unsigned_abs(), why.unwrap_or_else(|| words(code)))
    });
    let records: Vec<(u32, String)> = records.collect();
    let said = match (records.first(), response.error_message) {
        (Some((_, why)), _) => why.clone(),
        (None, Some(message)) => message.as_str().to_owned(),
        (None, None) => words(code),
    };
    let told = format!("{doing}: the broker says {}", words(code));
    Error::retry("refused", told).because(Refused { said, records })
}
