//! How to reach a cluster: brokers, TLS, SASL.

use super::trouble::Troubles;
use millstream_core::Credential;
use millstream_tls::TlsOptions;
use std::time::Duration;

/// A cluster, and who we are to it.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// `host:port` of some brokers; the others are learnt from them.
    pub brokers: Vec<String>,
    /// What the broker's logs and quotas call us.
    pub client_id: String,
    /// Files that are read again for a new connection when they have changed.
    pub tls: Option<TlsOptions>,
    pub sasl: Option<SaslOptions>,
    /// How long a broker may take to answer.
    pub request_timeout: Duration,
    /// How often to look for new topics, partitions and leaders.
    pub metadata_refresh: Duration,
    /// Where it is told what is waited for.
    pub troubles: Troubles,
}

#[derive(Debug, Clone)]
pub struct SaslOptions {
    pub mechanism: Mechanism,
    pub username: String,
    /// The password, or the token for [`Mechanism::OAuthBearer`]. A file is read for each connection.
    pub secret: Credential,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    ScramSha256,
    ScramSha512,
    OAuthBearer,
}

impl ClusterOptions {
    pub fn new(brokers: Vec<String>, client_id: impl Into<String>) -> Self {
        Self {
            brokers,
            client_id: client_id.into(),
            tls: None,
            sasl: None,
            request_timeout: Duration::from_secs(30),
            metadata_refresh: Duration::from_secs(30),
            troubles: Troubles::default(),
        }
    }
}

impl Mechanism {
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
            Mechanism::OAuthBearer => "OAUTHBEARER",
        }
    }
}
