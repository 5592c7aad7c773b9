"""Apache Cassandra: one node, or three in two racks.

Every client needs a name and a password. With TLS, which is on the same port, it needs a certificate
as well.
"""

import os
import shutil
import socket
import struct

from real.certificates import USERS, certificates, shared_env
from real.fetch import MAVEN_DEPENDENCY_PLUGIN, download, maven, need_for
from real.process import HOME, PORT, Failure, Unit, free

CASSANDRA_VERSION = "5.0.8"

# Where a node listens for clients, for other nodes, and for its own tools.
CQL, STORAGE, JMX = 42, 43, 44

# What Cassandra reaches into since Java has modules.
EXPORTS = """
java.base/jdk.internal.misc java.base/jdk.internal.ref java.base/java.lang.ref java.base/sun.nio.ch
java.management.rmi/com.sun.jmx.remote.internal.rmi java.rmi/sun.rmi.registry
java.rmi/sun.rmi.server java.rmi/sun.rmi.transport.tcp java.sql/java.sql jdk.unsupported/sun.misc
jdk.attach/sun.tools.attach jdk.compiler/com.sun.tools.javac.api
jdk.compiler/com.sun.tools.javac.file jdk.compiler/com.sun.tools.javac.parser
jdk.compiler/com.sun.tools.javac.tree jdk.compiler/com.sun.tools.javac.util
""".split()
OPENS = """
java.base/java.io java.base/java.lang java.base/java.lang.module java.base/java.lang.reflect
java.base/java.nio java.base/java.util java.base/java.util.concurrent
java.base/java.util.concurrent.atomic java.base/jdk.internal.loader java.base/jdk.internal.math
java.base/jdk.internal.module java.base/jdk.internal.ref java.base/jdk.internal.reflect
java.base/sun.nio.ch jdk.compiler/com.sun.tools.javac
jdk.management/com.sun.management.internal
""".split()


def cassandra_jars():
    return download(
        "cassandra",
        CASSANDRA_VERSION,
        lambda folder: maven(
            folder,
            [("org.apache.cassandra", "cassandra-all", CASSANDRA_VERSION)],
            f"{MAVEN_DEPENDENCY_PLUGIN}:copy-dependencies",
        ),
    )


class Node(Unit):
    def __init__(self, name, address, port, rack, token, seeds, heap, survives_kills=False):
        super().__init__(name)
        self.address, self.port, self.rack, self.token = address, port, rack, token
        self.seeds, self.heap, self.survives_kills = seeds, heap, survives_kills

    def settings(self):
        certs = certificates()
        seeds = ",".join(f"{seed}:{self.port + STORAGE}" for seed in self.seeds)
        # Otherwise what was confirmed in the last moments before a kill may be gone.
        sync = "commitlog_sync: periodic\ncommitlog_sync_period: 10000ms"
        if self.survives_kills:
            sync = "commitlog_sync: batch"
        return f"""\
cluster_name: millstream
num_tokens: 1
initial_token: "{self.token}"
auto_bootstrap: false
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: GossipingPropertyFileSnitch
listen_address: {self.address}
rpc_address: {self.address}
storage_port: {self.port + STORAGE}
ssl_storage_port: {self.port + STORAGE}
start_native_transport: true
native_transport_port: {self.port + CQL}
authenticator: PasswordAuthenticator
authorizer: CassandraAuthorizer
role_manager: CassandraRoleManager
credentials_validity: 100ms
roles_validity: 100ms
permissions_validity: 100ms
client_encryption_options:
  enabled: true
  optional: true
  require_client_auth: true
  ssl_context_factory:
    class_name: org.apache.cassandra.security.PEMBasedSslContextFactory
  keystore: {certs / "server-store.pem"}
  truststore: {certs / "ca.pem"}
{sync}
commitlog_segment_size: 8MiB
memtable:
  configurations:
    trie: {{class_name: TrieMemtable}}
    default: {{inherits: trie}}
file_cache_size: 32MiB
auto_snapshot: false
sasi_indexes_enabled: false
materialized_views_enabled: false
batch_size_fail_threshold: 50KiB
data_file_directories: [{self.data}/data]
commitlog_directory: {self.data}/commitlog
saved_caches_directory: {self.data}/saved_caches
hints_directory: {self.data}/hints
cdc_raw_directory: {self.data}/cdc_raw
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [{{ seeds: "{seeds}" }}]
"""

    def start(self):
        jars = cassandra_jars()
        free([self.port + CQL, self.port + STORAGE], self.address)
        free([self.port + JMX + int(self.address[-1])])
        conf = HOME / "conf" / self.name
        conf.mkdir(parents=True, exist_ok=True)
        settings = self.settings()
        # What was made with other settings is of no use with these.
        known = conf / "cassandra.yaml"
        if known.exists() and known.read_text() != settings:
            shutil.rmtree(self.data, ignore_errors=True)
        known.write_text(settings)
        self.data.mkdir(parents=True, exist_ok=True)
        (conf / "rackdc.properties").write_text(f"dc=dc1\nrack={self.rack}\n")
        (conf / "logback.xml").write_text(
            '<configuration><appender name="out" class="ch.qos.logback.core.ConsoleAppender">'
            "<encoder><pattern>%-5level %date{HH:mm:ss,SSS} %msg%n</pattern></encoder></appender>"
            '<root level="WARN"><appender-ref ref="out"/></root></configuration>\n'
        )
        agent = next(jars.glob("jamm-*.jar"), None)
        if agent is None:
            raise Failure(f"Cassandra's jars in {jars} are not complete; delete that directory")
        heap = os.environ.get("MILLSTREAM_CASSANDRA_HEAP") or self.heap
        properties = {
            "cassandra.config": f"file://{conf}/cassandra.yaml",
            "cassandra-rackdc.properties": f"file://{conf}/rackdc.properties",
            "cassandra.storagedir": self.data,
            "cassandra.jmx.local.port": self.port + JMX + int(self.address[-1]),
            "cassandra.skip_wait_for_gossip_to_settle": 0,
            "cassandra.ring_delay_ms": 1000,
            "cassandra.superuser_setup_delay_ms": 0,
            "cassandra.auth_bcrypt_gensalt_log2_rounds": 4,
            "cassandra-foreground": "yes",
            "logback.configurationFile": conf / "logback.xml",
            "io.netty.tryReflectionSetAccessible": "true",
            "jdk.attach.allowAttachSelf": "true",
        }
        flags = [f"-Xmx{heap}", f"-Xms{heap}", "-XX:+UseG1GC", "-ea:none", f"-javaagent:{agent}"]
        flags += [word for name in EXPORTS for word in ("--add-exports", f"{name}=ALL-UNNAMED")]
        flags += [word for name in OPENS for word in ("--add-opens", f"{name}=ALL-UNNAMED")]
        flags += [f"-D{key}={value}" for key, value in properties.items()]
        daemon = "org.apache.cassandra.service.CassandraDaemon"
        self.launch(["java", *flags, "-cp", f"{jars}/*", daemon])

    def client(self):
        return Cql(self.address, self.port + CQL, "cassandra", "cassandra")


