"""Confluent's serializer writes Protobuf to the topic `sales`: brokers, then the registry's address.

The messages are made from descriptors, as `protoc` would: `shop.Note`, then `shop.Sale` with a
message inside it, an enum, a oneof and a timestamp, so that the message's index is not the first.
"""

import sys

from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

brokers, registry = sys.argv[1:]
Field = descriptor_pb2.FieldDescriptorProto

file = descriptor_pb2.FileDescriptorProto(
    name="shop.proto",
    package="shop",
    syntax="proto3",
    dependency=["google/protobuf/timestamp.proto"],
)


def field(message, name, number, kind, label=Field.LABEL_OPTIONAL, of=None, oneof=None):
    made = message.field.add(name=name, number=number, type=kind, label=label)
    if of:
        made.type_name = of
    if oneof is not None:
        made.oneof_index = oneof


note = file.message_type.add(name="Note")
field(note, "text", 1, Field.TYPE_STRING)
sale = file.message_type.add(name="Sale")
line = sale.nested_type.add(name="Line")
field(line, "sku", 1, Field.TYPE_STRING)
field(line, "count", 2, Field.TYPE_UINT32)
state = sale.enum_type.add(name="State")
state.value.add(name="OPEN", number=0)
state.value.add(name="PAID", number=1)
sale.oneof_decl.add(name="payer")
field(sale, "id", 1, Field.TYPE_INT64)
field(sale, "lines", 2, Field.TYPE_MESSAGE, Field.LABEL_REPEATED, ".shop.Sale.Line")
field(sale, "state", 3, Field.TYPE_ENUM, of=".shop.Sale.State")
field(sale, "at", 4, Field.TYPE_MESSAGE, of=".google.protobuf.Timestamp")
field(sale, "person", 5, Field.TYPE_STRING, oneof=0)
field(sale, "company", 6, Field.TYPE_STRING, oneof=0)

pool = descriptor_pool.DescriptorPool()
pool.Add(descriptor_pb2.FileDescriptorProto.FromString(timestamp_pb2.DESCRIPTOR.serialized_pb))
pool.Add(file)
Sale = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Sale"))
Note = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Note"))

client = SchemaRegistryClient({"url": registry})
sales = ProtobufSerializer(Sale, client, {"use.deprecated.format": False})
notes = ProtobufSerializer(Note, client, {"use.deprecated.format": False})
context = SerializationContext("sales", MessageField.VALUE)
producer = Producer({"bootstrap.servers": brokers})
for id in range(1, 4):
    one = Sale(id=id, state=id % 2)
    one.lines.add(sku=f"sku-{id}", count=id)
    one.lines.add(sku="gift", count=1)
    one.at.FromSeconds(1_700_000_000 + id)
    if id % 2:
        one.person = "ann"
    else:
        one.company = "acme"
    producer.produce("sales", sales(one, context))
# Another message of the same file: no sale.
producer.produce("sales", notes(Note(text="hello"), context))
assert producer.flush(30) == 0
print("all well")
