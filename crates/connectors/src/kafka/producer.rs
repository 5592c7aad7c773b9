//! Sends record batches, numbered so that the broker takes each once and in order.
//!
//! ```text
//!  submit ─► lane of a partition ─► up to 5 requests in flight ─► acknowledged, in order
//!               ▲                        │ lost, leader moved, not enough replicas
//!               └── the same numbers ◄───┘ one at a time until one is through
//! ```
//!
//! One of these belongs to one sink. After a failure that it cannot mend everything that was not
//! acknowledged is *unknown*; a new producer begins with a new id.
//!
//! One whose batches are part of transactions belongs to all sinks of a pipeline. It is told its
//! number by [`super::transactions`], and goes on after a failure when it is told a new one.

use super::cluster::{Cluster, Purpose, topic_name};
use super::coordinator::{Coordinator, Number};
use super::error::{
    CONCURRENT_TRANSACTIONS, DUPLICATE_SEQUENCE, INVALID_PRODUCER_EPOCH,
    INVALID_PRODUCER_ID_MAPPING, INVALID_RECORD, INVALID_TIMESTAMP, INVALID_TXN_STATE,
    MESSAGE_TOO_LARGE, OUT_OF_ORDER_SEQUENCE, PRODUCER_FENCED, RECORD_LIST_TOO_LARGE, Refused,
    TRANSACTION_ABORTABLE, UNKNOWN_PRODUCER_ID, UNKNOWN_TOPIC_OR_PARTITION, answered, words,
};
use super::trouble::Trouble;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, ProduceResponse};
use millstream_core::{Disposition, Error, Result};
use millstream_log::EncodedBatch;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// As many as the broker remembers of a producer.
const IN_FLIGHT_MAX: usize = 5;
/// What may wait or be in flight before `room` waits.
const BYTES_MAX: usize = 8 << 20;
/// The same where all tasks of a pipeline share one.
const BYTES_MAX_SHARED: usize = 32 << 20;
/// What one request carries, if more than one batch.
const REQUEST_BYTES: usize = 4 << 20;
/// Requests of a transactional producer that one broker has: one that it works on, and one that it
/// finds when that is done.
const BUSY_MAX: usize = 2;
/// How long a topic may be missing before it is gone: after it was made not every broker knows it.
const MISSING_FOR: Duration = Duration::from_secs(30);
/// How long the coordinator takes to end the transaction before this one.
const ENDING: Duration = Duration::from_millis(10);

/// The bit of a batch's attributes that makes it part of its producer's transaction.
const IN_TRANSACTION: u8 = 0x10;

pub(super) type Partition = (Arc<str>, i32);

pub(super) struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    jobs: Mutex<VecDeque<Job>>,
    orders: Mutex<VecDeque<Order>>,
    /// There are jobs or orders.
    submitted: Notify,
    bytes: watch::Sender<usize>,
    bytes_max: usize,
    /// When the first batch of the open transaction was sent.
    began: Mutex<Option<Instant>>,
    failed: Mutex<Option<Failure>>,
    closed: CancellationToken,
}

struct Job {
    partition: Partition,
    batch: Vec<u8>,
    records: i32,
    done: oneshot::Sender<Result<()>>,
}

/// What only a producer in transactions is told.
enum Order {
    /// Drop everything that was not acknowledged.
    Stand(oneshot::Sender<()>),
    /// What comes from here on is of another transaction.
    Renumber(Number, oneshot::Sender<()>),
}

/// What every batch that is not acknowledged is told.
#[derive(Debug, Clone)]
struct Failure {
    disposition: Disposition,
    kind: &'static str,
    told: String,
}

/// A batch was too large for its topic: its bytes.
pub(super) type OnTooLarge = Arc<dyn Fn(&Partition, usize) + Send + Sync>;

impl Producer {
    pub fn start(cluster: Cluster, name: &str, on_too_large: OnTooLarge) -> Self {
        Self::start_as(cluster, name, on_too_large, None)
    }

    /// One whose batches are part of transactions. It sends nothing before [`Producer::renumber`].
    pub fn in_transactions(
        cluster: Cluster,
        name: &str,
        on_too_large: OnTooLarge,
        coordinator: Arc<Coordinator>,
    ) -> Self {
        Self::start_as(cluster, name, on_too_large, Some(coordinator))
    }

    fn start_as(
        cluster: Cluster,
        name: &str,
        on_too_large: OnTooLarge,
        coordinator: Option<Arc<Coordinator>>,
    ) -> Self {
        let shared = Arc::new(Shared {
            jobs: Mutex::default(),
            orders: Mutex::default(),
            submitted: Notify::new(),
            bytes: watch::Sender::new(0),
            bytes_max: if coordinator.is_some() { BYTES_MAX_SHARED } else { BYTES_MAX },
            began: Mutex::default(),
            failed: Mutex::default(),
            closed: CancellationToken::new(),
        });
        let actor = Actor {
            shared: shared.clone(),
            trouble: cluster.trouble(format!("writing to {name}")),
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
            cluster,
        };
        actor.cluster.io().clone().spawn(actor.run());
        Self { shared }
    }

