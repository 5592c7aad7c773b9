"""Calculates what must be in Cassandra and in the topics, and looks whether it is.

Nothing of Millstream is used: records are decoded by fastavro, what a look-up finds is known from
data.py, and which of two writes wins follows from the events' times.
"""

import io
import json
import struct
import sys
from collections import Counter
from datetime import datetime, timezone

import fastavro
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from data import site, user
from stores import BROKERS, DEAD, ENRICHED, PARTITIONS, SOURCE, SPACE, cassandra, registry, whole

TTL_SECONDS = 30 * 24 * 3600
SEEN_MAX = 5


class Schemas:
    """By the id that a record carries."""

    def __init__(self):
        self.known = {}

    def decode(self, value):
        magic, number = struct.unpack_from(">bI", value)
        if magic != 0:
            raise ValueError("not framed")
        if number not in self.known:
            text = registry(f"/schemas/ids/{number}")["schema"]
            self.known[number] = fastavro.parse_schema(json.loads(text))
        body = io.BytesIO(value)
        body.seek(5)
        decoded = fastavro.schemaless_reader(body, self.known[number])
        if body.read(1):
            raise ValueError("bytes after the record")
        return decoded


class Expected:
    """What must come of the source topic."""

    def __init__(self, schemas):
        self.rows = {}  # by seen_at, which no two events share
        self.dead = set()  # partition and offset
        self.filtered = 0
        self.read = 0
        self.order = {}  # the times of a user's rows, in their order
        self.ends = Counter()
        for message in whole(SOURCE):
            self.read += 1
            self.ends[message.partition()] = message.offset() + 1
            try:
                event = schemas.decode(message.value())
            except (EOFError, ValueError, IndexError, struct.error, UnicodeDecodeError):
                self.dead.add((message.partition(), message.offset()))
                continue
            if event["consent"] == "DENIED":
                self.filtered += 1
                continue
            try:
                row = enrich(event)
            except ValueError:
                self.dead.add((message.partition(), message.offset()))
                continue
            self.rows[row["seen_at"]] = row
            self.order.setdefault(row["uid"], []).append(row["seen_at"])


def enrich(event):
    page = event["params"].get("page")
    segment, since = user(event["uid"]) or (None, None)
    seen = site(event["site"]["id"]) or {}
    return {
        "uid": event["uid"],
        "site": event["site"]["id"],
        "seen_at": event["seen_at"],
        "url": event["url"],
        "referrer": event["referrer"],
        "status": event["status"],
        "bytes": event["bytes"],
        "country": event["site"]["country"],
        "page": None if page is None else int(page),
        "segment": segment,
        "user_since": since,
        "site_name": seen.get("name"),
        "owner": seen.get("owner", {}).get("name"),
    }


class Report:
    def __init__(self):
        self.wrong = 0

    def line(self, where, found, mistakes):
        mark = "ok" if not mistakes else "WRONG"
        print(f"{where:<28} {found:<44} {mark}")
        for mistake in mistakes[:SEEN_MAX]:
            print(f"    {mistake}")
        self.wrong += len(mistakes)


def main():
    schemas = Schemas()
    expected = Expected(schemas)
    report = Report()
    done = len(expected.rows) + expected.filtered + len(expected.dead)
    print(
        f"{expected.read:,} events = {len(expected.rows):,} out + {expected.filtered:,} filtered "
        f"+ {len(expected.dead):,} dead, says Python\n"
    )
    if done != expected.read:
        sys.exit("the events' times are not unique")
    topic(report, expected, schemas)
    table(report, expected)
    letters(report, expected)
    offsets(report, expected)
    sys.exit(1 if report.wrong else 0)


def topic(report, expected, schemas):
    mistakes, found, order = [], Counter(), {}
    for message in whole(ENRICHED):
        row = schemas.decode(message.value())
        wanted = expected.rows.get(row["seen_at"])
        if row != wanted:
            mistakes.append(f"{row} is not {wanted}")
        elif message.key() != row["uid"].encode():
            mistakes.append(f"{row} has the key {message.key()}")
        elif row["seen_at"] not in found:
            order.setdefault(row["uid"], []).append(row["seen_at"])
        found[row["seen_at"]] += 1
    mistakes += [f"{row} is missing" for at, row in expected.rows.items() if at not in found]
    if not mistakes:
        mistakes += [f"{who} out of order" for who, is_so in order.items() if is_so != expected.order[who]]
    repeated = found.total() - len(found)
    report.line(f"topic {ENRICHED}", f"{found.total():,} records, {repeated:,} repeated", mistakes)


def table(report, expected):
    """Of each column the newest value that is one: a null leaves what is there."""
    wanted = {}
    for at, row in expected.rows.items():
        kept = wanted.setdefault((row["uid"], row["site"]), {})
        for column, value in row.items():
            if value is not None and (column not in kept or kept[column][0] < at):
                kept[column] = (at, value)
    columns = ["uid", "site", "seen_at", "url", "referrer", "status", "bytes", "country", "page"]
    columns += ["segment", "user_since", "site_name", "owner"]
    told = ["url", "referrer", "owner"]
    asked = columns + [f"writetime({c})" for c in told] + [f"ttl({c})" for c in told]
    cluster, session = cassandra()
    mistakes, count = [], 0
    for row in session.execute(f"SELECT {', '.join(asked)} FROM {SPACE}.last_seen", timeout=120):
        count += 1
        values = dict(zip(columns, row))
        key = (values["uid"], values["site"])
        kept = wanted.pop(key, None)
        if kept is None:
            mistakes.append(f"{key} is not due, or there twice")
            continue
        for column, value in values.items():
            at, due = kept.get(column, (None, None))
            if isinstance(value, datetime):
                value = value.replace(tzinfo=timezone.utc)
            if value != due:
                mistakes.append(f"{key} {column}: {value} is not {due}")
        for column, written, left in zip(told, row[len(columns) :], row[len(columns) + 3 :]):
            at = kept.get(column, (None, None))[0]
            if written != micros(at):
                mistakes.append(f"{key} {column}: written at {written}, not at {micros(at)}")
            if at is not None and not TTL_SECONDS - 3600 < (left or 0) <= TTL_SECONDS:
                mistakes.append(f"{key} {column}: lives {left} s longer")
    mistakes += [f"{key} is missing" for key in wanted]
    cluster.shutdown()
    report.line(f"table {SPACE}.last_seen", f"{count:,} rows, with times and time to live", mistakes)


def micros(at):
    if at is None:
        return None
    since = at - datetime.fromtimestamp(0, timezone.utc)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def letters(report, expected):
    found = Counter()
    for message in whole(DEAD):
        said = {name: value.decode() for name, value in message.headers() or []}
        found[int(said["millstream.partition"]), int(said["millstream.offset"])] += 1
    mistakes = [f"{place} is no dead letter" for place in expected.dead - found.keys()]
    mistakes += [f"{place} is a dead letter" for place in found.keys() - expected.dead]
    report.line(f"topic {DEAD}", f"{found.total():,} dead letters", mistakes)


def offsets(report, expected):
    admin = AdminClient({"bootstrap.servers": BROKERS})
    places = [TopicPartition(SOURCE, partition) for partition in range(PARTITIONS)]
    asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(SPACE, places)])
    committed = {p.partition: p.offset for p in asked[SPACE].result().topic_partitions}
    mistakes = [
        f"partition {partition} is committed up to {committed.get(partition)} of {end}"
        for partition, end in expected.ends.items()
        if committed.get(partition) != end
    ]
    report.line(f"group {SPACE}", f"{len(committed)} partitions committed to their ends", mistakes)


if __name__ == "__main__":
    main()
