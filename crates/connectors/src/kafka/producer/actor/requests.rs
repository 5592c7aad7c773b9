//! What is sent, and to whom.

use super::{Actor, Flown, part_of};
use crate::kafka::cluster::{Purpose, topic_name};
use crate::kafka::producer::Partition;
use futures::FutureExt;
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use millstream_core::Error;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::Instant;

/// What one request carries, if more than one batch.
const REQUEST_BYTES: usize = 4 << 20;
/// Requests of a transactional producer that one broker has: one that it works on, and one that it
/// finds when that is done.
const BUSY_MAX: usize = 2;

impl Actor {
    /// Sends what may be sent now.
    pub(super) async fn dispatch(&mut self) {
        loop {
            let mut by_node: BTreeMap<i32, Vec<Partition>> = BTreeMap::new();
            let must_add = self.coordinator.is_some() && self.number.is_some_and(|n| !n.newer);
            let mut to_add = Vec::new();
            for (partition, lane) in &mut self.lanes {
                if !lane.may_send() {
                    continue;
                }
                if must_add && !self.added.contains(partition) {
                    to_add.push(partition.clone());
                    continue;
                }
                match self.cluster.leader(&partition.0, partition.1) {
                    Some(led) if self.connecting.contains(&led.leader) => {}
                    // What comes meanwhile goes together.
                    Some(led)
                        if self.busy.get(&led.leader).is_some_and(|busy| *busy >= BUSY_MAX) => {}
                    Some(led) => by_node.entry(led.leader).or_default().push(partition.clone()),
                    None => {
                        // The first time it may only not be known yet.
                        if !lane.pause.is_zero() {
                            let (topic, index) = partition;
                            let told = format!("nobody leads partition {index} of `{topic}` now");
                            self.trouble
                                .waits(part_of(partition), &Error::retry("no_leader", told));
                        }
                        self.stale.insert(partition.0.clone());
                        // Rows for others need not wait for a leader.
                        lane.queue.iter_mut().for_each(|item| item.held = None);
                        lane.wait();
                    }
                }
            }
            if let (Some(coordinator), Some(number), false, false) =
                (&self.coordinator, self.number, to_add.is_empty(), self.adding)
            {
                self.adding = true;
                self.shared.began.lock().get_or_insert_with(Instant::now);
                let coordinator = coordinator.clone();
                self.flights.push(
                    async move {
                        let added = coordinator.add_partitions(number, &to_add).await;
                        Flown::Added(to_add, added)
                    }
                    .boxed(),
                );
            }
            let mut sent = false;
            for (node, partitions) in by_node {
                sent |= self.send(node, partitions).await;
            }
            if !sent {
                return;
            }
        }
    }

    /// One request to one broker. False when nothing was sent.
    async fn send(&mut self, node: i32, partitions: Vec<Partition>) -> bool {
        let Some(connection) = self.cluster.open_connection(node, Purpose::Produce) else {
            self.connecting.insert(node);
            let cluster = self.cluster.clone();
            self.flights.push(
                async move {
                    let connected = cluster.broker(node, Purpose::Produce).await;
                    Flown::Connected(node, connected.map(drop))
                }
                .boxed(),
            );
            return false;
        };
        if self.coordinator.is_none() {
            self.join(node, partitions);
            return true;
        }
        let mut batches = Vec::new();
        let mut topics: BTreeMap<Arc<str>, Vec<PartitionProduceData>> = BTreeMap::new();
        let mut bytes = 0;
        for partition in partitions {
            let Some(lane) = self.lanes.get_mut(&partition) else { continue };
            if bytes >= REQUEST_BYTES {
                break;
            }
            let Some(item) = lane.send() else { continue };
            bytes += item.bytes.len();
            batches.push((partition.clone(), item.sequence));
            topics.entry(partition.0).or_default().push(
                PartitionProduceData::default()
                    .with_index(partition.1)
                    .with_records(Some(item.bytes.clone())),
            );
        }
        let timeout = self.cluster.timeout();
        let topics = topics.into_iter().map(|(topic, partitions)| {
            TopicProduceData::default()
                .with_name(topic_name(&topic))
                .with_partition_data(partitions)
        });
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(timeout.as_millis() as i32)
            .with_topic_data(topics.collect())
            .with_transactional_id(self.coordinator.as_ref().map(|c| c.transactional_id()));
        if self.coordinator.is_some() {
            self.shared.began.lock().get_or_insert_with(Instant::now);
        }
        *self.busy.entry(node).or_default() += 1;
        let newer = self.number.is_some_and(|number| number.newer);
        let round = self.round;
        // Its place in the connection's order is taken before anything else is sent.
        let sending = async {
            let version = connection.version::<ProduceRequest>(if newer { 12 } else { 11 })?;
            connection.send(&request, version).await
        };
        let flight = match sending.await {
            // The broker's own time-out comes first.
            Ok(answer) => async move {
                let answer = answer.wait(timeout + timeout / 2).await;
                Flown::Answered { round, node: Some(node), batches, answer }
            }
            .boxed(),
            Err(error) => async move {
                Flown::Answered { round, node: Some(node), batches, answer: Err(error) }
            }
            .boxed(),
        };
        self.flights.push(flight);
        true
    }

    /// Gives a broker the next batch of each of these, to be sent with those of other producers.
    fn join(&mut self, node: i32, partitions: Vec<Partition>) {
        let (writes, round) = (self.cluster.writes(node), self.round);
        for partition in partitions {
            let Some(lane) = self.lanes.get_mut(&partition) else { continue };
            let Some(item) = lane.send() else { continue };
            let batches = vec![(partition.clone(), item.sequence)];
            let (bytes, held) = (item.bytes.clone(), item.held.take());
            let answer = writes.submit(&self.cluster, partition, bytes, held);
            let flight =
                async move { Flown::Answered { round, node: None, batches, answer: answer.await } };
            self.flights.push(flight.boxed());
        }
    }
}