    /// Waits until little enough is under way. Cancel safe.
    pub async fn room(&self) -> Result<()> {
        let mut bytes = self.shared.bytes.subscribe();
        let _ = bytes.wait_for(|bytes| *bytes < self.shared.bytes_max).await;
        match &*self.shared.failed.lock() {
            Some(failure) => Err(failure.error()),
            None => Ok(()),
        }
    }

    /// Takes a batch in. The future resolves when enough replicas have it.
    pub fn submit(
        &self,
        partition: Partition,
        batch: EncodedBatch,
    ) -> BoxFuture<'static, Result<()>> {
        let (job, acknowledged) = self.job(partition, batch);
        self.shared.take_in([job]);
        acknowledged
    }

    /// The same for many: those for one broker go in one request.
    pub fn submit_all(
        &self,
        batches: impl IntoIterator<Item = (Partition, EncodedBatch)>,
    ) -> Vec<BoxFuture<'static, Result<()>>> {
        let jobs = batches.into_iter().map(|(partition, batch)| self.job(partition, batch));
        let (jobs, acknowledged): (Vec<Job>, Vec<_>) = jobs.unzip();
        self.shared.take_in(jobs);
        acknowledged
    }

    fn job(
        &self,
        partition: Partition,
        batch: EncodedBatch,
    ) -> (Job, BoxFuture<'static, Result<()>>) {
        let records = batch.len() as i32;
        let batch = batch.into_bytes_at(0);
        let (done, acknowledged) = oneshot::channel();
        let shared = self.shared.clone();
        let acknowledged =
            async move { acknowledged.await.unwrap_or_else(|_| Err(shared.failure().error())) };
        (Job { partition, batch, records, done }, acknowledged.boxed())
    }

    /// Gives up everything that was not acknowledged. When this returns nothing of it will be
    /// written any more, unless the brokers tell it by its number.
    pub async fn stand(&self) {
        self.order(Order::Stand).await;
    }

    /// Goes on under this number, in a new transaction.
    pub async fn renumber(&self, number: Number) {
        self.order(|done| Order::Renumber(number, done)).await;
    }

    /// When the open transaction began, if something of it was sent.
    pub fn began(&self) -> Option<Instant> {
        *self.shared.began.lock()
    }

    /// Something of the open transaction is sent that is no batch.
    pub fn begin(&self) {
        self.shared.began.lock().get_or_insert_with(Instant::now);
    }

    async fn order(&self, order: impl FnOnce(oneshot::Sender<()>) -> Order) {
        let (done, obeyed) = oneshot::channel();
        self.shared.orders.lock().push_back(order(done));
        self.shared.submitted.notify_one();
        // An actor that is gone writes nothing.
        let _ = obeyed.await;
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.shared.closed.cancel();
    }
}

impl Shared {
    fn take_in(&self, new: impl IntoIterator<Item = Job>) {
        let mut jobs = self.jobs.lock();
        let before = jobs.len();
        jobs.extend(new);
        let more: usize = jobs.range(before..).map(|job| job.batch.len()).sum();
        // Before anybody can acknowledge them.
        self.bytes.send_modify(|bytes| *bytes += more);
        drop(jobs);
        self.submitted.notify_one();
    }

    fn failure(&self) -> Failure {
        self.failed.lock().clone().unwrap_or_else(|| Failure {
            disposition: Disposition::Retry,
            kind: "closed",
            told: "the producer was closed".into(),
        })
    }
}

impl Failure {
    fn error(&self) -> Error {
        Error::new(self.disposition, self.kind, self.told.clone())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { disposition: error.disposition(), kind: error.kind(), told: error.chain() }
    }
}

struct Actor {
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

/// What is under way to one partition, in order.
#[derive(Default)]
struct Lane {
    queue: VecDeque<Item>,
    next_sequence: i32,
    in_flight: usize,
    /// Something failed: one at a time until one is through.
    mending: bool,
    retry_at: Option<Instant>,
    pause: Duration,
    missing_since: Option<Instant>,
}

struct Item {
    bytes: Bytes,
    sequence: i32,
    sent: bool,
    /// How often it was sent.
    tries: u32,
    done: oneshot::Sender<Result<()>>,
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
    async fn run(mut self) {
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
        let mut backoff = super::fetcher::Backoff::new();
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
            lane.queue.push_back(Item {
                bytes: number(job.batch, numbered, sequence, in_transaction),
                sequence,
                sent: false,
                tries: 0,
                done: job.done,
            });
        }
    }