class Cassandra:
    def __init__(self, name, prefix, units, what):
        self.name, self.prefix, self.units, self.what = name, prefix, units, what

    def setup(self):
        need_for("cassandra", CASSANDRA_VERSION)
        cassandra_jars()
        certificates()

    def start(self, units):
        self.setup()
        for unit in units:
            unit.start()

    def answers(self, units):
        """All that run know of each other, and the users are there."""
        running = sum(1 for unit in self.units if unit.pid() is not None)
        try:
            for unit in units:
                with unit.client() as client:
                    if client.rows("SELECT peer FROM system.peers_v2") < running - 1:
                        return False
            with units[0].client() as client:
                # The copies of users must outlive any one node.
                client.rows(
                    "ALTER KEYSPACE system_auth WITH replication = "
                    f"{{'class': 'NetworkTopologyStrategy', 'dc1': {len(self.units)}}}"
                )
                for user, word in USERS.items():
                    role = f"{user} WITH PASSWORD = '{word}' AND LOGIN = true"
                    rights = " AND SUPERUSER = true" if user == "alice" else ""
                    client.rows(f"CREATE ROLE IF NOT EXISTS {role}{rights}")
        except (OSError, Refused):
            return False
        return True

    def forget(self):
        for unit in self.units:
            shutil.rmtree(unit.data, ignore_errors=True)

    def env(self):
        nodes = ",".join(f"{unit.address}:{unit.port + CQL}" for unit in self.units)
        return {f"{self.prefix}_NODES": nodes} | shared_env()


class Refused(Exception):
    """Cassandra's own words."""


class Cql:
    """As much of the protocol (version 4) as asking needs."""

    def __init__(self, host, port, user, password):
        self.stream = socket.create_connection((host, port), timeout=10)
        self.reader = self.stream.makefile("rb")
        options = {"CQL_VERSION": "3.0.0"}
        body = struct.pack(">H", len(options))
        body += b"".join(text(key) + text(value) for key, value in options.items())
        if self.ask(1, body)[0] == 3:
            token = f"\0{user}\0{password}".encode()
            self.ask(15, struct.pack(">i", len(token)) + token)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reader.close()
        self.stream.close()

    def ask(self, opcode, body):
        self.stream.sendall(struct.pack(">BBHBi", 4, 0, 0, opcode, len(body)) + body)
        head = self.reader.read(9)
        if len(head) < 9:
            raise OSError("the connection was closed")
        (length,) = struct.unpack_from(">i", head, 5)
        answer = self.reader.read(length)
        if head[4] == 0:
            raise Refused(answer[6:].decode(errors="replace"))
        return head[4], answer

    def rows(self, query):
        """How many rows the answer has."""
        # Without the columns' names the count comes right after their number.
        body = struct.pack(">i", len(query)) + query.encode() + struct.pack(">HB", 1, 2)
        _, answer = self.ask(7, body)
        (kind,) = struct.unpack_from(">i", answer)
        if kind != 2:
            return 0
        flags, _columns = struct.unpack_from(">ii", answer, 4)
        at = 12
        if flags & 2:
            (paging,) = struct.unpack_from(">i", answer, at)
            at += 4 + max(paging, 0)
        return struct.unpack_from(">i", answer, at)[0]


def text(value):
    return struct.pack(">H", len(value)) + value.encode()


def cluster():
    addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    tokens = [-(2**63), -(2**63) // 3, 2**63 // 3]
    return [
        Node(f"cassandra-{n}", address, PORT + 100, f"rack{1 + n % 2}", token, addresses, "448m")
        for n, (address, token) in enumerate(zip(addresses, tokens), 1)
    ]


ONE = Cassandra(
    "cassandra",
    "CASSANDRA",
    [Node("cassandra", "127.0.0.1", PORT, "rack1", 0, ["127.0.0.1"], "768m")],
    "one node",
)
THREE = Cassandra("cassandra-cluster", "CASSANDRA_CLUSTER", cluster(), "three nodes in two racks")
OWN = Cassandra(
    "cassandra-own",
    "CASSANDRA_OWN",
    [Node("cassandra-own", "127.0.0.1", PORT + 10, "rack1", 0, ["127.0.0.1"], "448m", True)],
    "one node",
)
