//! Writes on connections of our own: the driver's way of a request costs several times what is in it.
//!
//! ```text
//!  a batch ─► the node that the driver's policy picks ─► connection ─► stored
//!                 │ none is open yet, ScyllaDB                 │ anything else
//!                 └────────────────► the driver ◄──────────────┘
//! ```
//!
//! Only what may be done twice goes here, since whatever does not end well is done again by the
//! driver: it prepares again, knows every error, and learns which nodes there are. ScyllaDB's shards
//! and tablets are known to the driver alone.

mod connection;
mod frames;
mod open;

pub(crate) use connection::{Answer, Answers, Connection};
pub(crate) use frames::Statement;
pub(crate) use open::{Doors, token};

use parking_lot::Mutex;
use scylla::cluster::{ClusterState, Node, NodeRef};
use scylla::policies::load_balancing::{LoadBalancingPolicy, RoutingInfo};
use scylla::policies::timestamp_generator::TimestampGenerator;
use scylla::routing::Token;
use scylla::statement::prepared::PreparedStatement;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// How long a node that could not be reached is left to the driver.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

pub(crate) struct Direct {
    myself: Weak<Direct>,
    doors: Arc<Doors>,
    /// To each node.
    connections: usize,
    /// The driver's: what goes either way is stamped in order.
    stamps: Arc<dyn TimestampGenerator>,
    io: Handle,
    /// By address: a node may get another.
    nodes: Mutex<HashMap<SocketAddr, Connections>>,
}

#[derive(Default)]
struct Connections {
    open: Vec<Arc<Connection>>,
    next: usize,
    opening: bool,
    not_before: Option<Instant>,
}

impl Direct {
    pub fn new(
        doors: Doors,
        connections: usize,
        stamps: Arc<dyn TimestampGenerator>,
        io: &Handle,
    ) -> Arc<Direct> {
        Arc::new_cyclic(|myself| Direct {
            myself: myself.clone(),
            doors: Arc::new(doors),
            connections,
            stamps,
            io: io.clone(),
            nodes: Mutex::default(),
        })
    }

    pub fn stamp(&self) -> i64 {
        self.stamps.next_timestamp()
    }

    /// A connection to this node. Where one is missing it is opened meanwhile.
    pub fn connection(&self, node: NodeRef<'_>) -> Option<Arc<Connection>> {
        if node.sharder().is_some() {
            return None;
        }
        let address = address_of(node);
        let mut nodes = self.nodes.lock();
        let known = nodes.entry(address).or_default();
        known.open.retain(|connection| !connection.is_closed());
        if known.open.len() < self.connections
            && !known.opening
            && known.not_before.is_none_or(|then| then <= Instant::now())
        {
            known.opening = true;
            self.io.spawn(open(self.myself.clone(), self.doors.clone(), address));
        }
        known.next = known.next.wrapping_add(1);
        let at = known.next % known.open.len().max(1);
        known.open.get(at).cloned()
    }

    /// Closes those to nodes that are not there any more.
    fn keep(&self, state: &ClusterState) {
        let mut nodes = self.nodes.lock();
        if nodes.len() > state.get_nodes_info().len() {
            let there: HashSet<_> = state.get_nodes_info().iter().map(address_of).collect();
            nodes.retain(|address, _| there.contains(address));
        }
    }
}

fn address_of(node: NodeRef<'_>) -> SocketAddr {
    SocketAddr::new(node.address.ip(), node.address.port())
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.open.iter().for_each(|connection| connection.close());
    }
}

async fn open(direct: Weak<Direct>, doors: Arc<Doors>, address: SocketAddr) {
    let opened = doors.open(address).await;
    let Some(direct) = direct.upgrade() else { return };
    let mut nodes = direct.nodes.lock();
    let Some(node) = nodes.get_mut(&address) else { return };
    node.opening = false;
    match opened {
        Ok(_) if node.open.len() >= direct.connections => {}
        Ok(opened) => {
            let connection = Arc::new(Connection::new());
            node.open.push(connection.clone());
            direct.io.spawn(async move { connection.run(opened.read, opened.write).await });
        }
        Err(why) => {
            tracing::debug!("no connection to {address} for writing: {why}");
            node.not_before = Some(Instant::now() + AGAIN_AFTER);
        }
    }
}

/// To which nodes the statements of a batch go.
pub(crate) struct Ways {
    direct: Arc<Direct>,
    policy: Arc<dyn LoadBalancingPolicy>,
    state: Arc<ClusterState>,
    /// Of a cluster of one node, if the policy lets us ask it.
    alone: Option<Arc<Node>>,
    pub prepared: Arc<PreparedStatement>,
}

impl Ways {
    pub fn new(
        direct: Arc<Direct>,
        policy: Arc<dyn LoadBalancingPolicy>,
        state: Arc<ClusterState>,
        prepared: Arc<PreparedStatement>,
    ) -> Ways {
        direct.keep(&state);
        let alone = match state.get_nodes_info() {
            [_] => policy.pick(&RoutingInfo::default(), &state).map(|(node, _)| node.clone()),
            _ => None,
        };
        Ways { direct, policy, state, alone, prepared }
    }

    /// A connection for a key, whose token is asked for where that makes a difference.
    pub fn connection(
        &self,
        token: impl FnOnce(&ClusterState) -> Option<Token>,
    ) -> Option<Arc<Connection>> {
        if let [_] = self.state.get_nodes_info() {
            return self.direct.connection(self.alone.as_ref()?);
        }
        let mut info = RoutingInfo::default();
        info.token = token(&self.state);
        info.table = self.prepared.get_table_spec();
        let (node, _) = self.policy.pick(&info, &self.state)?;
        self.direct.connection(node)
    }
}
