//! The one task of a producer: takes batches in, numbers them, and sees each through.

mod answers;
mod requests;

use super::lane::Lane;
use super::{Failure, OnTooLarge, Order, Partition, Shared};
use crate::kafka::cluster::Cluster;
use crate::kafka::coordinator::{Coordinator, Number};
use crate::kafka::error::answered;
use crate::kafka::fetcher::Backoff;
use crate::kafka::trouble::Trouble;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceResponse};
use millstream_core::{Disposition, Result};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::time::Instant;

/// The bit of a batch's attributes that makes it part of its producer's transaction.
const IN_TRANSACTION: u8 = 0x10;
/// The trouble that is nobody's in particular.
const CLUSTER: i64 = -1;

pub(super) struct Actor {
    shared: Arc<Shared>,
    cluster: Cluster,
    trouble: Trouble,
    on_too_large: OnTooLarge,
    /// Where batches are part of transactions.
    coordinator: Option<Arc<Coordinator>>,
    /// The producer's id and epoch, once the cluster has given it one.
    number: Option<Number>,
    /// Counts the numbers: an answer to an earlier one says nothing of what is sent now.
    round: u64,
    /// Partitions that the coordinator knows to be part of the open transaction. Newer brokers tell
    /// it themselves.
    added: HashSet<Partition>,
    adding: bool,
    /// How many requests of ours are under way to each broker.
    busy: HashMap<i32, usize>,
    lanes: HashMap<Partition, Lane>,
    flights: FuturesUnordered<BoxFuture<'static, Flown>>,
    /// Brokers to which a connection is being made.
    connecting: HashSet<i32>,
    /// Topics of which we know something that is not so any more.
    stale: HashSet<Arc<str>>,
}

/// The end of something that was under way.
enum Flown {
    Connected(i32, Result<()>),
    Refreshed(Result<()>),
    Added(Vec<Partition>, Result<()>),
    Answered {
        round: u64,
        /// Of a request that was ours alone.
        node: Option<i32>,
        batches: Vec<(Partition, i32)>,
        answer: Result<ProduceResponse>,
    },
}

impl Actor {
    pub fn new(
        shared: Arc<Shared>,
        cluster: Cluster,
        trouble: Trouble,
        on_too_large: OnTooLarge,
        coordinator: Option<Arc<Coordinator>>,
    ) -> Self {
        Self {
            shared,
            cluster,
            trouble,
            on_too_large,
            coordinator,
            number: None,
            round: 0,
            added: HashSet::new(),
            adding: false,
            busy: HashMap::new(),
            lanes: HashMap::new(),
            flights: FuturesUnordered::new(),
            connecting: HashSet::new(),
            stale: HashSet::new(),
        }
    }

    pub async fn run(mut self) {
        while let Err(error) = self.work().await {
            let failure = Failure::from(error);
            *self.shared.failed.lock() = Some(failure.clone());
            self.give_up(&failure);
            // Nothing more of it is to be sent. In a transaction what was sent has to land first.
            if self.coordinator.is_none() {
                self.flights.clear();
            }
            // What comes later is told at once.
            loop {
                tokio::select! {
                    () = self.shared.submitted.notified() => {}
                    () = self.shared.closed.cancelled() => return,
                }
                for job in self.shared.jobs.lock().drain(..) {
                    let _ = job.done.send(Err(failure.error()));
                }
                self.obey().await;
                if self.shared.failed.lock().is_none() {
                    break;
                }
            }
        }
    }

    /// Tells everybody who waits.
    fn give_up(&mut self, failure: &Failure) {
        self.trouble.retain(|_| false);
        for (_, lane) in self.lanes.drain() {
            for item in lane.queue {
                let _ = item.done.send(Err(failure.error()));
            }
        }
        for job in self.shared.jobs.lock().drain(..) {
            let _ = job.done.send(Err(failure.error()));
        }
        // Whoever waits for room is told.
        self.shared.bytes.send_replace(0);
    }

    async fn obey(&mut self) {
        loop {
            let order = self.shared.orders.lock().pop_front();
            match order {
                None => return,
                Some(Order::Stand(done)) => {
                    self.give_up(&Failure {
                        disposition: Disposition::Retry,
                        kind: "aborted",
                        told: "its transaction is given up".into(),
                    });
                    // Newer brokers know by its epoch what is late.
                    if self.number.is_some_and(|number| !number.newer) {
                        let flights = &mut self.flights;
                        let landed = async { while flights.next().await.is_some() {} };
                        let _ = tokio::time::timeout(self.cluster.timeout() * 2, landed).await;
                    }
                    self.flights.clear();
                    self.connecting.clear();
                    self.busy.clear();
                    self.adding = false;
                    self.round += 1;
                    let _ = done.send(());
                }
                Some(Order::Renumber(number, done)) => {
                    if self.number != Some(number) {
                        self.lanes.clear();
                        self.busy.clear();
                        self.round += 1;
                    }
                    self.number = Some(number);
                    self.added.clear();
                    *self.shared.began.lock() = None;
                    *self.shared.failed.lock() = None;
                    let _ = done.send(());
                }
            }
        }
    }

