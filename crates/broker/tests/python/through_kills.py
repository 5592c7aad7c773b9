"""Produces while the broker is killed and started again (`produce`), then counts (`count`)."""

import json
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition

bootstrap = {"bootstrap.servers": sys.argv[1], "log_level": 0, "reconnect.backoff.max.ms": 200}
what, file = sys.argv[2], sys.argv[3]


def produce(seconds):
    acked = {}
    producer = Producer(
        {**bootstrap, "enable.idempotence": True, "linger.ms": 2, "message.timeout.ms": 120000, "retry.backoff.ms": 50}
    )

    def report(error, message):
        assert error is None, error
        acked[int(message.value())] = [message.partition(), message.offset()]

    sent = 0
    until = time.time() + seconds
    while time.time() < until:
        for _ in range(20):
            producer.produce("t", key=str(sent % 50), value=str(sent), on_delivery=report)
            sent += 1
        producer.poll(0.002)
    assert producer.flush(120) == 0
    assert len(acked) == sent, (len(acked), sent)
    with open(file, "w") as out:
        json.dump(acked, out)
    print(f"{sent} sent and acknowledged")


def count():
    with open(file) as acked:
        acked = {int(value): place for value, place in json.load(acked).items()}
    consumer = Consumer({**bootstrap, "group.id": "count", "enable.auto.commit": False, "enable.partition.eof": True})
    consumer.assign([TopicPartition("t", at, 0) for at in range(3)])
    found, order, left = {}, {}, {0, 1, 2}
    while left:
        message = consumer.poll(30)
        assert message is not None, "nothing came"
        if message.error():
            left.discard(message.partition())
            continue
        value = int(message.value())
        assert value not in found, f"{value} is there twice: {found[value]} and {message.offset()}"
        found[value] = [message.partition(), message.offset()]
        key = message.key()
        assert order.get(key, -1) < value, f"{value} of key {key} is out of order"
        order[key] = value
    consumer.close()
    assert found == acked, f"{len(acked)} acknowledged, {len(found)} found"
    print(f"{len(found)} found, each once")


produce(6) if what == "produce" else count()
print("all well")
