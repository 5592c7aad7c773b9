"""The production pipeline as one would write and tune it in Python:

    cql_pipeline.py NODE USER PASSWORD MESSAGES BOOTSTRAP TOPIC GROUP

Polls 1,000 records at a time, keeps what is not DENIED, finds the site in a cache of the last used
or else in Cassandra, and writes a row for each, both with concurrent execution. Commits what it has
written, at least once. It ends after MESSAGES.
"""

import io
import os
import sys
from collections import OrderedDict

import fastavro
from cassandra.concurrent import execute_concurrent_with_args
from confluent_kafka import Consumer
from cql import CONCURRENCY, connect
from records import Meter

TTL_SECONDS = 30 * 24 * 3600
CACHE_ENTRIES = 8_700
COMMIT_EVERY = 10
MISS = (None, None)


class Sites:
    """What was last used of the table of sites; misses are remembered too."""

    def __init__(self, session):
        self.session = session
        self.select = session.prepare("SELECT id, name, segment FROM sites WHERE id = ?")
        self.known = OrderedDict()

    def of(self, ids):
        """The name and the segment of each."""
        known, found, missing = self.known, {}, []
        for key in ids:
            site = known.get(key)
            if site is None:
                missing.append((key,))
            else:
                known.move_to_end(key)
                found[key] = site
        if missing:
            answers = execute_concurrent_with_args(
                self.session, self.select, missing, concurrency=CONCURRENCY
            )
            for (key,), answer in zip(missing, answers):
                row = answer.result_or_exc.one()
                found[key] = known[key] = row[1:] if row else MISS
            while len(known) > CACHE_ENTRIES:
                known.popitem(last=False)
        return found


def main():
    node, user, password, count, bootstrap, topic, group = sys.argv[1:]
    count = int(count)
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "navigation.avsc")
    schema = fastavro.schema.load_schema(path)
    cluster, session = connect(node, user, password)
    sites = Sites(session)
    insert = session.prepare(
        "INSERT INTO pages (uid, seen_at, url, status, site_name, segment, record) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) USING TTL ? AND TIMESTAMP ?"
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
    consumer.subscribe([topic])
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
        found = sites.of({event["site"]["id"] for event, _ in events})
        # Of two rows of one key the later would not be sure to win.
        last = {}
        for event, offset in events:
            name, segment = found[event["site"]["id"]]
            seen_at = event["seen_at"]
            micros = int(seen_at.timestamp() * 1e6)
            last[event["uid"], micros] = (
                event["uid"],
                seen_at,
                event["url"],
                event["status"],
                name,
                segment,
                offset,
                TTL_SECONDS,
                micros,
            )
        rows += len(last)
        for _ in execute_concurrent_with_args(
            session, insert, last.values(), concurrency=CONCURRENCY
        ):
            pass
        polls += 1
        if polled and (polls % COMMIT_EVERY == 0 or messages >= count):
            consumer.commit(asynchronous=False)
    meter.report(messages, size, rows=rows)
    consumer.close()
    cluster.shutdown()


if __name__ == "__main__":
    main()
