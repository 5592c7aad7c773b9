"""The production pipeline as one would write and tune it in Python:

    production.py NODE USER PASSWORD MESSAGES BOOTSTRAP SOURCE GROUP TARGET MONGODB

Polls 1,000 records at a time, keeps what is not DENIED, finds the site in Cassandra and its owner in
MongoDB, each behind a cache of the last used, and writes a row to Cassandra, with concurrent execution,
and a record of Avro to Kafka for each. Commits what it has written, at least once. It ends after
MESSAGES.
"""

import io
import os
import sys
from collections import OrderedDict

import fastavro
from cassandra.concurrent import execute_concurrent_with_args
from confluent_kafka import Consumer, Producer
from cql import CONCURRENCY, connect
from pymongo import MongoClient
from records import Meter

TTL_SECONDS = 30 * 24 * 3600
SITES_CACHED = 8_700
SITES = 10_000
OWNERS = 200
OWNERS_CACHED = 186
COMMIT_EVERY = 10
# How Confluent's frames begin; the id is any.
FRAME = b"\x00\x00\x00\x00\x02"


class Cache:
    """What was last used of a store; misses are remembered too."""

    def __init__(self, fetch, entries, miss):
        self.fetch, self.entries, self.miss = fetch, entries, miss
        self.known = OrderedDict()

    def of(self, ids):
        known, found, missing = self.known, {}, []
        for key in ids:
            row = known.get(key)
            if row is None:
                missing.append(key)
            else:
                known.move_to_end(key)
                found[key] = row
        if missing:
            fetched = self.fetch(missing)
            for key in missing:
                found[key] = known[key] = fetched.get(key, self.miss)
            while len(known) > self.entries:
                known.popitem(last=False)
        return found


def sites_of(session):
    select = session.prepare("SELECT id, name, segment FROM sites WHERE id = ?")

    def fetch(ids):
        answers = execute_concurrent_with_args(
            session, select, [(key,) for key in ids], concurrency=CONCURRENCY
        )
        rows = (answer.result_or_exc.one() for answer in answers)
        return {row[0]: row[1:] for row in rows if row}

    return Cache(fetch, SITES_CACHED, (None, None))


def owners_of(collection):
    def fetch(ids):
        found = collection.find({"_id": {"$in": ids}}, {"owner.name": 1})
        return {document["_id"]: document["owner"]["name"] for document in found}

    return Cache(fetch, OWNERS_CACHED, "")


def main():
    node, user, password, count, bootstrap, source, group, target, mongodb = sys.argv[1:]
    count = int(count)
    home = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    schema = fastavro.schema.load_schema(os.path.join(home, "navigation.avsc"))
    enriched = fastavro.schema.load_schema(os.path.join(home, "enriched.avsc"))
    cluster, session = connect(node, user, password)
    sites = sites_of(session)
    owners = owners_of(MongoClient(f"mongodb://{mongodb}/")["bench"]["owners"])
    insert = session.prepare(
        "INSERT INTO pages (uid, seen_at, url, status, site_name, segment, owner, record) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TTL ? AND TIMESTAMP ?"
    )
    insert.is_idempotent = True
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
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
    # Nobody pays here for caches that are empty at first: the keys that are asked for most come last.
    sites.of(range(SITES - 1, -1, -1))
    owners.of(range(OWNERS))
    consumer.subscribe([source])
    meter = None
    messages = size = rows = polls = 0
    while messages < count:
        polled = consumer.consume(1000, timeout=1.0)
        if polled and meter is None:
            # Joining the group is not the job.
            meter = Meter("python production pipeline")
        events = []
        for message in polled:
            if message.error():
                sys.exit(str(message.error()))
            frame = message.value()
            messages += 1
            size += len(frame)
            body = io.BytesIO(frame)
            body.seek(5)
            event = fastavro.schemaless_reader(body, schema)
            if event["consent"] != "DENIED":
                events.append((event, message.offset()))
        ids = {event["site"]["id"] for event, _ in events}
        found, owned = sites.of(ids), owners.of({site % OWNERS for site in ids})
        # Of two rows of one key the later would not be sure to win.
        last = {}
        for event, offset in events:
            site = event["site"]["id"]
            name, segment = found[site]
            owner = owned[site % OWNERS] or None
            seen_at = event["seen_at"]
            micros = int(seen_at.timestamp() * 1e6)
            last[event["uid"], micros] = (
                event["uid"],
                seen_at,
                event["url"],
                event["status"],
                name,
                segment,
                owner,
                offset,
                TTL_SECONDS,
                micros,
            )
            row = {
                "uid": event["uid"],
                "seen_at": seen_at,
                "url": event["url"],
                "status": event["status"],
                "site_name": name,
                "segment": segment,
                "owner": owner,
                "record": offset,
            }
            out = io.BytesIO()
            out.write(FRAME)
            fastavro.schemaless_writer(out, enriched, row)
            while True:
                try:
                    producer.produce(target, out.getvalue(), event["uid"])
                    break
                except BufferError:
                    producer.poll(0.05)
        producer.poll(0)
        rows += len(last)
        for _ in execute_concurrent_with_args(
            session, insert, last.values(), concurrency=CONCURRENCY
        ):
            pass
        polls += 1
        if polled and (polls % COMMIT_EVERY == 0 or messages >= count):
            if producer.flush():
                sys.exit("not all records were delivered")
            consumer.commit(asynchronous=False)
    meter.report(messages, size, rows=rows)
    consumer.close()
    cluster.shutdown()


if __name__ == "__main__":
    main()
