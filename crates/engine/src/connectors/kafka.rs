//! From the options of a Kafka cluster to a connector.

use super::{credential, tls};
use anyhow::{Context, anyhow};
use millstream_config::{
    Delivery, GroupProtocol, Isolation, KafkaCluster, KafkaFrom, KafkaSink as SinkOptions,
    KafkaStart, LostOffset, Pipeline as PipelineFile, PipelineSpec, SaslMechanism, SourceFrom,
    TopicSink as TopicOptions,
};
use millstream_connectors::kafka::{
    Cluster, ClusterOptions, GroupOptions, KafkaSource, KafkaSourceOptions, KafkaTransactions,
    Mechanism, OnLostOffset, Protocol, SaslOptions, StartAt, Target, Topics, TransactionOptions,
    Troubles,
};
use millstream_connectors::{Home, RecordColumns};
use millstream_core::{Credential, Result, fault};
use std::time::Duration;
use tokio::runtime::Handle;

/// After so long the cluster gives up a transaction that is not ended.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// The cluster as its options say; nothing is connected yet. Connections live on `io`.
pub fn cluster(
    options: &KafkaCluster,
    file: &PipelineFile,
    io: &Handle,
) -> anyhow::Result<Cluster> {
    watched_cluster(options, file, io, &Troubles::default())
}

/// The same; what it waits for is told there.
pub fn watched_cluster(
    options: &KafkaCluster,
    file: &PipelineFile,
    io: &Handle,
    troubles: &Troubles,
) -> anyhow::Result<Cluster> {
    let client_id = format!("millstream-{}", file.spec.pipeline);
    let mut cluster = ClusterOptions::new(options.brokers.clone(), client_id);
    cluster.request_timeout = options.request_timeout.0;
    cluster.metadata_refresh = options.metadata_refresh.0;
    cluster.troubles = troubles.clone();
    cluster.tls = options.tls.as_ref().map(|tls| tls::options(tls, file));
    cluster.sasl = options.sasl.as_ref().map(|sasl| SaslOptions {
        mechanism: match sasl.mechanism {
            SaslMechanism::Plain => Mechanism::Plain,
            SaslMechanism::ScramSha256 => Mechanism::ScramSha256,
            SaslMechanism::ScramSha512 => Mechanism::ScramSha512,
            SaslMechanism::OAuthBearer => Mechanism::OAuthBearer,
        },
        username: sasl.username.clone().unwrap_or_default(),
        secret: match (sasl.mechanism, &sasl.token_file) {
            (SaslMechanism::OAuthBearer, Some(path)) => Credential::File(file.resolve(path)),
            (SaslMechanism::OAuthBearer, None) => credential::or_empty(sasl.token.as_ref()),
            _ => credential::or_empty(sasl.password.as_ref()),
        },
    });
    Cluster::new(cluster, io.clone()).map_err(|error| anyhow!(error.chain()))
}

pub fn topics(from: &KafkaFrom) -> Result<Topics> {
    match (&from.topic, &from.topics, &from.pattern) {
        (_, _, Some(pattern)) => Topics::matching(pattern),
        (topic, topics, None) => {
            let named = topic.iter().chain(topics.iter().flatten());
            Ok(Topics::Named(named.map(|name| name.as_str().into()).collect()))
        }
    }
}

/// The transactions of a pipeline that asks for them; whoever had them before is fenced.
pub async fn transactions(
    spec: &PipelineSpec,
    file: &PipelineFile,
    home: &Home,
    io: &Handle,
    troubles: &Troubles,
) -> anyhow::Result<Option<KafkaTransactions>> {
    let SourceFrom::Kafka(from) = &spec.source.from else { return Ok(None) };
    if spec.delivery != Delivery::ExactlyOnce {
        return Ok(None);
    }
    let from = &from.kafka;
    let group = from.group.as_ref().unwrap_or(&spec.pipeline);
    let begin = match (&spec.transactional_id, *group == spec.pipeline) {
        (Some(given), _) => given.clone(),
        (None, true) => spec.pipeline.clone(),
        (None, false) => format!("{group}-{}", spec.pipeline),
    };
    let who = match &from.instance {
        Some(instance) => instance.clone(),
        None => home.identity().context("reading who this data directory is")?,
    };
    let options = TransactionOptions {
        id: format!("{begin}-{who}"),
        timeout: transaction_timeout(spec),
        older: fault::bug("older_transactions"),
    };
    let cluster = watched_cluster(&from.cluster, file, io, troubles)?;
    Ok(Some(KafkaTransactions::open(cluster, options).await?))
}

pub fn transaction_timeout(spec: &PipelineSpec) -> Duration {
    spec.transaction_timeout.map_or(TRANSACTION_TIMEOUT, |given| given.0)
}

/// Sees that the topics are there. The group is joined later.
pub async fn source(
    spec: &PipelineSpec,
    from: &KafkaFrom,
    cluster: Cluster,
) -> Result<KafkaSource> {
    let mut group = GroupOptions::new(from.group.clone().unwrap_or_else(|| spec.pipeline.clone()));
    group.instance = from.instance.clone();
    group.start = match (from.start_time, from.start) {
        (Some(time), _) => StartAt::Time(time.0),
        (None, KafkaStart::Earliest) => StartAt::Earliest,
        (None, KafkaStart::Latest) => StartAt::Latest,
        (None, KafkaStart::Committed) => StartAt::Committed,
    };
    group.protocol = match from.protocol {
        GroupProtocol::Auto => Protocol::Auto,
        GroupProtocol::Consumer => Protocol::Consumer,
        GroupProtocol::Classic => Protocol::Classic,
    };
    group.session_timeout = from.session_timeout.0;
    group.rebalance_timeout = from.rebalance_timeout.0;
    let options = KafkaSourceOptions {
        topics: topics(from)?,
        group,
        committed_only: from.isolation == Isolation::ReadCommitted,
        on_lost_offset: match from.on_lost_offset {
            LostOffset::Hold => OnLostOffset::Hold,
            LostOffset::Earliest => OnLostOffset::Earliest,
            LostOffset::Latest => OnLostOffset::Latest,
        },
        batch_rows: spec.batch.max_rows as usize,
        batch_bytes: spec.batch.max_bytes.0 as usize,
    };
    KafkaSource::open(cluster, options).await
}

/// A topic that is read to its end and on, without a group.
pub async fn topic(name: &str, cluster: Cluster) -> Result<KafkaSource> {
    let options = KafkaSourceOptions {
        topics: Topics::Named([name.into()].into()),
        // Nobody joins it.
        group: GroupOptions::new(String::new()),
        committed_only: true,
        on_lost_offset: OnLostOffset::Hold,
        batch_rows: 1024,
        batch_bytes: 1 << 20,
    };
    KafkaSource::open(cluster, options).await
}

pub fn target(to: &SinkOptions) -> Target {
    match &to.kafka.topic_column {
        Some(column) => Target::Column(column.clone()),
        None => Target::Topic(to.kafka.topic.as_deref().unwrap_or_default().into()),
    }
}

pub fn columns(to: &SinkOptions) -> RecordColumns {
    RecordColumns {
        key: to.key.clone(),
        timestamp: to.timestamp.clone(),
        headers: to.headers.clone(),
        tombstone: to.tombstone.clone(),
    }
}

/// The same of a topic of the embedded log.
pub fn topic_columns(to: &TopicOptions) -> RecordColumns {
    RecordColumns {
        key: to.key.clone(),
        timestamp: to.timestamp.clone(),
        headers: None,
        tombstone: to.tombstone.clone(),
    }
}
