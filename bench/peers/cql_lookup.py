"""Rows by key with concurrent execution:  cql_lookup.py NODE USER PASSWORD COUNT"""

import sys

from cassandra.concurrent import execute_concurrent_with_args
from cql import CONCURRENCY, connect, uid
from records import Meter

USERS = 100_000
STEP = 7_919


def main():
    node, user, password, count = sys.argv[1:]
    count = int(count)
    cluster, session = connect(node, user, password)
    select = session.prepare("SELECT uid, segment, country, score FROM users WHERE uid = ?")
    keys = [(uid(at * STEP % USERS),) for at in range(count)]
    meter = Meter("python cassandra-driver, SELECT")
    found = 0
    for answer in execute_concurrent_with_args(session, select, keys, concurrency=CONCURRENCY):
        found += len(answer.result_or_exc.all())
    meter.report(count, 0, found=found)
    if found != count:
        sys.exit(f"{found} of {count} keys are found")
    cluster.shutdown()


if __name__ == "__main__":
    main()
