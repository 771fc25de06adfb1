# shellcheck shell=bash
# Apache Kafka in KRaft mode, each broker a controller too.

prepare_kafka() {
  local n=${1#kafka-} dir=$STACK_DIR/$1 voters="" i
  for ((i = 1; i <= BROKERS; i++)); do
    voters+=,$i@127.0.0.1:$((RAFT_PORT + i - 1))
  done
  mkdir -p "$dir"
  cat >"$dir/server.properties" <<END
node.id=$n
process.roles=broker,controller
controller.quorum.voters=${voters#,}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$((KAFKA_PORT + n - 1)),CONTROLLER://127.0.0.1:$((RAFT_PORT + n - 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$((KAFKA_PORT + n - 1))
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$dir/data

# The synchronizer alone makes topics.
auto.create.topics.enable=false
default.replication.factor=$BROKERS
offsets.topic.replication.factor=$BROKERS
transaction.state.log.replication.factor=$BROKERS
transaction.state.log.min.isr=$(((BROKERS + 1) / 2))

# Few and small for a small machine: the defaults are made for clusters.
num.network.threads=2
num.io.threads=4
offsets.topic.num.partitions=3
transaction.state.log.num.partitions=3
log.cleaner.dedupe.buffer.size=16777216
group.initial.rebalance.delay.ms=0
END
  if ((BROKERS == 1)); then
    # Killed, it may come back when its former session is over. Nobody could take over from it meanwhile.
    cat >>"$dir/server.properties" <<'END'
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=1000
END
  fi
  [[ -z $SASL_PORT ]] || sasl_listener "$n" >>"$dir/server.properties"
  tr ' ' '\n' <<<"$KAFKA_OPTIONS" >>"$dir/server.properties"
  cat >"$dir/log4j.properties" <<'END'
log4j.rootLogger=WARN, out
log4j.logger.kafka.server=INFO
log4j.logger.org.apache.kafka.raft=INFO
# The whole configuration, again and again.
log4j.logger.kafka.server.KafkaConfig=WARN
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d{ISO8601} %p %m (%c)%n
END
  echo "$KAFKA" >"$dir/version"
  [[ -f $dir/data/meta.properties ]] || run_logged "$1" format_kafka "$1"
}

# sasl_listener N: a listener beside the others that wants to know who speaks. PLAIN knows user bank; SCRAM those that Kafka's tools
# or clients make.
sasl_listener() {
  local n=$1 host=127.0.0.1
  local sasl=SASL://$host:$((SASL_PORT + n - 1)) plaintext=PLAINTEXT://$host:$((KAFKA_PORT + n - 1))
  local modules=org.apache.kafka.common.security mechanism
  cat <<END
listeners=$plaintext,$sasl,CONTROLLER://$host:$((RAFT_PORT + n - 1))
advertised.listeners=$plaintext,$sasl
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl.plain.sasl.jaas.config=$modules.plain.PlainLoginModule required user_bank="in plain words";
END
  for mechanism in scram-sha-256 scram-sha-512; do
    echo "listener.name.sasl.$mechanism.sasl.jaas.config=$modules.scram.ScramLoginModule required;"
  done
}

# All brokers of a stack share one id, any 16 bytes in base64.
readonly cluster_id=c2NyYXRjaGJhbmstc3RhYw

format_kafka() {
  kafka_java "$1" -Xmx128m -XX:TieredStopAtLevel=1 kafka.tools.StorageTool \
    format --ignore-formatted -t "$cluster_id" -c "$STACK_DIR/$1/server.properties"
}

kafka_java() {
  local dir=$STACK_DIR/$1
  shift
  java -cp "$(kafka_jars)/*" -Dlog4j.configuration="file:$dir/log4j.properties" "$@"
}

launch_kafka() {
  # The collector's settings are those of Kafka's own scripts.
  launch "$1" java -Xms256m -Xmx512m -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 \
    -XX:+ExplicitGCInvokesConcurrent -Djava.awt.headless=true -cp "$(kafka_jars)/*" \
    -Dlog4j.configuration="file:$STACK_DIR/$1/log4j.properties" kafka.Kafka "$STACK_DIR/$1/server.properties"
}

# ready_kafka PART [BROKERS]: it answers, and counts itself and so many brokers as alive.
ready_kafka() {
  local ids
  ids=$(alive_brokers "$(first_port "$1")") || return 1
  grep -qx "${1#kafka-}" <<<"$ids" && (($(wc -l <<<"$ids") >= ${2:-1}))
}

# Ids of the brokers that the one at PORT counts as alive, one a line; fails if it doesn't answer within 2 s.
alive_brokers() (
  exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
  # Length; Metadata, version 1; correlation id, no client id; no topics.
  printf '\0\0\0\x0e\0\x03\0\x01\0\0\0\0\xff\xff\0\0\0\0' >&3
  answer=$(read_hex 12) # length, correlation id, count of brokers
  for ((count = 16#${answer:16}; count > 0; count--)); do
    answer=$(read_hex 21) # id, "127.0.0.1" behind its length, port, no rack
    echo $((16#${answer:0:8}))
  done
)

# read_hex BYTES: so many from descriptor 3; fails if they don't come.
read_hex() {
  local hex
  hex=$(timeout 2 head -c "$1" <&3 | od -An -v -tx1 | tr -d ' \n')
  ((${#hex} == 2 * $1)) && echo "$hex"
}
