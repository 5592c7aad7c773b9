//! One session with a cluster, shared by everything that asks it.

use crate::direct::{Direct, Doors, token};
use crate::{error, tls};
use async_trait::async_trait;
use millstream_core::{Credential, Error, Result};
use millstream_tls::TlsOptions;
use scylla::authentication::{AuthError, AuthenticatorProvider, AuthenticatorSession};
use scylla::client::PoolSize;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::load_balancing::{DefaultPolicy, LoadBalancingPolicy};
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use scylla::policies::timestamp_generator::MonotonicTimestampGenerator;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

pub use scylla::statement::{Consistency, SerialConsistency};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterOptions {
    /// Some nodes as `host:port`; the others are learnt from them.
    pub nodes: Vec<String>,
    /// Whose nodes are asked first, and whose rack of it.
    pub datacenter: Option<String>,
    pub rack: Option<String>,
    /// A password in a file is read for each connection.
    pub user: Option<(String, Credential)>,
    pub tls: Option<TlsOptions>,
    pub connections: NonZeroUsize,
    pub connect_timeout: Duration,
}

/// How the statements of one look-up or sink are executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    pub consistency: Consistency,
    pub timeout: Duration,
    /// Ask another node too when the first is silent for so long; only what may be done twice.
    pub speculative_after: Option<Duration>,
}

pub struct Cluster {
    pub(crate) session: Session,
    pub(crate) routing: Arc<dyn LoadBalancingPolicy>,
    pub(crate) direct: Arc<Direct>,
    options: ClusterOptions,
    /// Where the driver's tasks run.
    pub(crate) io: Handle,
}

/// A connection that nothing comes back on is asked for a sign so often: of one whose other end is
/// gone without a word the system says nothing for a quarter of an hour.
const ALIVE_EVERY: Duration = Duration::from_secs(5);

impl Cluster {
    /// Connects; the driver's tasks run on `io`.
    pub async fn connect(options: ClusterOptions, io: &Handle) -> Result<Arc<Cluster>> {
        let what = format!("Cassandra at {} cannot be reached", options.nodes.join(", "));
        let routing = routing(&options);
        let profile = ExecutionProfile::builder()
            .load_balancing_policy(routing.clone())
            .build()
            .into_handle();
        let stamps = Arc::new(MonotonicTimestampGenerator::new().without_warnings());
        let tls = options.tls.as_ref().map(tls::config).transpose()?;
        let doors = Doors {
            user: options.user.clone(),
            tls: tls.clone(),
            patience: options.connect_timeout,
        };
        let direct = Direct::new(doors, options.connections.get(), stamps.clone(), io);
        let mut builder = SessionBuilder::new()
            .known_nodes(&options.nodes)
            .default_execution_profile_handle(profile)
            .pool_size(PoolSize::PerHost(options.connections))
            .connection_timeout(options.connect_timeout)
            .keepalive_interval(ALIVE_EVERY)
            .keepalive_timeout((options.connect_timeout * 2).max(ALIVE_EVERY))
            .timestamp_generator(stamps)
            .tcp_nodelay(true);
        if let Some((user, password)) = &options.user {
            builder = builder.authenticator_provider(Arc::new(Login {
                user: user.clone(),
                password: password.clone(),
            }));
        }
        if let Some(tls) = tls {
            builder = builder.tls_context(Some(tls));
        }
        let (connect, patience) = (io.spawn(async move { builder.build().await }), 2);
        let session = tokio::time::timeout(options.connect_timeout * patience, connect).await;
        let session = match session {
            Ok(Ok(session)) => session.map_err(|error| error::of_session(error, &what))?,
            Ok(Err(panic)) => return Err(Error::stop("cql", what).because(panic)),
            Err(_) => return Err(Error::retry("unreachable", what)),
        };
        Ok(Arc::new(Cluster { session, routing, direct, options, io: io.clone() }))
    }

    /// Learns tables and nodes anew, which otherwise happens when the cluster tells of a change, and
    /// once a minute.
    pub async fn refresh(&self) -> Result<()> {
        let refreshed = self.session.refresh_metadata().await;
        refreshed.map_err(|e| Error::retry("unreachable", "learning the tables").because(e))
    }

    /// The data centre and the rack of each node.
    pub fn places(&self) -> Vec<(Option<String>, Option<String>)> {
        let state = self.session.get_cluster_state();
        let nodes = state.get_nodes_info().iter();
        nodes.map(|node| (node.datacenter.clone(), node.rack.clone())).collect()
    }

    pub fn options(&self) -> &ClusterOptions {
        &self.options
    }

    pub(crate) fn profile(&self, execution: &Execution) -> ExecutionProfile {
        let mut profile = ExecutionProfile::builder()
            .load_balancing_policy(self.routing.clone())
            .consistency(execution.consistency)
            .request_timeout(Some(execution.timeout));
        if let Some(after) = execution.speculative_after {
            let policy =
                SimpleSpeculativeExecutionPolicy { max_retry_count: 1, retry_interval: after };
            profile = profile.speculative_execution_policy(Some(Arc::new(policy)));
        }
        profile.build()
    }

    /// Whether there is more than one node to choose from.
    pub(crate) fn has_choice(&self) -> bool {
        self.session.get_cluster_state().get_nodes_info().len() > 1
    }
}

fn routing(options: &ClusterOptions) -> Arc<dyn LoadBalancingPolicy> {
    let policy = DefaultPolicy::builder().token_aware(true);
    let policy = match (&options.datacenter, &options.rack) {
        (Some(datacenter), Some(rack)) => {
            policy.prefer_datacenter_and_rack(datacenter.clone(), rack.clone())
        }
        (Some(datacenter), None) => policy.prefer_datacenter(datacenter.clone()),
        (None, _) => policy,
    };
    policy.permit_dc_failover(options.datacenter.is_none()).build()
}

/// Name and password, for the server's PLAIN authenticator.
struct Login {
    user: String,
    password: Credential,
}

#[async_trait]
impl AuthenticatorProvider for Login {
    async fn start_authentication_session(
        &self,
        _: &str,
    ) -> Result<(Option<Vec<u8>>, Box<dyn AuthenticatorSession>), AuthError> {
        Ok((Some(token(&self.user, &self.password)?), Box::new(LoggingIn)))
    }
}

struct LoggingIn;

#[async_trait]
impl AuthenticatorSession for LoggingIn {
    async fn evaluate_challenge(&mut self, _: Option<&[u8]>) -> Result<Option<Vec<u8>>, AuthError> {
        Err("the server asks for more than a name and a password".into())
    }

    async fn success(&mut self, _: Option<&[u8]>) -> Result<(), AuthError> {
        Ok(())
    }
}
