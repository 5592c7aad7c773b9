"""Confluent's serializer with the schema's GUID in a header, against the registry whose address is the first argument.

Writes the header's value and the record, in hexadecimal, to the file that is the second.
"""

import json
import sys

from confluent_kafka.schema_registry import (
    SchemaRegistryClient,
    dual_schema_id_deserializer,
    header_schema_id_serializer,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

FIELDS = [{"name": "amount", "type": "long"}, {"name": "note", "type": "string"}]
SCHEMA = json.dumps({"type": "record", "name": "Order", "fields": FIELDS})
ORDER = {"amount": 7, "note": "seven"}

client = SchemaRegistryClient({"url": sys.argv[1]})
headers = []
context = SerializationContext("orders", MessageField.VALUE, headers)
write = AvroSerializer(client, SCHEMA, conf={"schema.id.serializer": header_schema_id_serializer})
record = write(ORDER, context)
[(name, value)] = headers
assert name == "__value_schema_id" and value[0] == 1 and len(value) == 17, headers

# Another client, which asks for the GUID.
other = SchemaRegistryClient({"url": sys.argv[1]})
read = AvroDeserializer(other, conf={"schema.id.deserializer": dual_schema_id_deserializer})
assert read(record, context) == ORDER
with open(sys.argv[2], "w") as out:
    json.dump({"header": value.hex(), "record": record.hex()}, out)
print("all well")
