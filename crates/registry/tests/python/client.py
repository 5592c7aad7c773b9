"""Confluent's own client against the registry whose address is the first argument."""

import json
import sys

from confluent_kafka.schema_registry import (
    ConfigCompatibilityLevel,
    RegisteredSchema,
    Schema,
    SchemaReference,
    SchemaRegistryClient,
    SchemaRegistryError,
    ServerConfig,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

client = SchemaRegistryClient({"url": sys.argv[1]})


def record(name, *fields):
    return json.dumps({"type": "record", "name": name, "namespace": "shop", "fields": list(fields)})


def refused(code, call):
    try:
        call()
    except SchemaRegistryError as error:
        assert error.error_code == code, (error.error_code, error.error_message)
        return error
    raise AssertionError(f"expected {code}")


AMOUNT = {"name": "amount", "type": "int"}
NOTE = {"name": "note", "type": ["null", "string"], "default": None}
WHO = {"name": "who", "type": "string"}

subject = "shop/orders:ü-value"
first = Schema(record("Order", AMOUNT), "AVRO")
second = Schema(record("Order", AMOUNT, NOTE), "AVRO")
bad = Schema(record("Order", AMOUNT, WHO), "AVRO")

# Register and get.
first_id = client.register_schema(subject, first)
assert client.register_schema(subject, first) == first_id
response = client.register_schema_full_response(subject, second, normalize_schemas=True)
assert isinstance(response, RegisteredSchema) and response.schema_id != first_id
assert json.loads(client.get_schema(first_id).schema_str)["name"] == "Order"
assert client.get_subjects() == [subject]
assert client.get_versions(subject) == [1, 2]
latest = client.get_latest_version(subject)
assert (latest.version, latest.subject) == (2, subject)
assert client.get_version(subject, 1).schema_id == first_id
assert client.get_schema_types() == ["JSON", "PROTOBUF", "AVRO"]
assert client.get_subjects_by_schema_id(first_id) == [subject]
where = client.get_schema_versions(first_id)
assert [(w.subject, w.version) for w in where] == [(subject, 1)], where

# Look up.
assert client.lookup_schema(subject, first).version == 1
refused(40403, lambda: client.lookup_schema(subject, bad))
refused(40401, lambda: client.get_versions("unknown"))
refused(40402, lambda: client.get_version(subject, 9))
refused(40403, lambda: client.get_schema(4711))
refused(42201, lambda: client.register_schema(subject, Schema("{", "AVRO")))

# Compatibility.
assert client.test_compatibility(subject, second)
assert not client.test_compatibility(subject, bad)
assert client.test_compatibility_all_versions(subject, second)
assert "who" in refused(409, lambda: client.register_schema(subject, bad)).error_message

# Configuration.
assert client.get_compatibility() == "BACKWARD"
client.set_compatibility(subject, "NONE")
assert client.get_compatibility(subject) == "NONE"
client.set_config(subject, ServerConfig(compatibility=ConfigCompatibilityLevel.FULL_TRANSITIVE))
assert client.get_config(subject).compatibility_level == "FULL_TRANSITIVE"
client.delete_config(subject)
refused(40408, lambda: client.get_config(subject))
assert client.get_global_mode() == "READWRITE"
client.update_mode(subject, "READONLY")
refused(42205, lambda: client.register_schema(subject, bad))
assert client.get_mode(subject) == "READONLY"
client.delete_mode(subject)

# References.
client.register_schema("item", Schema(record("Item", AMOUNT), "AVRO"))
basket = Schema(
    record("Basket", {"name": "items", "type": {"type": "array", "items": "shop.Item"}}),
    "AVRO",
    [SchemaReference("shop.Item", "item", 1)],
)
basket_id = client.register_schema("basket-value", basket)
assert client.get_schema(basket_id).references[0].name == "shop.Item"
assert client.get_referenced_by("item", 1) == [basket_id]
refused(42206, lambda: client.delete_subject("item"))

# Records there and back, with the newer schema reading what the older one wrote.
context = SerializationContext("sales", MessageField.VALUE)
write = AvroSerializer(client, first.schema_str)
message = write({"amount": 7}, context)
assert message[:5] == b"\0" + first_id.to_bytes(4, "big"), message
read = AvroDeserializer(client, second.schema_str)
assert read(message, context) == {"amount": 7, "note": None}
write = AvroSerializer(client, second.schema_str)
message = write({"amount": 8, "note": "gift"}, context)
assert AvroDeserializer(client)(message, context) == {"amount": 8, "note": "gift"}
assert client.get_versions("sales-value") == [1, 2]
context = SerializationContext("basket", MessageField.VALUE)
write = AvroSerializer(client, basket, conf={"auto.register.schemas": False})
message = write({"items": [{"amount": 1}, {"amount": 2}]}, context)
assert AvroDeserializer(client)(message, context) == {"items": [{"amount": 1}, {"amount": 2}]}

# Other kinds are kept.
kept = Schema('{"type": "object"}', "JSON")
assert client.get_schema(client.register_schema("json", kept)).schema_type == "JSON"

# Delete.
assert client.delete_version(subject, 1) == 1
assert client.get_versions(subject) == [2]
assert client.delete_subject(subject) == [2]
refused(40405, lambda: client.delete_subject("sales-value", permanent=True))
assert client.delete_subject("sales-value") == [1, 2]
assert client.delete_subject("sales-value", permanent=True) == [1, 2]
refused(40401, lambda: client.get_versions("sales-value"))
print("all well")
