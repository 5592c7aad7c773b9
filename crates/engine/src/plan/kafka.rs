//! What a Kafka cluster has of what a file names: asked when it is planned, so that what `check`
//! accepts runs.

use super::{Planner, SinkPlan};
use crate::connectors::kafka;
use arrow_schema::SchemaRef;
use millstream_config::{
    KafkaCluster, KafkaFrom, KafkaSink as SinkOptions, PipelineSpec, SinkTo, SourceFrom,
};
use millstream_connectors::kafka::{Cluster, Destinations, KafkaSink, Target};
use millstream_core::{Disposition, Error, Source};
use std::sync::Arc;
use tokio::runtime::Handle;

impl Planner<'_> {
    /// How many partitions the topics have. After a mistake one, so that what has nothing to do with
    /// it is checked too.
    pub(super) async fn kafka_source(&mut self, spec: &PipelineSpec, from: &KafkaFrom) -> u32 {
        let path = "/source/kafka";
        let Some(cluster) = self.kafka_cluster(&from.cluster, path) else { return 1 };
        match kafka::source(spec, from, cluster).await {
            Ok(source) => source.partitions(),
            Err(error) => {
                let field = match (&from.topic, &from.topics, &from.pattern) {
                    (Some(_), ..) => "topic",
                    (_, Some(_), _) => "topics",
                    _ => "pattern",
                };
                self.kafka_refusal(&from.cluster, path, field, &error);
                1
            }
        }
    }

    pub(super) async fn kafka_sink(
        &mut self,
        at: usize,
        to: &SinkOptions,
        schema: &SchemaRef,
    ) -> Option<SinkPlan> {
        let (target, columns) = (kafka::target(to), kafka::columns(to));
        let path = format!("/sinks/{at}/kafka");
        if let Target::Topic(topic) = &target {
            self.kafka_topic(&to.kafka.cluster, topic, &path, "topic").await;
        }
        if let Err(message) = KafkaSink::accepts(schema, &target, &columns) {
            self.mistake(&format!("/sinks/{at}"), message, None);
            return None;
        }
        let to_topic = to.kafka.label().to_owned();
        let schema =
            self.topic_schema(at, &to.format, &to_topic, &columns.value_schema(schema)).await?;
        let to = match target {
            Target::Topic(topic) => format!("topic {topic}"),
            Target::Column(column) => format!("the topics of column {column}"),
        };
        Some(SinkPlan::Kafka { to, schema })
    }

    pub(super) async fn kafka_dead_letters(&mut self, options: &KafkaCluster, topic: &str) {
        self.kafka_topic(options, &topic.into(), "/dead_letters", "topic").await;
    }

    /// Transactions end at their cluster, and at their time.
    pub(super) async fn one_cluster(&mut self, spec: &PipelineSpec) {
        let timeout = kafka::transaction_timeout(spec);
        if spec.commit_interval.0 > timeout / 2 {
            self.mistake(
                "/commit_interval",
                format!(
                    "a transaction is open for `commit_interval` ({} s), and the cluster gives it \
                     up after `transaction_timeout` ({} s)",
                    spec.commit_interval.0.as_secs_f32(),
                    timeout.as_secs_f32()
                ),
                Some("let it be at most half of that".into()),
            );
        }
        let SourceFrom::Kafka(from) = &spec.source.from else { return };
        let source = &from.kafka.cluster;
        let sinks = spec.sinks.iter().enumerate().filter_map(|(at, sink)| match &sink.to {
            SinkTo::Kafka(to) => Some((format!("/sinks/{at}/kafka/brokers"), &to.kafka.cluster)),
            _ => None,
        });
        let letters = spec.dead_letters.as_ref().and_then(|given| given.kafka.as_ref());
        let letters = letters.map(|to| ("/dead_letters/kafka/brokers".to_owned(), to));
        let mut here = None;
        for (path, other) in sinks.chain(letters) {
            if other.brokers == source.brokers {
                continue;
            }
            if here.is_none() {
                here = self.cluster_id(source, "/source/kafka").await;
            }
            let there = self.cluster_id(other, &path).await;
            if let (Some(here), Some(there)) = (&here, there)
                && *here != there
            {
                self.mistake(
                    &path,
                    "this is another cluster than the source's: a transaction cannot span both",
                    Some("name brokers of the source's cluster, or remove `delivery`".into()),
                );
            }
        }
    }

    async fn cluster_id(&mut self, options: &KafkaCluster, path: &str) -> Option<String> {
        let cluster = self.kafka_cluster(options, path)?;
        match cluster.id().await {
            Ok(id) => id,
            Err(error) => {
                self.refusal(path, &error, None);
                None
            }
        }
    }

    /// The cluster, when it is to be asked and not known to be away.
    fn kafka_cluster(&mut self, options: &KafkaCluster, path: &str) -> Option<Cluster> {
        if !self.catalog.asks_elsewhere() || self.away.contains(&options.brokers) {
            return None;
        }
        match kafka::cluster(options, self.file, &Handle::current()) {
            Ok(cluster) => Some(cluster),
            Err(error) => {
                self.mistake(path, format!("{error:#}"), None);
                None
            }
        }
    }

    pub(super) async fn kafka_topic(
        &mut self,
        options: &KafkaCluster,
        topic: &Arc<str>,
        path: &str,
        field: &str,
    ) {
        let Some(cluster) = self.kafka_cluster(options, path) else { return };
        if let Err(error) = Destinations::new(cluster).check(topic).await {
            self.kafka_refusal(options, path, field, &error);
        }
    }

    /// A cluster that cannot be reached may be there in a moment: the file is not to blame. It is
    /// said once.
    fn kafka_refusal(&mut self, options: &KafkaCluster, path: &str, field: &str, error: &Error) {
        let is_of_topic = matches!(error.kind(), "no_topic" | "not_authorised" | "invalid_topic");
        if is_of_topic {
            return self.refusal(&format!("{path}/{field}"), error, None);
        }
        self.away.push(options.brokers.clone());
        let is_away = error.disposition() == Disposition::Retry;
        self.refusal(path, error, is_away.then(|| "start it, or correct `brokers`".into()));
    }
}
