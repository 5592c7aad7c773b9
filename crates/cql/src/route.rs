//! Requests whose keys we have grouped by replica go to that replica first.

use scylla::cluster::{ClusterState, NodeRef};
use scylla::policies::load_balancing::{FallbackPlan, LoadBalancingPolicy, RoutingInfo};
use scylla::routing::Shard;
use std::sync::Arc;

/// A node and its shard first, then the others as the policy below says.
#[derive(Debug)]
pub(crate) struct Towards {
    pub node: uuid::Uuid,
    pub shard: Option<Shard>,
    pub otherwise: Arc<dyn LoadBalancingPolicy>,
}

impl LoadBalancingPolicy for Towards {
    fn pick<'a>(
        &'a self,
        request: &'a RoutingInfo,
        cluster: &'a ClusterState,
    ) -> Option<(NodeRef<'a>, Option<Shard>)> {
        match cluster.get_node_by_host_id(self.node) {
            Some(node) if node.is_connected() => Some((node, self.shard)),
            _ => self.otherwise.pick(request, cluster),
        }
    }

    fn fallback<'a>(
        &'a self,
        request: &'a RoutingInfo,
        cluster: &'a ClusterState,
    ) -> FallbackPlan<'a> {
        // The driver would know the node again only with its shard: it would be asked twice.
        let others = self.otherwise.fallback(request, cluster);
        Box::new(others.filter(|(node, _)| node.host_id != self.node))
    }

    fn name(&self) -> String {
        "towards a replica".into()
    }
}
