"""Bare fastavro on the benchmark's records:  decode.py SCHEMA RECORDS"""

import io
import sys

import fastavro
from records import Meter, records


def main():
    schema = fastavro.schema.load_schema(sys.argv[1])
    frames = list(records(sys.argv[2]))
    read = fastavro.schemaless_reader
    meter = Meter("fastavro decode")
    size = 0
    for frame in frames:
        size += len(frame)
        body = io.BytesIO(frame)
        body.seek(5)
        read(body, schema)
    meter.report(len(frames), size)


if __name__ == "__main__":
    main()