    /// Ends when the producer is dropped, or with what cannot be mended.
    async fn work(&mut self) -> Result<()> {
        loop {
            if self.coordinator.is_some() {
                self.obey().await;
            } else if self.number.is_none()
                && !self.shared.jobs.lock().is_empty()
                && !self.get_id().await?
            {
                return Ok(());
            }
            self.take_jobs();
            self.dispatch().await;
            let retry_at = self.lanes.values().filter_map(|lane| lane.retry_at).min();
            let closed = self.shared.closed.clone();
            tokio::select! {
                Some(flown) = self.flights.next() => self.landed(flown)?,
                () = self.shared.submitted.notified() => {}
                () = tokio::time::sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {
                    self.retry_now();
                }
                () = closed.cancelled() => return Ok(()),
            }
        }
    }

    /// False when the producer was dropped meanwhile.
    async fn get_id(&mut self) -> Result<bool> {
        let mut backoff = Backoff::new();
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        loop {
            let closed = self.shared.closed.clone();
            let asked = tokio::select! {
                asked = self.cluster.ask(&request, 4) => asked,
                () = closed.cancelled() => return Ok(false),
            };
            let error = match asked {
                Ok(response) if response.error_code == 0 => {
                    let (id, epoch) = (response.producer_id.0, response.producer_epoch);
                    self.number = Some(Number { id, epoch, newer: false });
                    self.trouble.goes_on(CLUSTER);
                    return Ok(true);
                }
                Ok(response) => answered("asking for a producer's id", response.error_code),
                Err(error) => error,
            };
            if error.disposition() == Disposition::Stop {
                return Err(error);
            }
            self.trouble.waits(CLUSTER, &error);
            tokio::select! {
                () = backoff.wait() => {}
                () = closed.cancelled() => return Ok(false),
            }
        }
    }

    fn take_jobs(&mut self) {
        let Some(numbered) = self.number else { return };
        let in_transaction = self.coordinator.is_some();
        for job in self.shared.jobs.lock().drain(..) {
            let lane = self.lanes.entry(job.partition).or_insert_with(|| Lane {
                // What is behind the first must not overtake it: a broker that knows nothing of a
                // producer takes any number.
                mending: true,
                ..Lane::default()
            });
            let sequence = lane.next_sequence;
            lane.next_sequence = after(sequence, job.records);
            let bytes = number(job.batch, numbered, sequence, in_transaction);
            lane.push(bytes, sequence, job.held, job.done);
        }
    }

    fn retry_now(&mut self) {
        let now = Instant::now();
        for lane in self.lanes.values_mut() {
            if lane.retry_at.is_some_and(|at| at <= now) {
                lane.retry_at = None;
            }
        }
        if !self.stale.is_empty() {
            let stale: Vec<_> = self.stale.drain().collect();
            let cluster = self.cluster.clone();
            self.flights.push(
                async move { Flown::Refreshed(cluster.refresh(Some(&stale)).await.map(drop)) }
                    .boxed(),
            );
        }
    }
}

/// The number of a partition among the parts of its producer's troubles.
fn part_of((topic, index): &Partition) -> i64 {
    i64::from(crc32c::crc32c(topic.as_bytes())) << 20 ^ i64::from(*index)
}

/// Puts a producer's number into a batch, and its checksum right.
fn number(mut batch: Vec<u8>, number: Number, sequence: i32, in_transaction: bool) -> Bytes {
    if in_transaction {
        batch[22] |= IN_TRANSACTION;
    }
    batch[43..51].copy_from_slice(&number.id.to_be_bytes());
    batch[51..53].copy_from_slice(&number.epoch.to_be_bytes());
    batch[53..57].copy_from_slice(&sequence.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(batch)
}

/// Sequences go round from the largest number to 0.
fn after(sequence: i32, records: i32) -> i32 {
    ((i64::from(sequence) + i64::from(records)) % (1 << 31)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_log::codec::Header;
    use millstream_log::{BatchBuilder, Codec};

    #[test]
    fn a_numbered_batch_is_whole() {
        let mut builder = BatchBuilder::new(Codec::Lz4);
        builder.push(1, Some(b"k"), Some(&[7; 500]), &[]);
        let numbered = Number { id: 4_000_000_007, epoch: 3, newer: false };
        let bytes = number(builder.finish().into_bytes_at(0), numbered, 77, true);
        let header = Header::read(&bytes).unwrap();
        header.check(&bytes).unwrap();
        assert!(header.is_transactional());
        assert_eq!(bytes[43..51], 4_000_000_007i64.to_be_bytes());
        assert_eq!(bytes[51..57], [0, 3, 0, 0, 0, 77]);
    }

    #[test]
    fn sequences_go_round() {
        assert_eq!(after(10, 5), 15);
        assert_eq!(after(i32::MAX, 1), 0);
        assert_eq!(after(i32::MAX - 1, 5), 3);
    }
}
