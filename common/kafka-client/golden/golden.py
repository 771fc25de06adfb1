"""Produces the records of src/tests/golden.rs with librdkafka.

golden.py BROKERS TOPIC CODEC
"""

import sys

from confluent_kafka import Producer

brokers, topic, codec = sys.argv[1:]
producer = Producer({
    "bootstrap.servers": brokers,
    "compression.type": codec,
    "enable.idempotence": True,
    "linger.ms": 1000,
})
for i in range(12):
    key = [None, b"", f"key-{i}".encode()][i % 3]
    words = f"words of {i} " * (10 if codec == "none" else 3000)
    value = [None, b"", f"value-{i}".encode(), words.encode()][i % 4]
    headers = [("name", b"one"), ("name", None), ("é", b"\0\xff")] if i % 5 == 0 else []
    producer.produce(topic, value, key, partition=0, timestamp=1_700_000_000_000 + 10 * i, headers=headers)
if producer.flush(30) > 0:
    sys.exit("some records were not written within 30 s")
