//! The options of a Kafka cluster, as source, sink and place of dead letters.

use crate::{Compression, EncodeSpec, Moment, Period, RegistrySpec, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Topics of a Kafka cluster, read as a member of a consumer group, which keeps the offsets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "kafka"))]
pub struct KafkaSource {
    /// The cluster, and what to read there.
    pub kafka: KafkaFrom,
}

/// The cluster, and what to read there: a `topic`, several `topics`, or those that a `pattern` matches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KafkaFrom {
    #[serde(flatten)]
    pub cluster: KafkaCluster,
    /// The topic to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub topic: Option<String>,
    /// Several topics to read. Their records have one format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub topics: Option<Vec<String>>,
    /// A regular expression: topics whose whole name matches are read, also those made later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "regex"))]
    pub pattern: Option<String>,
    /// The consumer group. The pipeline's name unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub group: Option<String>,
    /// Where to begin in a partition that the group has no offset of.
    #[serde(default)]
    pub start: KafkaStart,
    /// Begin there instead at the first record at or after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Moment>,
    /// Which records of transactions are read.
    #[serde(default)]
    pub isolation: Isolation,
    /// What to do when the offset to read next is not there any more: the topic's retention deleted it,
    /// or the log was cut back because a replica that lacked records became leader.
    #[serde(default)]
    pub on_lost_offset: LostOffset,
    /// A name of this process that outlives it (static membership): after a restart within
    /// `session_timeout` it has its partitions again, and nobody else was disturbed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub instance: Option<String>,
    /// How the group shares its partitions out.
    #[serde(default)]
    pub protocol: GroupProtocol,
    /// How long the group waits for a member that does not answer. The newer protocol takes the
    /// broker's setting.
    #[serde(default = "session_timeout")]
    #[schemars(extend("x-positive" = true))]
    pub session_timeout: Period,
    /// How long a member may take to finish what it has in flight of a partition that it gives up.
    #[serde(default = "rebalance_timeout")]
    #[schemars(extend("x-positive" = true))]
    pub rebalance_timeout: Period,
}

/// A cluster, and who we are to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KafkaCluster {
    /// Some brokers as `host:port`; the others are learnt from them.
    #[schemars(length(min = 1))]
    pub brokers: Vec<String>,
    /// Encrypt the connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
    /// Log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<SaslSpec>,
    /// How long a broker may take to answer.
    #[serde(default = "request_timeout")]
    #[schemars(extend("x-positive" = true))]
    pub request_timeout: Period,
    /// How often to look for new topics and partitions.
    #[serde(default = "metadata_refresh")]
    #[schemars(extend("x-positive" = true))]
    pub metadata_refresh: Period,
}

/// Encrypted connections. Files are read again when they change.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TlsSpec {
    /// A PEM file with the certificates to trust. The system's unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub ca: Option<PathBuf>,
    /// A PEM file with the certificate to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub certificate: Option<PathBuf>,
    /// A PEM file with that certificate's private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub key: Option<PathBuf>,
}

/// How to log in: with a name and a password, or with a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SaslSpec {
    /// The way to prove it.
    pub mechanism: SaslMechanism,
    /// The user's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub username: Option<String>,
    /// The user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// The token for `oauthbearer`: `${VAR}` for one that holds as long as the process lives, a file
    /// for one that is renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// A file with the token for `oauthbearer`, read anew for each connection; there is a new one
    /// before the broker's time for a token is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SaslMechanism {
    /// Name and password as they are: give `tls` with it.
    #[serde(rename = "plain")]
    Plain,
    /// SCRAM-SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// SCRAM-SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
    /// A bearer token.
    #[serde(rename = "oauthbearer")]
    OAuthBearer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KafkaStart {
    /// At the oldest record.
    #[default]
    Earliest,
    /// At the records that come from now on.
    Latest,
    /// Nowhere: the partition holds until an offset is set.
    Committed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Those of transactions that were committed.
    #[default]
    ReadCommitted,
    /// All.
    ReadUncommitted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LostOffset {
    /// The partition holds and says so.
    #[default]
    Hold,
    /// Go on at the oldest record that is there; what is missing is counted.
    Earliest,
    /// Go on at the records that come from now on; what is missing is counted.
    Latest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupProtocol {
    /// The newer one where the broker has it, else the classic one.
    #[default]
    Auto,
    /// The newer one (KIP-848) and no other.
    Consumer,
    /// The classic one, with cooperative rebalancing.
    Classic,
}

/// A topic of a Kafka cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-chosen-by" = "kafka"))]
pub struct KafkaSink {
    /// The cluster, and the topic to write there.
    pub kafka: KafkaTo,
    /// The column that is the record's key: rows of one key stay in order. No key unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub key: Option<String>,
    /// The column with the record's headers, a map<string> or map<bytes>. None unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub headers: Option<String>,
    /// How rows become records.
    pub format: EncodeSpec,
    /// The schema registry of this sink's schemas. The pipeline's unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<Box<RegistrySpec>>,
    /// How batches are compressed.
    #[serde(default = "lz4")]
    pub compression: Compression,
    /// The column with the record's time. The time of the write unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub timestamp: Option<String>,
    /// The column, a boolean, that says which rows are tombstones: records without a value, by which
    /// a compacted topic forgets their key. It is not part of the value. None unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub tombstone: Option<String>,
}

/// The cluster, and the topic to write there: a `topic`, or the one that a column names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KafkaTo {
    #[serde(flatten)]
    pub cluster: KafkaCluster,
    /// The topic to write. It must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub topic: Option<String>,
    /// The column that names each row's topic. A row whose topic is not there is a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub topic_column: Option<String>,
}

impl KafkaFrom {
    /// The topics' names or their pattern, for positions and metrics.
    pub fn name(&self) -> String {
        match (&self.topic, &self.topics, &self.pattern) {
            (Some(topic), _, _) => topic.clone(),
            (_, Some(topics), _) => topics.join(","),
            (_, _, Some(pattern)) => pattern.clone(),
            _ => String::new(),
        }
    }
}

impl KafkaTo {
    /// The topic's name, or the column's that names it.
    pub fn label(&self) -> &str {
        self.topic.as_deref().or(self.topic_column.as_deref()).unwrap_or("kafka")
    }
}

fn session_timeout() -> Period {
    Period::seconds(45)
}

fn rebalance_timeout() -> Period {
    Period::seconds(60)
}

fn request_timeout() -> Period {
    Period::seconds(30)
}

fn metadata_refresh() -> Period {
    Period::seconds(30)
}

fn lz4() -> Compression {
    Compression::Lz4
}
