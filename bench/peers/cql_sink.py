"""Rows with a TTL and a timestamp with concurrent execution:  cql_sink.py NODE USER PASSWORD COUNT"""

import datetime
import sys

from cassandra.concurrent import execute_concurrent_with_args
from cql import CONCURRENCY, connect, uid
from records import Meter

TTL_SECONDS = 30 * 24 * 3600
EPOCH = datetime.datetime(2026, 1, 1)
EPOCH_US = 1_767_225_600_000_000
SEGMENTS = ["press", "retail", "public", "sport", "finance"]


def row(at):
    url = f"https://www.site{at % 10_000}.example.com/news/election-{at}/index.html"
    seen_at = EPOCH + datetime.timedelta(milliseconds=at)
    status = 404 if at % 20 == 0 else 200
    return uid(at), url, status, SEGMENTS[at % 5], seen_at, TTL_SECONDS, EPOCH_US + at * 1000


def main():
    node, user, password, count = sys.argv[1:]
    count = int(count)
    cluster, session = connect(node, user, password)
    insert = session.prepare(
        "INSERT INTO pages (uid, url, status, segment, seen_at) VALUES (?, ?, ?, ?, ?) "
        "USING TTL ? AND TIMESTAMP ?"
    )
    insert.is_idempotent = True
    rows = [row(at) for at in range(count)]
    meter = Meter("python cassandra-driver, INSERT")
    for _ in execute_concurrent_with_args(session, insert, rows, concurrency=CONCURRENCY):
        pass
    meter.report(count, 0)
    cluster.shutdown()


if __name__ == "__main__":
    main()
