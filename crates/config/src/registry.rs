//! The options of a schema registry elsewhere, and how a sink's subject is named.

use crate::{Period, PipelineSpec, Secret, SinkTo, TlsSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A schema registry elsewhere: Confluent's, or one that answers as it does. Schemas that are known
/// go on being used while it cannot be reached; records with others wait for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RegistrySpec {
    /// Its addresses, as `http://host:port` or `https://host:port`: of one registry, the next is
    /// asked when one cannot be reached.
    #[schemars(length(min = 1))]
    pub url: Vec<String>,
    /// The user's name, where it wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "text"))]
    pub username: Option<String>,
    /// The user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// A bearer token, in place of a name and a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// Whom to trust and what to show at an `https` address. The system's authorities, and
    /// nothing, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
    /// Register the schemas of sinks. Without it they must be there: a sink without a
    /// `schema_file` writes with the newest of its subject.
    #[serde(default)]
    pub auto_register: bool,
    /// How long it may take to answer.
    #[serde(default = "timeout")]
    #[schemars(extend("x-positive" = true))]
    pub timeout: Period,
}

/// How the subject of a sink's schema is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubjectStrategy {
    /// `TOPIC-value`: one type a topic.
    #[default]
    Topic,
    /// The record's full name: a type is the same in all topics.
    Record,
    /// `TOPIC-` and the record's full name: several types a topic, each with its own versions.
    TopicRecord,
}

impl PipelineSpec {
    /// The registry of the source's schemas; the embedded one when there is none.
    pub fn source_registry(&self) -> Option<&RegistrySpec> {
        self.source.registry.as_ref().or(self.registry.as_ref())
    }

    /// The registry of a sink's schemas.
    pub fn sink_registry(&self, sink: usize) -> Option<&RegistrySpec> {
        let own = match &self.sinks[sink].to {
            SinkTo::Topic(to) => to.registry.as_deref(),
            SinkTo::Kafka(to) => to.registry.as_deref(),
            SinkTo::Table(_)
            | SinkTo::Cql(_)
            | SinkTo::Postgres(_)
            | SinkTo::Mongo(_)
            | SinkTo::Http(_)
            | SinkTo::Files(_)
            | SinkTo::Stdout(_)
            | SinkTo::Discard(_) => None,
        };
        own.or(self.registry.as_ref())
    }
}

fn timeout() -> Period {
    Period::seconds(10)
}
