#!/usr/bin/env bash
# Creates the record batches that src/tests/golden.rs decodes. The Java client and librdkafka produce
# the same records with each codec, and the log segments of the broker are copied. It needs a stack
# with one broker. From the root of the checkout:
#
#   stack/stack.sh with --servers-only common/kafka-client/golden/make.sh
set -euo pipefail
golden=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
venv=$golden/../../../target/golden-venv
# The package contains librdkafka 2.12.
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet confluent-kafka==2.12.2

for codec in none gzip snappy lz4 zstd; do
  for client in java librdkafka; do
    topic=golden-$client-$codec-$$
    # Creates the topic and, for the Java client, produces the records.
    java -cp "$KAFKA_JARS/*" "$golden/Golden.java" "$KAFKA_BROKERS" "$topic" "$client" "$codec" 2>/dev/null
    [[ $client == java ]] || "$venv/bin/python" "$golden/golden.py" "$KAFKA_BROKERS" "$topic" "$codec"
    cp "$STACK_DATA_DIR/kafka-1/data/$topic-0/00000000000000000000.log" "$golden/$client-$codec.bin"
  done
done
ls -l "$golden"
