"""Apache Kafka: one broker, or three that elect their controller."""

import base64
import hashlib
import os
import shutil
import socket
import struct
import subprocess
import uuid

from real.certificates import USERS, certificates, shared_env
from real.fetch import MAVEN_DEPENDENCY_PLUGIN, download, maven, need, need_for
from real.process import HOME, PORT, Failure, Unit, free, locked

KAFKA_VERSION = "4.1.1"

LISTENERS = {  # name: (offset of the port, offset of the advertised one, protocol)
    "PLAIN": (92, 92, "PLAINTEXT"),
    "TLS": (93, 93, "SSL"),
    "MTLS": (94, 94, "SSL"),
    "SASL": (95, 95, "SASL_PLAINTEXT"),
    "SASL_TLS": (96, 96, "SASL_SSL"),
    "PROXIED": (98, 99, "PLAINTEXT"),
}
CONTROLLER = 97


def kafka_jars():
    return download(
        "kafka",
        KAFKA_VERSION,
        lambda folder: maven(
            folder,
            [
                ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
                ("org.apache.kafka", "kafka-tools", KAFKA_VERSION),
                ("org.slf4j", "slf4j-simple", "1.7.36"),
            ],
            f"{MAVEN_DEPENDENCY_PLUGIN}:copy-dependencies",
        ),
    )


