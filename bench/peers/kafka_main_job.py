"""The main job from Kafka to Kafka as one would write and tune it in Python:

    kafka_main_job.py BOOTSTRAP SCHEMA SITES.csv IN OUT MESSAGES

Polls 1,000 records at a time, keeps what is not DENIED, finds the site in a dict, and produces JSON
with lz4 and a linger. Commits what it has produced, at least once. It ends after MESSAGES.
"""

import csv
import io
import sys

import fastavro
import orjson
from confluent_kafka import Consumer, Producer
from main_job import enrich
from records import Meter

COMMIT_EVERY = 100


def main():
    bootstrap, schema_path, sites_path, source, target, count = sys.argv[1:]
    count = int(count)
    schema = fastavro.schema.load_schema(schema_path)
    with open(sites_path, newline="") as file:
        sites = {int(row["id"]): (row["name"], row["segment"]) for row in csv.DictReader(file)}
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"python-{target}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.message.max.bytes": 1 << 20,
            "queued.max.messages.kbytes": 64 << 10,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 20,
            "batch.size": 512 << 10,
            "queue.buffering.max.messages": 500_000,
        }
    )
    consumer.subscribe([source])
    meter = None
    messages = size = rows = polls = 0
    while messages < count:
        polled = consumer.consume(1000, timeout=1.0)
        if polled and meter is None:
            # Joining the group is not the job.
            meter = Meter("python main job, Kafka to Kafka")
        for message in polled:
            if message.error():
                sys.exit(str(message.error()))
            frame = message.value()
            messages += 1
            size += len(frame)
            body = io.BytesIO(frame)
            body.seek(5)
            row = enrich(fastavro.schemaless_reader(body, schema), sites)
            if row is None:
                continue
            rows += 1
            while True:
                try:
                    producer.produce(target, orjson.dumps(row), message.key())
                    break
                except BufferError:
                    producer.poll(0.05)
        producer.poll(0)
        polls += 1
        if polled and (polls % COMMIT_EVERY == 0 or messages >= count):
            producer.flush()
            consumer.commit(asynchronous=False)
    meter.report(messages, size, rows=rows)
    consumer.close()


if __name__ == "__main__":
    main()
