"""Confluent's Python client, as anybody would use it."""

import sys
import threading
import time

from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

bootstrap = {"bootstrap.servers": sys.argv[1]}
admin = AdminClient(bootstrap)


def done(futures):
    return {key: future.result(30) for key, future in futures.items()}


def admin_works():
    done(admin.create_topics([NewTopic("a", 3, 1, config={"retention.ms": "3600000"}), NewTopic("gone", 1)]))
    try:
        done(admin.create_topics([NewTopic("a", 3, 1)]))
        raise AssertionError("a topic was made twice")
    except KafkaException as error:
        assert error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS, error
    try:
        done(admin.create_topics([NewTopic("b", 1, 3)]))
        raise AssertionError("there is one broker")
    except KafkaException as error:
        assert error.args[0].code() == KafkaError.INVALID_REPLICATION_FACTOR, error
    done(admin.delete_topics(["gone"]))
    metadata = admin.list_topics(timeout=10)
    assert "gone" not in metadata.topics and len(metadata.topics["a"].partitions) == 3
    done(admin.create_partitions([NewPartitions("a", 4)]))
    assert len(admin.list_topics("a", timeout=10).topics["a"].partitions) == 4
    resource = ConfigResource(ResourceType.TOPIC, "a")
    configs = done(admin.describe_configs([resource]))[resource]
    assert configs["retention.ms"].value == "3600000", configs
    entry = ConfigEntry("retention.bytes", "1000000", incremental_operation=AlterConfigOpType.SET)
    done(admin.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, "a", incremental_configs=[entry])]))
    configs = done(admin.describe_configs([resource]))[resource]
    assert configs["retention.bytes"].value == "1000000" and configs["retention.ms"].value == "3600000"
    cluster = admin.describe_cluster().result(10)
    assert len(cluster.nodes) == 1 and cluster.cluster_id


def producer_is_idempotent():
    acked = []
    producer = Producer({**bootstrap, "enable.idempotence": True, "linger.ms": 5, "compression.type": "lz4"})

    def report(error, message):
        assert error is None, error
        acked.append((message.partition(), message.offset()))

    for at in range(20_000):
        producer.produce("a", key=f"k{at % 100}", value=f"v{at}", headers={"n": str(at)}, on_delivery=report)
        producer.poll(0)
    assert producer.flush(60) == 0
    assert len(set(acked)) == 20_000


def group_of_two(extra, group):
    """Two members share the partitions, one leaves, the other goes on."""
    conf = {
        **bootstrap,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        **extra,
    }
    seen = {}
    lock = threading.Lock()
    stop = [threading.Event(), threading.Event()]
    owned = [set(), set()]

    def member(at):
        consumer = Consumer(conf)

        def assigned(consumer, partitions):
            owned[at].update(p.partition for p in partitions)

        def revoked(consumer, partitions):
            owned[at].difference_update(p.partition for p in partitions)

        consumer.subscribe(["a"], on_assign=assigned, on_revoke=revoked)
        while not stop[at].is_set():
            message = consumer.poll(0.2)
            if message is None:
                continue
            assert message.error() is None, message.error()
            with lock:
                key = (message.partition(), message.offset())
                seen[key] = seen.get(key, 0) + 1
            consumer.commit(message, asynchronous=True)
        consumer.close()

    members = [threading.Thread(target=member, args=(at,)) for at in range(2)]
    for thread in members:
        thread.start()

    def until(what):
        deadline = time.time() + 60
        while not what():
            assert time.time() < deadline, (owned, len(seen))
            time.sleep(0.1)

    until(lambda: len(owned[0]) == 2 and len(owned[1]) == 2)
    until(lambda: len(seen) == 20_000)
    described = done(admin.describe_consumer_groups([group]))[group]
    assert len(described.members) == 2 and described.state == ConsumerGroupState.STABLE, described.state
    groups = [listing.group_id for listing in admin.list_consumer_groups().result(10).valid]
    assert group in groups, groups
    stop[0].set()
    members[0].join()
    until(lambda: len(owned[1]) == 4)
    stop[1].set()
    members[1].join()


def offsets_are_kept(group):
    consumer = Consumer({**bootstrap, "group.id": group, "enable.auto.commit": False})
    parts = [TopicPartition("a", at) for at in range(4)]
    ends = [consumer.get_watermark_offsets(part)[1] for part in parts]
    committed = consumer.committed(parts, timeout=10)
    assert [p.offset for p in committed] == ends, (committed, ends)
    consumer.commit(offsets=[TopicPartition("a", 0, 7, "so far")], asynchronous=False)
    kept = consumer.committed([parts[0]], timeout=10)[0]
    assert kept.offset == 7 and kept.metadata == "so far", kept
    times = consumer.offsets_for_times([TopicPartition("a", 0, 0)], timeout=10)
    assert times[0].offset == 0, times
    consumer.close()
    done(admin.delete_consumer_groups([group]))
    groups = [listing.group_id for listing in admin.list_consumer_groups().result(10).valid]
    assert group not in groups


def offsets_and_records():
    part = TopicPartition("a", 0)
    spec = lambda spec: done(admin.list_offsets({part: spec}))[part].offset
    end = spec(OffsetSpec.latest())
    assert spec(OffsetSpec.earliest()) == 0 and end > 0
    assert 0 <= spec(OffsetSpec.max_timestamp()) < end
    done(admin.delete_records([TopicPartition("a", 0, 10)]))
    assert spec(OffsetSpec.earliest()) == 10
    consumer = Consumer({**bootstrap, "group.id": "none", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition("a", 0, 0)])
    message = None
    while message is None:
        message = consumer.poll(1)
    assert message.offset() == 10, message.offset()
    consumer.close()


def transactions_say_no():
    producer = Producer({**bootstrap, "transactional.id": "t"})
    try:
        producer.init_transactions(10)
        raise AssertionError("there are no transactions")
    except KafkaException as error:
        assert error.args[0].code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, error


admin_works()
producer_is_idempotent()
group_of_two({"session.timeout.ms": 6000}, "classic")
offsets_are_kept("classic")
group_of_two({"partition.assignment.strategy": "cooperative-sticky"}, "cooperative")
group_of_two({"group.protocol": "consumer"}, "modern")
offsets_are_kept("modern")
offsets_and_records()
transactions_say_no()
print("all well")
