"""The production pipeline on real services: loads data, runs it, verifies every row.

    demo.py [EVENTS] [--program PATH] [--data DIRECTORY] [--listen ADDRESS]

`make demo-production` calls it with what it needs in an environment of Python's. The services are
those of dev/services, which starts them where they do not run.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SERVICES = ["kafka", "registry", "cassandra", "mongo"]

PICTURE = """
┌────────────────┐                                     ┌─────────────────────┐
│ Kafka          │  ┌─────────────────────────────┐    │ Cassandra           │
│ {SPACE:<14} │  │ navigation                  │ ┌─►│ last_seen           │
│ 20 partitions  ├─►│ decode ► look up ► SQL      ├─┤  │ TTL, timestamp      │
│ Avro           │  └────▲─────────▲────────┬─────┘ │  └─────────────────────┘
└───────▲────────┘       │         │        │       │  ┌─────────────────────┐
┌───────┴────────┐  ┌────┴────┐ ┌──┴──────┐ │       │  │ Kafka               │
│ Schema Registry│  │Cassandra│ │ MongoDB │ │       └─►│ {ENRICHED:<19} │
│                │  │ users   │ │ sites   │ └──► dead  │ Avro                │
└────────────────┘  └─────────┘ └─────────┘            └─────────────────────┘
"""


def main():
    options = arguments()
    begun = time.monotonic()
    say("starting Kafka, the registry, Cassandra and MongoDB")
    environment = surroundings()
    space = environment.setdefault("SPACE", "navigation")
    say(f"making topics and tables anew, loading {options.events:,} events")
    python("load.py", environment, str(options.events))
    print(PICTURE.format(SPACE=space[:14], ENRICHED=f"{space}.enriched"[:19]), flush=True)
    ran = time.monotonic()
    run(options, environment)
    took = time.monotonic() - ran
    say(f"{options.events:,} events in {took:.1f} s, start and end included; looking at every row")
    print(flush=True)
    python("verify.py", environment)
    say(f"every row is right; all of it took {time.monotonic() - begun:.0f} s")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("events", nargs="?", type=int, default=100_000)
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/millstream")
    parser.add_argument("--data", type=Path, default=ROOT / "target/demo-production")
    parser.add_argument("--listen", default="off", help="where /metrics and /health answer meanwhile")
    return parser.parse_args()


def surroundings():
    """What navigation.yaml wants to know, from what the services say."""
    command = [ROOT / "dev/services", "up", *SERVICES]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if said.returncode != 0:
        sys.exit(said.returncode)
    told = dict(line.split("=", 1) for line in said.stdout.splitlines())
    return os.environ | {
        "KAFKA_BROKERS": told["KAFKA_BOOTSTRAP"],
        "REGISTRY_URL": told["SCHEMA_REGISTRY_URL"],
        "CASSANDRA_NODE": told["CASSANDRA_NODES"],
        "CASSANDRA_USER": told["SERVICES_USER"],
        "CASSANDRA_PASSWORD": told["SERVICES_PASSWORD"],
        "MONGO_HOST": told["MONGODB_URI"].split("/")[2],
    }


def python(script, environment, *arguments):
    done = subprocess.run([sys.executable, "-B", HERE / script, *arguments], env=environment)
    if done.returncode != 0:
        sys.exit(done.returncode)


def run(options, environment):
    options.data.mkdir(parents=True, exist_ok=True)
    log = options.data.with_name(options.data.name + ".log")
    command = [options.program, "--data", options.data, "run", HERE / "navigation.yaml"]
    command += ["--screen", "--exit-when-idle", "--listen", options.listen]
    with open(log, "w") as text:
        done = subprocess.run(command, env=environment, stderr=text)
    if done.returncode != 0:
        sys.stderr.write("".join(log.read_text().splitlines(keepends=True)[-20:]))
        sys.exit(f"the pipeline ended with {done.returncode}; its log is {log}")


def say(text):
    print(f"-- {text}", flush=True)


if __name__ == "__main__":
    main()
