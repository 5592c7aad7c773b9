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
//!
//! Here is what others see of it; [`actor`] does the work.

mod actor;
mod lane;
mod unsent;

pub(super) use unsent::Held;

use super::cluster::Cluster;
use super::coordinator::{Coordinator, Number};
use actor::Actor;
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_core::{Disposition, Error, Result};
use millstream_log::EncodedBatch;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use unsent::Unsent;

/// What may wait or be in flight before `room` waits.
const BYTES_MAX: usize = 8 << 20;
/// The same where all tasks of a pipeline share one.
const BYTES_MAX_SHARED: usize = 32 << 20;

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
    /// Of a producer that is one sink's.
    unsent: Option<Arc<Unsent>>,
    /// When the first batch of the open transaction was sent.
    began: Mutex<Option<Instant>>,
    failed: Mutex<Option<Failure>>,
    closed: CancellationToken,
    /// Nobody takes jobs and orders any more.
    ended: AtomicBool,
}

/// With the actor's task, however it ends.
struct Ending(Arc<Shared>);

struct Job {
    partition: Partition,
    batch: Vec<u8>,
    records: i32,
    held: Option<Held>,
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
            unsent: coordinator.is_none().then(Arc::default),
            began: Mutex::default(),
            failed: Mutex::default(),
            closed: CancellationToken::new(),
            ended: AtomicBool::new(false),
        });
        let trouble = cluster.trouble(format!("writing to {name}"));
        let io = cluster.io().clone();
        let ending = Ending(shared.clone());
        let actor = Actor::new(shared.clone(), cluster, trouble, on_too_large, coordinator);
        io.spawn(async move {
            let _ending = ending;
            actor.run().await;
        });
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

    /// Ready while a batch that is taken in now is sent soon, and worth it.
    pub fn poll_takes(&self, context: &Context<'_>) -> Poll<()> {
        match &self.shared.unsent {
            Some(unsent) => unsent.poll_sent(context),
            None => Poll::Ready(()),
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
        let held = self.shared.unsent.as_ref().map(|unsent| unsent.hold(batch.len(), records));
        let (done, acknowledged) = oneshot::channel();
        let shared = self.shared.clone();
        let acknowledged =
            async move { acknowledged.await.unwrap_or_else(|_| Err(shared.failure().error())) };
        (Job { partition, batch, records, held, done }, acknowledged.boxed())
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
        {
            let mut orders = self.shared.orders.lock();
            match self.shared.has_ended() {
                false => orders.push_back(order(done)),
                true => drop(done),
            }
        }
        self.shared.submitted.notify_one();
        // An actor that is gone writes nothing.
        let _ = obeyed.await;
    }
}

impl Drop for Ending {
    /// Whoever waits is told.
    fn drop(&mut self) {
        let Ending(shared) = self;
        shared.ended.store(true, Ordering::SeqCst);
        let failure = shared.failure();
        shared.failed.lock().get_or_insert(failure);
        shared.jobs.lock().clear();
        shared.orders.lock().clear();
        shared.bytes.send_replace(0);
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
        if self.has_ended() {
            return;
        }
        let before = jobs.len();
        jobs.extend(new);
        let more: usize = jobs.range(before..).map(|job| job.batch.len()).sum();
        // Before anybody can acknowledge them.
        self.bytes.send_modify(|bytes| *bytes += more);
        drop(jobs);
        self.submitted.notify_one();
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
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

#[cfg(test)]
mod tests {
    use super::super::options::ClusterOptions;
    use super::*;
    use millstream_log::{BatchBuilder, Codec};
    use std::time::Duration;
    use tokio::runtime::Runtime;
    use tokio::time::timeout;

    fn batch() -> EncodedBatch {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(1, None, Some(b"v"), &[]);
        builder.finish()
    }

    #[test]
    fn one_whose_task_is_gone_leaves_nobody_waiting() {
        let (io, own) = (Runtime::new().unwrap(), Runtime::new().unwrap());
        // Nobody listens there.
        let options = ClusterOptions::new(vec!["127.0.0.1:1".into()], "test");
        let cluster = Cluster::new(options, io.handle().clone()).unwrap();
        let producer = Producer::start(cluster, "`t`", Arc::new(|_, _| {}));
        let before = producer.submit(("t".into(), 0), batch());
        io.shutdown_timeout(Duration::from_secs(10));
        let told = async {
            assert_eq!(before.await.unwrap_err().kind(), "closed");
            assert_eq!(producer.room().await.unwrap_err().kind(), "closed");
            let after = producer.submit(("t".into(), 0), batch()).await;
            assert_eq!(after.unwrap_err().disposition(), Disposition::Retry);
            producer.stand().await;
        };
        own.block_on(async { timeout(Duration::from_secs(10), told).await }).unwrap();
    }
}