class Broker(Unit):
    def __init__(self, name, node, port, peers, heap):
        super().__init__(name)
        self.node, self.port, self.peers, self.heap = node, port, peers, heap

    def ports(self):
        return [self.port + own for own, _, _ in LISTENERS.values()] + [self.port + CONTROLLER]

    def properties(self):
        certs, nodes = certificates(), len(self.peers)
        plain = " ".join(f'user_{user}="{word}"' for user, word in USERS.items())
        modules = "org.apache.kafka.common.security"
        lines = {
            "process.roles": "broker,controller",
            "node.id": self.node,
            "controller.quorum.voters": ",".join(
                f"{node}@127.0.0.1:{port + CONTROLLER}" for node, port in self.peers
            ),
            "listeners": ",".join(
                [f"{name}://127.0.0.1:{self.port + own}" for name, (own, _, _) in LISTENERS.items()]
                + [f"CONTROLLER://127.0.0.1:{self.port + CONTROLLER}"]
            ),
            "advertised.listeners": ",".join(
                f"{name}://127.0.0.1:{self.port + told}" for name, (_, told, _) in LISTENERS.items()
            ),
            "listener.security.protocol.map": ",".join(
                [f"{name}:{protocol}" for name, (_, _, protocol) in LISTENERS.items()]
                + ["CONTROLLER:PLAINTEXT"]
            ),
            "inter.broker.listener.name": "PLAIN",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self.data / "log",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "true",
            "auto.create.topics.enable": "false",
            "num.partitions": 1,
            "default.replication.factor": nodes,
            "min.insync.replicas": min(2, nodes),
            "offsets.topic.num.partitions": 4,
            "offsets.topic.replication.factor": nodes,
            "transaction.state.log.num.partitions": 4,
            "transaction.state.log.replication.factor": nodes,
            "transaction.state.log.min.isr": min(2, nodes),
            "share.coordinator.state.topic.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": nodes,
            "share.coordinator.state.topic.min.isr": min(2, nodes),
            # Tests wait for brokers and members that vanish; the defaults are for slow networks.
            "broker.session.timeout.ms": 5000,
            "broker.heartbeat.interval.ms": 1000,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "group.coordinator.rebalance.protocols": "classic,consumer",
            "group.consumer.min.session.timeout.ms": 2000,
            "group.consumer.session.timeout.ms": 10000,
            "group.consumer.min.heartbeat.interval.ms": 200,
            "group.consumer.heartbeat.interval.ms": 1000,
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
            # Retention and compaction are seen to work within a test.
            "log.retention.hours": 24,
            "log.retention.check.interval.ms": 2000,
            "log.segment.delete.delay.ms": 1000,
            "log.cleaner.backoff.ms": 1000,
            # What a broker takes on a small machine.
            "log.segment.bytes": 256 << 20,
            "log.index.size.max.bytes": 1 << 20,
            "log.cleaner.dedupe.buffer.size": 16 << 20,
            "num.network.threads": 2,
            "num.io.threads": 4,
            "num.recovery.threads.per.data.dir": 2,
            # Not a minute later, in the midst of something that is measured.
            "file.delete.delay.ms": 1000,
        }
        for listener in ("tls", "mtls", "sasl_tls"):
            prefix = f"listener.name.{listener}.ssl"
            lines |= {
                f"{prefix}.keystore.type": "PEM",
                f"{prefix}.keystore.location": certs / "server-store.pem",
                f"{prefix}.truststore.type": "PEM",
                f"{prefix}.truststore.location": certs / "ca.pem",
                f"{prefix}.client.auth": "required" if listener == "mtls" else "none",
            }
        # A client's certificate makes it User:alice, without the rest of the name.
        lines["listener.name.mtls.ssl.principal.mapping.rules"] = "RULE:^CN=([^,]+).*$/$1/,DEFAULT"
        for listener in ("sasl", "sasl_tls"):
            prefix = f"listener.name.{listener}"
            lines |= {
                f"{prefix}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
                f"{prefix}.plain.sasl.jaas.config": f"{modules}.plain.PlainLoginModule required {plain};",
                f"{prefix}.scram-sha-256.sasl.jaas.config": f"{modules}.scram.ScramLoginModule required;",
                f"{prefix}.scram-sha-512.sasl.jaas.config": f"{modules}.scram.ScramLoginModule required;",
                f"{prefix}.oauthbearer.sasl.jaas.config": (
                    f"{modules}.oauthbearer.OAuthBearerLoginModule required "
                    'unsecuredLoginStringClaim_sub="broker";'
                ),
            }
        # There a login holds for four seconds, so that tests see it renewed.
        for mechanism in ("plain", "scram-sha-256", "scram-sha-512", "oauthbearer"):
            lines[f"listener.name.sasl_tls.{mechanism}.connections.max.reauth.ms"] = 4000
        return "".join(f"{key}={value}\n" for key, value in lines.items())

    def start(self, cluster_id):
        """Formats its directory when that is new, or was made for other settings; then starts."""
        jars = kafka_jars()
        free(self.ports())
        config, properties = HOME / "conf" / f"{self.name}.properties", self.properties()
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(properties)
        stamp = self.data / "made-for"
        made_for = hashlib.sha256(f"{cluster_id}\n{properties}".encode()).hexdigest()
        if not stamp.exists() or stamp.read_text() != made_for:
            shutil.rmtree(self.data, ignore_errors=True)
            self.data.mkdir(parents=True)
            scram = []
            for user, word in USERS.items():
                for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                    scram += ["--add-scram", f"{mechanism}=[name={user},password={word}]"]
            tool = ["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(config), *scram]
            run = subprocess.run(java(jars, "256m", *tool), capture_output=True, text=True)
            if run.returncode != 0:
                raise Failure(f"{self.name} could not be formatted:\n{(run.stdout + run.stderr).strip()}")
            stamp.write_text(made_for)
        heap = os.environ.get("MILLSTREAM_KAFKA_HEAP") or self.heap
        self.launch(java(jars, heap, "kafka.Kafka", str(config), flags=["-XX:+UseG1GC"]))

    def answers(self):
        """It names itself, and a controller, in its answer to a Metadata request."""
        seen = kafka_nodes(self.port + LISTENERS["PLAIN"][0])
        return seen is not None and self.node in seen


class Kafka:
    def __init__(self, name, prefix, units, what):
        self.name, self.prefix, self.units, self.what = name, prefix, units, what

    def setup(self):
        need_for("kafka", KAFKA_VERSION)
        kafka_jars()
        certificates()

    def start(self, units):
        self.setup()
        identity = HOME / "data" / f"{self.name}.id"
        if not identity.exists():
            identity.parent.mkdir(parents=True, exist_ok=True)
            # A letter first: Kafka takes an id that begins with a dash for an option.
            identity.write_text("m" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22])
        for unit in units:
            unit.start(identity.read_text())

    def answers(self, units):
        """All that run know of each other, so that a test finds a leader for what it creates."""
        running = {unit.node for unit in self.units if unit.pid() is not None}
        for unit in units:
            seen = kafka_nodes(unit.port + LISTENERS["PLAIN"][0])
            if seen is None or not running <= seen:
                return False
        return True

    def forget(self):
        for unit in self.units:
            shutil.rmtree(unit.data, ignore_errors=True)
        (HOME / "data" / f"{self.name}.id").unlink(missing_ok=True)

    def bootstrap(self, listener):
        told = LISTENERS[listener][1]
        return ",".join(f"127.0.0.1:{unit.port + told}" for unit in self.units)

    def upstream(self):
        """Where a proxy at the advertised address has to pass bytes on to."""
        return ",".join(f"127.0.0.1:{unit.port + LISTENERS['PROXIED'][0]}" for unit in self.units)

    def env(self):
        lines = {
            f"{self.prefix}_BOOTSTRAP": self.bootstrap("PLAIN"),
            f"{self.prefix}_TLS": self.bootstrap("TLS"),
            f"{self.prefix}_MTLS": self.bootstrap("MTLS"),
            f"{self.prefix}_SASL": self.bootstrap("SASL"),
            f"{self.prefix}_SASL_TLS": self.bootstrap("SASL_TLS"),
            f"{self.prefix}_PROXIED": self.bootstrap("PROXIED"),
            f"{self.prefix}_PROXIED_UPSTREAM": self.upstream(),
        }
        return lines | shared_env()


