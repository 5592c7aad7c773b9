//! Transactions of a pipeline: what its sinks write becomes visible together with the offsets of
//! the rows that it was made of.
//!
//! ```text
//!  sinks, dead letters ─► one Producer ─► batches ─┐
//!                                                  ├─ commit: the group's offsets, then EndTxn
//!  Coordinator: number, partitions, the end ───────┘  abort: EndTxn, then where the commits are
//! ```
//!
//! The id outlives the process: its successor asks for a number with it, which fences what is left
//! of this one and gives up what it had open.

use super::cluster::Cluster;
use super::coordinator::{Coordinator, FENCED, Number};
use super::destinations::Destinations;
use super::group::Membership;
use super::producer::Producer;
use async_trait::async_trait;
use millstream_core::{Disposition, Error, Result, Transactions, fault};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct TransactionOptions {
    /// The same for a process and its successor, and no other process.
    pub id: String,
    /// After this the coordinator gives a transaction up by itself.
    pub timeout: Duration,
    /// Speaks as clients did before KIP-890, also where the brokers have it.
    pub older: bool,
}

/// What begins is told once more when a start takes this long.
const BEGIN_WITHIN: Duration = Duration::from_secs(120);

pub struct KafkaTransactions {
    cluster: Cluster,
    options: TransactionOptions,
    destinations: Destinations,
    coordinator: Arc<Coordinator>,
    producer: Arc<Producer>,
    number: Mutex<Number>,
    group: Mutex<Option<Arc<Membership>>>,
}

impl KafkaTransactions {
    /// Fences whoever had the id before, and gives up what it had open.
    pub async fn open(cluster: Cluster, options: TransactionOptions) -> Result<Self> {
        let TransactionOptions { id, timeout, older } = &options;
        let coordinator = Arc::new(Coordinator::new(cluster.clone(), id, *timeout, *older));
        let number = tokio::time::timeout(BEGIN_WITHIN, coordinator.init(None)).await;
        let number = number.map_err(|_| {
            Error::retry(
                "transaction",
                format!("the cluster gave `{id}` no number for its transactions in time"),
            )
        })??;
        let destinations = Destinations::new(cluster.clone());
        let learn = destinations.clone();
        let producer = Producer::in_transactions(
            cluster.clone(),
            &format!("the topics of `{id}`"),
            Arc::new(move |(topic, _), bytes| learn.too_large(topic, bytes)),
            coordinator.clone(),
        );
        producer.renumber(number).await;
        tracing::info!(id, producer = number.id, epoch = number.epoch, "transactions");
        Ok(Self {
            cluster,
            options,
            destinations,
            coordinator,
            producer: Arc::new(producer),
            number: Mutex::new(number),
            group: Mutex::default(),
        })
    }

    pub fn id(&self) -> &str {
        &self.options.id
    }

    /// What its sinks know of the topics they write.
    pub fn destinations(&self) -> &Destinations {
        &self.destinations
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(super) fn producer(&self) -> Arc<Producer> {
        self.producer.clone()
    }

    /// Whose offsets are committed.
    pub(super) fn bind(&self, group: Arc<Membership>) {
        *self.group.lock() = Some(group);
    }

    fn group(&self) -> Result<Arc<Membership>> {
        self.group.lock().clone().ok_or_else(|| Error::retry("no_group", "no group is joined yet"))
    }

    async fn become_number(&self, number: Number) {
        *self.number.lock() = number;
        self.producer.renumber(number).await;
    }

    /// Somebody has our id, or the coordinator gave our transaction up because it took too long.
    async fn after_fence(&self, number: Number) -> Result<Number> {
        match self.coordinator.init(Some(number)).await {
            Err(error) if error.kind() == FENCED => {}
            other => return other,
        }
        let began = self.producer.began();
        if began.is_none_or(|began| began.elapsed() < self.options.timeout * 9 / 10) {
            return Err(Error::stop(
                FENCED,
                format!(
                    "another process writes with the transactional id `{}`: let only one of them \
                     run, or give each a `transactional_id` of its own",
                    self.options.id
                ),
            ));
        }
        tracing::warn!(
            "transactions of `{}`: one took longer than `transaction_timeout` and was given up by \
             the cluster",
            self.options.id
        );
        self.coordinator.init(None).await
    }
}

#[async_trait]
impl Transactions for KafkaTransactions {
    async fn commit(&self, offsets: &[(u32, i64)]) -> Result<()> {
        let number = *self.number.lock();
        let group = self.group()?;
        if fault::bug("offsets_outside_transaction") {
            use millstream_core::Group;
            group.commit(offsets).await?;
            fault::point("kafka.offsets_sent");
            // An empty transaction cannot be committed.
            if self.producer.began().is_none() {
                return Ok(());
            }
            let next = self.coordinator.end(number, true).await?;
            self.become_number(next).await;
            return Ok(());
        }
        self.producer.begin();
        fault::point("kafka.offsets_due");
        let committed = group.commit_in(&self.coordinator, number, offsets).await?;
        fault::point("kafka.offsets_sent");
        let next = self.coordinator.end(number, true).await?;
        fault::point("kafka.transaction_committed");
        self.become_number(next).await;
        group.committed(&committed);
        Ok(())
    }

    async fn abort(&self) -> Result<()> {
        let number = *self.number.lock();
        self.producer.stand().await;
        let next = match self.producer.began() {
            None if number.newer => self.coordinator.init(Some(number)).await,
            None => Ok(number),
            Some(_) => match self.coordinator.end(number, false).await {
                Ok(next) if next.newer => Ok(next),
                // Some of our sequences are not known to have arrived: a new epoch begins with 0.
                Ok(next) => self.coordinator.init(Some(next)).await,
                Err(error) if error.disposition() == Disposition::Stop => Err(error),
                Err(error) => {
                    tracing::debug!("{}: {}", self.options.id, error.chain());
                    self.after_fence(number).await
                }
            },
        };
        let next = match next {
            Err(error) if error.kind() == FENCED && error.disposition() != Disposition::Stop => {
                self.after_fence(number).await?
            }
            other => other?,
        };
        // Whether the commit that failed was made is known by the group only.
        let group = self.group.lock().clone();
        if let Some(group) = group {
            group.look_at_commits().await?;
        }
        self.become_number(next).await;
        Ok(())
    }
}
