//! From the options of a Kafka cluster to a connector.

use anyhow::anyhow;
use millstream_config::{
    GroupProtocol, Isolation, KafkaCluster, KafkaFrom, KafkaSink as SinkOptions, KafkaStart,
    LostOffset, Pipeline as PipelineFile, PipelineSpec, SaslMechanism,
};
use millstream_connectors::RecordColumns;
use millstream_connectors::kafka::{
    Cluster, ClusterOptions, GroupOptions, Hidden, KafkaSource, KafkaSourceOptions, Mechanism,
    OnLostOffset, Protocol, SaslOptions, StartAt, Target, TlsOptions, Topics,
};
use millstream_core::Result;
use tokio::runtime::Handle;

/// The cluster as its options say; nothing is connected yet. Connections live on `io`.
pub fn cluster(
    options: &KafkaCluster,
    file: &PipelineFile,
    io: &Handle,
) -> anyhow::Result<Cluster> {
    let client_id = format!("millstream-{}", file.spec.pipeline);
    let mut cluster = ClusterOptions::new(options.brokers.clone(), client_id);
    cluster.request_timeout = options.request_timeout.0;
    cluster.metadata_refresh = options.metadata_refresh.0;
    cluster.tls = options.tls.as_ref().map(|tls| TlsOptions {
        ca: tls.ca.as_ref().map(|path| file.resolve(path)),
        certificate: tls.certificate.as_ref().map(|path| file.resolve(path)),
        key: tls.key.as_ref().map(|path| file.resolve(path)),
    });
    cluster.sasl = options.sasl.as_ref().map(|sasl| SaslOptions {
        mechanism: match sasl.mechanism {
            SaslMechanism::Plain => Mechanism::Plain,
            SaslMechanism::ScramSha256 => Mechanism::ScramSha256,
            SaslMechanism::ScramSha512 => Mechanism::ScramSha512,
            SaslMechanism::OAuthBearer => Mechanism::OAuthBearer,
        },
        username: sasl.username.clone().unwrap_or_default(),
        password: Hidden(sasl.password.as_ref().map_or("", |p| p.reveal()).to_owned()),
        token_file: sasl.token_file.as_ref().map(|path| file.resolve(path)),
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
    }
}
