"""The clusters that the example runs on, by the variables that navigation.yaml has too."""

import json
import logging
import os
import urllib.request
from pathlib import Path

from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy
from cassandra.query import tuple_factory
from confluent_kafka import Consumer, TopicPartition

HERE = Path(__file__).resolve().parent
SPACE = os.environ.get("SPACE", "navigation")
BROKERS = os.environ.get("KAFKA_BROKERS", "127.0.0.1:9092")
MONGO = os.environ.get("MONGO_HOST", "127.0.0.1:27017")
REGISTRY = os.environ.get("REGISTRY_URL", "http://127.0.0.1:8081")
SOURCE, ENRICHED, DEAD = SPACE, f"{SPACE}.enriched", f"{SPACE}.dead"
PARTITIONS = 20

logging.getLogger("cassandra").setLevel(logging.ERROR)


def cassandra():
    host, port = os.environ.get("CASSANDRA_NODE", "127.0.0.1:9042").split(":")
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy("dc1")),
        request_timeout=60,
        row_factory=tuple_factory,
    )
    user = os.environ.get("CASSANDRA_USER", "navigation")
    cluster = Cluster(
        [host],
        port=int(port),
        auth_provider=PlainTextAuthProvider(user, os.environ["CASSANDRA_PASSWORD"]),
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        protocol_version=5,
    )
    return cluster, cluster.connect()


def registry(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
    request = urllib.request.Request(f"{REGISTRY}{path}", data, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def whole(topic):
    """All records of a topic, those of a partition in order."""
    consumer = Consumer(
        {"bootstrap.servers": BROKERS, "group.id": "nobody", "enable.auto.commit": False}
    )
    ends = {}
    for partition in range(PARTITIONS):
        at = TopicPartition(topic, partition, 0)
        first, end = consumer.get_watermark_offsets(at, timeout=30)
        if first != 0:
            raise SystemExit(f"{topic} {partition}: retention took its beginning")
        if end > 0:
            ends[partition] = end
    consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
    while ends:
        for message in consumer.consume(1000, timeout=1.0):
            if message.error():
                raise SystemExit(f"{topic}: {message.error()}")
            yield message
            if message.offset() + 1 >= ends.get(message.partition(), 0):
                ends.pop(message.partition(), None)
    consumer.close()
