"""A session with Cassandra, as its documentation tunes it for throughput."""

from cassandra import ConsistencyLevel
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy
from cassandra.query import tuple_factory

# Requests under way at most, as all others have.
CONCURRENCY = 128


def connect(node, user, password):
    host, port = node.split(":")
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy("dc1")),
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
        request_timeout=30,
        row_factory=tuple_factory,
    )
    cluster = Cluster(
        [host],
        port=int(port),
        auth_provider=PlainTextAuthProvider(user, password),
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
    )
    return cluster, cluster.connect("bench")


def uid(user):
    """A user's name, as the generator of the records gives it (SplitMix64)."""
    mask = (1 << 64) - 1
    mixed = (user + 0x9E3779B97F4A7C15) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    return f"u{mixed ^ (mixed >> 31):016x}"
