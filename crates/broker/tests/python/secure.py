"""Confluent's Python client over TLS and with a password."""

import json
import sys

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

common, right, wrong = (json.loads(argument) for argument in sys.argv[1:4])
mechanisms = json.loads(sys.argv[4])


def connects(conf):
    conf = {**common, **conf, "log_level": 0, "socket.connection.setup.timeout.ms": 10000}
    try:
        AdminClient(conf).list_topics(timeout=4)
        return True
    except KafkaException as error:
        codes = (KafkaError._AUTHENTICATION, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT)
        assert error.args[0].code() in codes, error
        return False


for mechanism in mechanisms or [None]:
    kind = {"sasl.mechanism": mechanism} if mechanism else {}
    assert connects({**kind, **right}), mechanism
    assert not connects({**kind, **wrong}), mechanism
    topic = f"t-{mechanism}"
    producer = Producer({**common, **kind, **right})
    producer.produce(topic, "hello")
    assert producer.flush(20) == 0
    consumer = Consumer({**common, **kind, **right, "group.id": topic, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    message = consumer.poll(20)
    assert message is not None and message.value() == b"hello", message
    consumer.close()
print("all well")
