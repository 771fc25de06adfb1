"""A client of the bank that shares no code with it: Confluent's, with another Avro library and
another partitioner.

Opens two accounts, sends transfers, and reads every outcome through the registry. Prints the
records sent and read as one JSON object. The addresses of the brokers and of the registry are in
environment variables.
"""

import datetime
import json
import os
import sys
import time
import uuid

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext, StringSerializer

BROKERS = os.environ["KAFKA_BROKERS"]
OUTCOMES = [
    "account_creation_confirmed",
    "account_creation_failed",
    "money_transfer_confirmed",
    "money_transfer_failed",
    "balance_changed",
]
# The schema of the talk's programs, without transfer_id, sequence and decided_at.
TALK = json.dumps({
    "namespace": "nl.openweb.data",
    "type": "record",
    "name": "BalanceChanged",
    "fields": [
        {"name": "iban", "type": "string"},
        {"name": "new_balance", "type": "long"},
        {"name": "changed_by", "type": "long"},
        {"name": "from_to", "type": "string"},
        {"name": "description", "type": "string"},
    ],
})
TIMEOUT_S = 30
NEWEST = {"auto.register.schemas": False, "use.latest.version": True}

registry = SchemaRegistryClient({"url": os.environ["SCHEMA_REGISTRY_URL"]})
# librdkafka's default partitioner uses another hash.
producer = Producer({"bootstrap.servers": BROKERS, "partitioner": "murmur2_random", "acks": "all"})
consumer = Consumer({
    "bootstrap.servers": BROKERS, "group.id": "foreign-client", "enable.auto.commit": False,
})
serializers = {}
sent, read = [], []


def main():
    read_from_the_end()
    creations = [{"id": uuid.uuid4().bytes, "a_type": a_type} for a_type in ("AUTO", "MANUAL")]
    for command in creations:
        send("confirm_account_creation", command)
    read_until(lambda: answered(creations))
    opened = {it["value"]["id"]: it["value"] for it in read if "id" in it["value"]}
    a, b = (opened[text(command)] for command in creations)

    def transfer(amount, source, token, to):
        fields = {"amount": amount, "from": source, "token": token, "to": to}
        return {"id": uuid.uuid4().bytes, "description": "émigré €", **fields}

    orders = [transfer(1000 + n, "cash", "cash", a["iban"]) for n in range(50)]
    for command in orders:
        send("confirm_money_transfer", command)
    read_until(lambda: answered(orders) and changes() >= len(orders))
    more = [transfer(n, a["iban"], a["token"], b["iban"]) for n in range(50)]
    more += [transfer(1, a["iban"], b["token"], b["iban"])]
    # A serializer with a schema of its own looks it up, or by default registers it.
    subject = "confirm_money_transfer-value"
    versions = registry.get_versions(subject)
    own = registry.get_latest_version(subject).schema.schema_str
    for n, command in enumerate(more):
        conf = {"auto.register.schemas": False} if n % 2 else {}
        send("confirm_money_transfer", command, own, conf)
    assert registry.get_versions(subject) == versions, "the schema was registered again"
    # The first transfer has an amount of 0, and the last one has a wrong token.
    read_until(lambda: answered(more) and changes() >= len(orders) + 2 * (len(more) - 2))

    talk = {"iban": "NL00TALK" + uuid.uuid4().hex, "new_balance": 7, "changed_by": -3}
    talk |= {"from_to": "x", "description": "y"}
    send("balance_changed", talk, TALK, {})
    producer.flush(TIMEOUT_S)
    json.dump({"sent": sent, "read": read, "talk": talk}, sys.stdout)


def text(command):
    return str(uuid.UUID(bytes=command["id"]))


def send(topic, value, schema=None, conf=NEWEST):
    """Writes `value` in the newest schema of the topic, or in `schema`."""
    key = text(value) if "id" in value else value["iban"]
    kind = (topic, schema, *conf)
    if kind not in serializers:
        serializers[kind] = AvroSerializer(registry, schema, conf=conf)
    context = SerializationContext(topic, MessageField.VALUE)
    produce(topic, key, serializers[kind](value, context))


def produce(topic, key, value):
    def delivered(err, message):
        assert err is None, err
        sent.append({"topic": topic, "key": key, "partition": message.partition()})

    producer.produce(topic, key=StringSerializer()(key), value=value, on_delivery=delivered)
    producer.poll(0)


def read_from_the_end():
    partitions = []
    for topic in OUTCOMES:
        for partition in consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions:
            position = TopicPartition(topic, partition)
            _, position.offset = consumer.get_watermark_offsets(position, timeout=TIMEOUT_S)
            partitions.append(position)
    consumer.assign(partitions)


def read_until(done):
    deadline = time.monotonic() + TIMEOUT_S
    with_writers_schema = AvroDeserializer(registry)
    as_the_talk = AvroDeserializer(registry, TALK)
    while not done():
        producer.poll(0)
        assert time.monotonic() < deadline, f"of {len(sent)} commands some are unanswered: {read}"
        message = consumer.poll(0.1)
        if message is None:
            continue
        assert message.error() is None, message.error()
        context = SerializationContext(message.topic(), MessageField.VALUE)
        record = {
            "topic": message.topic(),
            "key": message.key().decode(),
            "partition": message.partition(),
            "value": plain(with_writers_schema(message.value(), context)),
        }
        if message.topic() == "balance_changed":
            record["as_the_talk"] = as_the_talk(message.value(), context)
        read.append(record)


def plain(value):
    def field(it):
        if isinstance(it, bytes):
            return str(uuid.UUID(bytes=it))
        if isinstance(it, datetime.datetime):
            return round(it.timestamp() * 1000)
        return it

    return {name: field(it) for name, it in value.items()}


def answered(commands):
    answers = {record["key"] for record in read if record["topic"] != "balance_changed"}
    return all(text(command) in answers for command in commands)


def changes():
    return sum(record["topic"] == "balance_changed" for record in read)


main()
