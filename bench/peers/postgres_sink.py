"""Rows one by one, some in a transaction:  postgres_sink.py ADDRESS USER PASSWORD COUNT"""

import sys

import psycopg
from cql_sink import row
from records import Meter

# Rows of one transaction, as a batch of the pipeline has.
BATCH_ROWS = 500
INSERT = """
INSERT INTO bench_pages (uid, url, status, segment, seen_at) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (uid) DO UPDATE SET url = excluded.url, status = excluded.status,
segment = excluded.segment, seen_at = excluded.seen_at
"""


def main():
    address, user, password, count = sys.argv[1:]
    host, port = address.split(":")
    rows = [row(at)[:5] for at in range(int(count))]
    with psycopg.connect(
        host=host, port=port, user=user, password=password, dbname="postgres"
    ) as connection:
        meter = Meter("python psycopg, row by row")
        with connection.cursor() as cursor:
            for first in range(0, len(rows), BATCH_ROWS):
                for one in rows[first : first + BATCH_ROWS]:
                    cursor.execute(INSERT, one)
                connection.commit()
        meter.report(len(rows), 0)


if __name__ == "__main__":
    main()
