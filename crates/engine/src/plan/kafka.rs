//! What a Kafka cluster has of what a file names: asked when it is planned, so that what `check`
//! accepts runs.

use super::{Planner, SinkPlan};
use crate::kafka;
use arrow_schema::SchemaRef;
use millstream_config::{KafkaCluster, KafkaFrom, KafkaSink as SinkOptions, PipelineSpec};
use millstream_connectors::kafka::{Cluster, Destinations, KafkaSink, Target};
use millstream_core::Source;
use std::sync::Arc;
use tokio::runtime::Handle;

impl Planner<'_> {
    /// How many partitions the topics have; `None` after a mistake.
    pub(super) async fn kafka_source(
        &mut self,
        spec: &PipelineSpec,
        from: &KafkaFrom,
    ) -> Option<u32> {
        let cluster = self.kafka_cluster(&from.cluster, "/source/kafka")?;
        match kafka::source(spec, from, cluster).await {
            Ok(source) => Some(source.partitions()),
            Err(error) => {
                self.mistake("/source/kafka", error.chain(), None);
                None
            }
        }
    }

    pub(super) async fn kafka_sink(
        &mut self,
        at: usize,
        to: &SinkOptions,
        schema: &SchemaRef,
    ) -> Option<SinkPlan> {
        let target = kafka::target(to);
        if let Err(message) = KafkaSink::accepts(schema, &target, &kafka::columns(to)) {
            self.mistake(&format!("/sinks/{at}"), message, None);
            return None;
        }
        let path = format!("/sinks/{at}/kafka");
        let cluster = self.kafka_cluster(&to.kafka.cluster, &path)?;
        match &target {
            Target::Topic(topic) => self.kafka_topic(cluster, topic, &path).await?,
            Target::Column(_) => {}
        }
        let to_topic = to.kafka.label().to_owned();
        let schema = self.topic_schema(at, &to.format, &to_topic, schema).await?;
        let to = match target {
            Target::Topic(topic) => format!("topic {topic}"),
            Target::Column(column) => format!("the topics of column {column}"),
        };
        Some(SinkPlan::Kafka { to, schema })
    }

    pub(super) async fn kafka_dead_letters(&mut self, options: &KafkaCluster, topic: &str) {
        let path = "/dead_letters/kafka";
        if let Some(cluster) = self.kafka_cluster(options, path) {
            let _ = self.kafka_topic(cluster, &topic.into(), path).await;
        }
    }

    fn kafka_cluster(&mut self, options: &KafkaCluster, path: &str) -> Option<Cluster> {
        match kafka::cluster(options, self.file, &Handle::current()) {
            Ok(cluster) => Some(cluster),
            Err(error) => {
                self.mistake(path, format!("{error:#}"), None);
                None
            }
        }
    }

    async fn kafka_topic(&mut self, cluster: Cluster, topic: &Arc<str>, path: &str) -> Option<()> {
        match Destinations::new(cluster).check(topic).await {
            Ok(()) => Some(()),
            Err(error) => {
                self.mistake(path, error.chain(), None);
                None
            }
        }
    }
}