def java(jars, heap, *command, flags=()):
    logging = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    return ["java", f"-Xmx{heap}", *flags, logging, "-cp", f"{jars}/*", *command]


def kafka_nodes(port):
    """The ids of the brokers that this one knows to be alive; None while it does not answer."""
    body = struct.pack(">hhih8s", 3, 4, 1, 8, b"services") + struct.pack(">ib", 0, 0)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=3) as stream:
            stream.sendall(struct.pack(">i", len(body)) + body)
            reader = stream.makefile("rb")
            (length,) = struct.unpack(">i", reader.read(4))
            answer = reader.read(length)
        nodes, at = set(), 12
        (count,) = struct.unpack_from(">i", answer, 8)
        for _ in range(count):
            node, host = struct.unpack_from(">ih", answer, at)
            at += 6 + host + 4
            (rack,) = struct.unpack_from(">h", answer, at)
            at += 2 + max(rack, 0)
            nodes.add(node)
        (cluster,) = struct.unpack_from(">h", answer, at)
        (controller,) = struct.unpack_from(">i", answer, at + 2 + max(cluster, 0))
        return nodes if controller >= 0 else None
    except (OSError, struct.error):
        return None


TOOLS = {
    "topics": "org.apache.kafka.tools.TopicCommand",
    "groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "configs": "kafka.admin.ConfigCommand",
    "acls": "org.apache.kafka.tools.AclCommand",
    "offsets": "org.apache.kafka.tools.GetOffsetShell",
    "delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
    "leader-election": "org.apache.kafka.tools.LeaderElectionCommand",
    "reassign": "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
    "transactions": "org.apache.kafka.tools.TransactionsCommand",
    "broker-api-versions": "org.apache.kafka.tools.BrokerApiVersionsCommand",
    "produce": "org.apache.kafka.tools.ConsoleProducer",
    "consume": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "verifiable-produce": "org.apache.kafka.tools.VerifiableProducer",
    "verifiable-consume": "org.apache.kafka.tools.VerifiableConsumer",
    "perf-produce": "org.apache.kafka.tools.ProducerPerformance",
    "perf-consume": "org.apache.kafka.tools.ConsumerPerformance",
    "dump-log": "kafka.tools.DumpLogSegments",
}


def tool(arguments):
    """Kafka's own tool in our place, against the one broker unless --cluster or an address is given."""
    where = ONE
    if arguments[:1] == ["--cluster"]:
        where, arguments = THREE, arguments[1:]
    if not arguments or arguments[0] not in TOOLS:
        tools = " ".join(TOOLS)
        raise Failure(f"usage: services kafka [--cluster] TOOL ARGS...; TOOL: {tools}", 2)
    need("java")
    name, rest = arguments[0], arguments[1:]
    bootstrap = where.bootstrap("PLAIN")
    if name == "perf-produce":
        setting = f"bootstrap.servers={bootstrap}"
        if "--producer-props" not in rest:
            rest += ["--producer-props", setting]
        elif not any(word.startswith("bootstrap.servers=") for word in rest):
            rest.insert(rest.index("--producer-props") + 1, setting)
    elif name != "dump-log" and not any(word.startswith("--bootstrap-") for word in rest):
        rest = ["--bootstrap-server", bootstrap, *rest]
    with locked("lock"):
        jars = kafka_jars()
    command = java(jars, "512m", TOOLS[name], *rest)
    os.execvp(command[0], command)


def cluster():
    peers = [(node, PORT + 100 * node) for node in (1, 2, 3)]
    return [Broker(f"kafka-{node}", node, port, peers, "320m") for node, port in peers]


ONE = Kafka("kafka", "KAFKA", [Broker("kafka", 1, PORT, [(1, PORT)], "448m")], "one broker")
THREE = Kafka("kafka-cluster", "KAFKA_CLUSTER", cluster(), "three brokers")