    /// Sends what may be sent now.
    async fn dispatch(&mut self) {
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
            let Some(item) = lane.queue.iter_mut().find(|item| !item.sent) else { continue };
            item.sent = true;
            item.tries += 1;
            lane.in_flight += 1;
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
            let Some(item) = lane.queue.iter_mut().find(|item| !item.sent) else { continue };
            item.sent = true;
            item.tries += 1;
            lane.in_flight += 1;
            let batches = vec![(partition.clone(), item.sequence)];
            let answer = writes.submit(&self.cluster, partition, item.bytes.clone());
            let flight =
                async move { Flown::Answered { round, node: None, batches, answer: answer.await } };
            self.flights.push(flight.boxed());
        }
    }

    fn landed(&mut self, flown: Flown) -> Result<()> {
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

impl Lane {
    fn may_send(&self) -> bool {
        let window = if self.mending { 1 } else { IN_FLIGHT_MAX };
        // What follows must not overtake what is to be sent again.
        self.retry_at.is_none()
            && self.in_flight < window
            && self.queue.iter().any(|item| !item.sent)
    }

    fn is_first(&self, sequence: i32) -> bool {
        self.queue.front().is_some_and(|item| item.sequence == sequence)
    }

    /// Gives the bytes that are free now.
    fn taken(&mut self, sequence: i32) -> usize {
        self.in_flight = self.in_flight.saturating_sub(1);
        let at = self.queue.iter().position(|item| item.sequence == sequence);
        let Some(item) = at.and_then(|at| self.queue.remove(at)) else { return 0 };
        self.mending = false;
        self.pause = Duration::ZERO;
        self.missing_since = None;
        let _ = item.done.send(Ok(()));
        item.bytes.len()
    }

    /// Its sequences are free again when nothing comes after it and it was sent only this once: an
    /// earlier copy may have been taken. Gives the bytes that are free now.
    fn refused(&mut self, sequence: i32, error: &Error) -> Option<usize> {
        let item = self.queue.pop_back_if(|item| item.sequence == sequence && item.tries == 1)?;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.next_sequence = sequence;
        let _ = item.done.send(Err(refusal(error)));
        Some(item.bytes.len())
    }

    /// It, and with it all that was sent after it, has to be sent again.
    fn not_taken(&mut self, sequence: i32) {
        self.pause = (self.pause * 2).clamp(Duration::from_millis(20), Duration::from_secs(2));
        self.not_taken_for(sequence, self.pause);
    }

    fn not_taken_for(&mut self, sequence: i32, pause: Duration) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(item) = self.queue.iter_mut().find(|item| item.sequence == sequence) {
            item.sent = false;
        }
        self.mending = true;
        self.retry_at = Some(Instant::now() + pause);
    }

    fn wait(&mut self) {
        self.pause = (self.pause * 2).clamp(Duration::from_millis(20), Duration::from_secs(2));
        self.retry_at = Some(Instant::now() + self.pause);
    }

    fn is_missing_for(&self, long: Duration) -> bool {
        self.missing_since.is_some_and(|since| since.elapsed() >= long)
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

/// The same once more, for the one who waits for the batch.
fn refusal(error: &Error) -> Error {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    let again = Error::new(error.disposition(), error.kind(), error.to_string());
    match source {
        Some(refused) => again.because(Refused::clone(refused)),
        None => again,
    }
}

/// The trouble that is nobody's in particular.
const CLUSTER: i64 = -1;

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

    fn lane(count: i32) -> (Lane, Vec<oneshot::Receiver<Result<()>>>) {
        let mut lane = Lane::default();
        let told = (0..count)
            .map(|sequence| {
                let (done, told) = oneshot::channel();
                lane.queue.push_back(Item {
                    bytes: Bytes::from_static(b"12345"),
                    sequence,
                    sent: false,
                    tries: 0,
                    done,
                });
                told
            })
            .collect();
        (lane, told)
    }

    fn send(lane: &mut Lane) -> i32 {
        assert!(lane.may_send());
        lane.in_flight += 1;
        let item = lane.queue.iter_mut().find(|item| !item.sent).expect("one to send");
        item.sent = true;
        item.sequence
    }

    #[test]
    fn what_was_not_taken_goes_again_alone_and_first() {
        let (mut lane, mut told) = lane(8);
        for expected in 0..5 {
            assert_eq!(send(&mut lane), expected);
        }
        assert!(!lane.may_send(), "five are in flight");
        assert_eq!(lane.taken(0), 5);
        lane.not_taken(1);
        lane.not_taken(2);
        assert!(!lane.may_send(), "it waits a moment");
        lane.retry_at = None;
        assert!(!lane.may_send(), "two are still in flight");
        lane.not_taken(3);
        lane.not_taken(4);
        lane.retry_at = None;
        assert_eq!(send(&mut lane), 1);
        assert!(!lane.may_send(), "one at a time");
        lane.taken(1);
        assert_eq!((send(&mut lane), send(&mut lane)), (2, 3));
        let told: Vec<_> = told.iter_mut().map(|told| told.try_recv().is_ok()).collect();
        assert_eq!(told, [true, true, false, false, false, false, false, false]);
    }

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
