"""Makes topics, schema and tables anew and loads them:

    load.py EVENTS            with so many events
    load.py EVENTS --slowly   adds so many to what is there, about 200 a second
"""

import io
import struct
import sys
import time

import fastavro
from cassandra.concurrent import execute_concurrent_with_args
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from data import SITES, USERS, events, site, uid, user
from pymongo import MongoClient
from stores import (
    BROKERS,
    DEAD,
    ENRICHED,
    HERE,
    MONGO,
    PARTITIONS,
    SOURCE,
    SPACE,
    cassandra,
    registry,
)


def main():
    count = int(sys.argv[1])
    if "--slowly" in sys.argv:
        produce(events(count, seed=time.time()), pause=0.005)
        return
    topics()
    tables()
    documents()
    produced = produce(events(count))
    print(f"{produced:,} events in {PARTITIONS} partitions, {USERS:,} users, {SITES:,} sites are there")


def topics():
    admin = AdminClient({"bootstrap.servers": BROKERS})
    names = {SOURCE, ENRICHED, DEAD}

    def there():
        return {name: topic for name, topic in admin.list_topics(timeout=30).topics.items() if name in names}

    old = there()
    if old:
        for done in admin.delete_topics(list(old)).values():
            done.result()
    deadline = time.monotonic() + 60
    missing = names
    # One that is being deleted is there a moment longer.
    while missing and time.monotonic() < deadline:
        made = admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in missing])
        missing = {name for name, done in made.items() if done.exception() is not None}
        time.sleep(0.2)
    while time.monotonic() < deadline:
        # Known to all, with their partitions.
        if not missing and [len(topic.partitions) for topic in there().values()] == [PARTITIONS] * 3:
            return
        time.sleep(0.2)
    raise SystemExit(f"the topics cannot be made: {', '.join(sorted(names))}")


def tables():
    cluster, session = cassandra()
    session.execute(f"DROP KEYSPACE IF EXISTS {SPACE}", timeout=60)
    for statement in (HERE / "tables.cql").read_text().replace("navigation", SPACE).split(";"):
        if statement.strip():
            session.execute(statement, timeout=60)
    insert = session.prepare(f"INSERT INTO {SPACE}.users (uid, segment, since) VALUES (?, ?, ?)")
    known = ((name, user(name)) for name in map(uid, range(USERS)))
    rows = [(name, *of) for name, of in known if of is not None]
    execute_concurrent_with_args(session, insert, rows, concurrency=256)
    cluster.shutdown()


def documents():
    with MongoClient(f"mongodb://{MONGO}/", serverSelectionTimeoutMS=30_000) as client:
        client.drop_database(SPACE)
        known = [document for document in map(site, range(SITES)) if document is not None]
        client[SPACE].sites.insert_many(known)


def produce(of, pause=0):
    text = (HERE / "navigation.avsc").read_text()
    answer = registry(f"/subjects/{SOURCE}-value/versions", {"schema": text})
    head = struct.pack(">bI", 0, answer["id"])
    schema = fastavro.parse_schema(fastavro.schema.load_schema(HERE / "navigation.avsc"))
    producer = Producer(
        {
            "bootstrap.servers": BROKERS,
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 0 if pause else 20,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    failed = []
    produced = 0
    for event, is_cut in of:
        out = io.BytesIO(head)
        out.seek(len(head))
        fastavro.schemaless_writer(out, schema, event)
        value = out.getvalue()
        producer.produce(
            SOURCE,
            value[: len(value) // 2] if is_cut else value,
            event["uid"],
            on_delivery=lambda error, _: error and failed.append(error),
        )
        produced += 1
        if pause or produced % 1000 == 0:
            producer.poll(pause)
    producer.flush()
    if failed:
        raise SystemExit(f"{len(failed)} events were not taken: {failed[0]}")
    return produced


if __name__ == "__main__":
    main()
