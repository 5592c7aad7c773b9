//! Batches of records that are whole already, to one topic: dead letters.

use super::cluster::Cluster;
use super::destinations::{Destination, Destinations};
use super::producer::Producer;
use super::transactions::KafkaTransactions;
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_core::{Error, Result};
use millstream_log::EncodedBatch;
use std::sync::Arc;
use uuid::Uuid;

/// What is written to, checked to be there. Cheap to clone.
#[derive(Clone)]
pub struct KafkaTopic {
    cluster: Cluster,
    destinations: Destinations,
    name: Arc<str>,
    found: Destination,
    /// Of the transactions that the letters are part of.
    shared: Option<Arc<Producer>>,
}

/// Writes for one partition task.
pub struct KafkaWriter {
    topic: KafkaTopic,
    producer: Arc<Producer>,
}

impl KafkaTopic {
    pub async fn open(cluster: Cluster, name: &str) -> Result<Self> {
        let destinations = Destinations::new(cluster.clone());
        Self::find(cluster, destinations, name, None).await
    }

    /// The same, as part of a pipeline's transactions.
    pub async fn in_transactions(transactions: &KafkaTransactions, name: &str) -> Result<Self> {
        let (cluster, destinations) = (transactions.cluster(), transactions.destinations());
        let producer = Some(transactions.producer());
        Self::find(cluster.clone(), destinations.clone(), name, producer).await
    }

    async fn find(
        cluster: Cluster,
        destinations: Destinations,
        name: &str,
        shared: Option<Arc<Producer>>,
    ) -> Result<Self> {
        let name: Arc<str> = name.into();
        let found = destinations.get(&name).await?;
        Ok(Self { cluster, destinations, name, found, shared })
    }

    /// The same, as no part of transactions.
    pub fn aside(&self) -> Self {
        Self { shared: None, ..self.clone() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Nil where the brokers are too old to have ids.
    pub fn id(&self) -> Uuid {
        self.found.id
    }

    pub fn partitions(&self) -> u32 {
        self.found.partitions
    }

    /// Whether a record without a key is refused.
    pub fn wants_keys(&self) -> bool {
        self.found.wants_keys
    }

    /// A batch's bytes, at most, as far as is known now.
    pub fn bytes_max(&self) -> usize {
        self.destinations.bytes_max_now(&self.name, self.found.bytes_max)
    }

    pub fn writer(&self) -> KafkaWriter {
        if let Some(producer) = &self.shared {
            return KafkaWriter { topic: self.clone(), producer: producer.clone() };
        }
        let learn = self.destinations.clone();
        let producer = Producer::start(
            self.cluster.clone(),
            &format!("`{}`", self.name),
            Arc::new(move |(topic, _), bytes| learn.too_large(topic, bytes)),
        );
        KafkaWriter { topic: self.clone(), producer: Arc::new(producer) }
    }
}

impl KafkaWriter {
    /// A batch's bytes, at most, as far as is known now.
    pub fn bytes_max(&self) -> usize {
        self.topic.bytes_max()
    }

    /// Hands batches in, in order. The future resolves when all of them are durable.
    pub fn append(
        &self,
        partition: u32,
        batches: Vec<EncodedBatch>,
    ) -> BoxFuture<'static, Result<()>> {
        let partition = (self.topic.name.clone(), (partition % self.topic.found.partitions) as i32);
        let submit = |batch| self.producer.submit(partition.clone(), batch);
        let acknowledged: Vec<_> = batches.into_iter().map(submit).collect();
        async move {
            for part in acknowledged {
                part.await.map_err(told)?;
            }
            Ok(())
        }
        .boxed()
    }
}

/// Nobody who comes again with the same record is heard.
fn told(error: Error) -> Error {
    match error.kind() {
        "refused" => Error::stop("refused", error.chain()),
        _ => error,
    }
}
