//! Batches of records that are whole already, to one topic: dead letters.

use super::cluster::Cluster;
use super::destinations::Destinations;
use super::producer::Producer;
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_core::Result;
use millstream_log::EncodedBatch;
use std::sync::Arc;

/// What is written to, checked to be there. Cheap to clone.
#[derive(Clone)]
pub struct KafkaTopic {
    cluster: Cluster,
    destinations: Destinations,
    name: Arc<str>,
    partitions: u32,
    bytes_max: usize,
}

/// Writes for one partition task.
pub struct KafkaWriter {
    topic: KafkaTopic,
    producer: Producer,
}

impl KafkaTopic {
    pub async fn open(cluster: Cluster, name: &str) -> Result<Self> {
        let destinations = Destinations::new(cluster.clone());
        let name: Arc<str> = name.into();
        let found = destinations.get(&name).await?;
        let (partitions, bytes_max) = (found.partitions, found.bytes_max);
        Ok(Self { cluster, destinations, name, partitions, bytes_max })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A batch's bytes, at most.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    pub fn writer(&self) -> KafkaWriter {
        let learn = self.destinations.clone();
        let producer = Producer::start(
            self.cluster.clone(),
            &format!("`{}`", self.name),
            Arc::new(move |(topic, _), bytes| learn.too_large(topic, bytes)),
        );
        KafkaWriter { topic: self.clone(), producer }
    }
}

impl KafkaWriter {
    /// Hands batches in, in order. The future resolves when all of them are durable.
    pub fn append(
        &self,
        partition: u32,
        batches: Vec<EncodedBatch>,
    ) -> BoxFuture<'static, Result<()>> {
        let partition = (self.topic.name.clone(), (partition % self.topic.partitions) as i32);
        let submit = |batch| self.producer.submit(partition.clone(), batch);
        let acknowledged: Vec<_> = batches.into_iter().map(submit).collect();
        async move {
            for part in acknowledged {
                part.await?;
            }
            Ok(())
        }
        .boxed()
    }
}
