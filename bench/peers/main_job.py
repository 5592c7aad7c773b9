"""The main job as one would write it in Python; file in, file out, no fsync:

    main_job.py SCHEMA SITES.csv RECORDS OUT avro|json

The same as main_job.yaml: keep what is not DENIED, find the site's name and segment in a dict,
derive is_error, and write Confluent-framed Avro (or JSON by orjson).
"""

import csv
import io
import struct
import sys

import fastavro
import orjson
from records import Meter, records

ENRICHED = {
    "type": "record",
    "name": "Enriched",
    "fields": [
        {"name": "uid", "type": "string"},
        {"name": "seen_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "url", "type": "string"},
        {"name": "status", "type": "int"},
        {"name": "site_name", "type": ["null", "string"], "default": None},
        {"name": "segment", "type": ["null", "string"], "default": None},
        {"name": "is_error", "type": "boolean"},
    ],
}
FRAME = b"\x00" + struct.pack(">I", 2)
MISS = (None, None)


def enrich(event, sites):
    """The row that the SQL of main_job.yaml gives, or None where its WHERE drops the event."""
    if event["consent"] == "DENIED":
        return None
    name, segment = sites.get(event["site"]["id"], MISS)
    return {
        "uid": event["uid"],
        "seen_at": event["seen_at"],
        "url": event["url"],
        "status": event["status"],
        "site_name": name,
        "segment": segment,
        "is_error": event["status"] >= 400,
    }


def main():
    schema_path, sites_path, records_path, out_path, output = sys.argv[1:]
    schema = fastavro.schema.load_schema(schema_path)
    enriched = fastavro.parse_schema(ENRICHED)
    with open(sites_path, newline="") as file:
        sites = {int(row["id"]): (row["name"], row["segment"]) for row in csv.DictReader(file)}

    def avro(row):
        buffer = io.BytesIO()
        buffer.write(FRAME)
        fastavro.schemaless_writer(buffer, enriched, row)
        return buffer.getvalue()

    encode = {"avro": avro, "json": orjson.dumps}[output]
    length = struct.Struct("<I").pack
    meter = Meter(f"python main job to {output}")
    messages = size = rows = 0
    with open(out_path, "wb", buffering=1 << 20) as out:
        for frame in records(records_path):
            messages += 1
            size += len(frame)
            body = io.BytesIO(frame)
            body.seek(5)
            row = enrich(fastavro.schemaless_reader(body, schema), sites)
            if row is None:
                continue
            value = encode(row)
            out.write(length(len(value)))
            out.write(value)
            rows += 1
    meter.report(messages, size, rows=rows)


if __name__ == "__main__":
    main()
