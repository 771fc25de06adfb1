# shellcheck shell=bash
# Where the stack's things are, which ports it uses, and its parts. `settings` are the variables that a running stack
# remembers, so that every later command finds it by STACK_DIR alone.

root=${stack%/*}
STACK_DIR=${STACK_DIR:-$root/.stack}
[[ $STACK_DIR == /* ]] || STACK_DIR=$PWD/$STACK_DIR

declare -A settings=(
  [BROKERS]=1           # Kafka brokers, 1 or 3
  [KAFKA]=3.9           # their version, 3.9 or 4
  [KAFKA_PORT]=19092    # of kafka-1; each further broker takes the next
  [RAFT_PORT]=""        # of kafka-1's controller; default KAFKA_PORT + 10
  [SASL_PORT]=""        # where kafka-1 wants to know who speaks; each further broker takes the next; none by default
  [REGISTRY_PORT]=18081
  [POSTGRES_PORT]=15432
  [HEALTH_PORTS]=17500  # of the first service in the table; each further service takes the next
  [CONTROL_PORT]=17888  # of the heartbeat
  [GRAPHQL_PORT]=8888   # of the graphql-endpoint
  [FRONTEND_PORT]=8181  # of the pages
  [PROFILE]=release     # Cargo profile that the services are built with
  [FEATURES]=""         # Cargo features that they are built with
  [BIN_DIR]=""          # of binaries that somebody else built; by default `up` builds them
  [KAFKA_OPTIONS]=""    # more of server.properties, as in "connections.max.idle.ms=2000 log.segment.bytes=1048576"
  [POSTGRES_OPTIONS]="" # more of postgresql.conf, as in "shared_preload_libraries=pg_stat_statements"
)
SERVERS_DIR=${SERVERS_DIR:-$root/target/servers} # what Maven brings

run_dir=$STACK_DIR/run
log_dir=$STACK_DIR/log

# The services, in the order of their start; all are given KAFKA_BROKERS, SCHEMA_REGISTRY_URL, HEALTH_PORT and the
# caller's environment. A further port of its own is a variable among the settings above.
#  name               database       own port
services_table='
   heartbeat          -              CONTROL_PORT
   command-generator  -              -
   command-handler    balancedb      -
   graphql-endpoint   transactiondb  GRAPHQL_PORT
   frontend           -              FRONTEND_PORT
'
# Runs before them, each time anything is started.
readonly synchronizer=synchronizer

# Those that the caller gave.
declare -A given=()
for name in "${!settings[@]}"; do
  [[ -z ${!name:-} ]] || given[$name]=${!name}
done

# Sets them to what the caller gave, or their defaults.
configure() {
  local name
  for name in "${!settings[@]}"; do
    declare -g "$name=${given[$name]:-${settings[$name]}}"
  done
  RAFT_PORT=${RAFT_PORT:-$((KAFKA_PORT + 10))}
  check_settings
}

# Folder of the brokers' jars.
kafka_jars() {
  echo "$SERVERS_DIR/kafka-$KAFKA"
}

# Folder of the services' binaries.
bin_dir() {
  local target=$PROFILE
  [[ $PROFILE != dev ]] || target=debug
  echo "${BIN_DIR:-${CARGO_TARGET_DIR:-$root/target}/$target}"
}

check_settings() {
  [[ $BROKERS == [13] ]] || die "BROKERS=$BROKERS: expected 1 or 3"
  [[ $KAFKA == 3.9 || $KAFKA == 4 ]] || die "KAFKA=$KAFKA: expected 3.9 or 4"
  local name
  for name in KAFKA_PORT RAFT_PORT ${SASL_PORT:+SASL_PORT} REGISTRY_PORT POSTGRES_PORT HEALTH_PORTS CONTROL_PORT GRAPHQL_PORT FRONTEND_PORT; do
    if ! [[ ${!name} =~ ^[1-9][0-9]{0,4}$ ]] || ((${!name} >= 65500)); then
      die "$name=${!name}: expected a port from 1 to 65499"
    fi
  done
}

# Takes over the settings that the stack in STACK_DIR was last started with.
remember() {
  local name value
  configure
  [[ -f $STACK_DIR/settings ]] || return 0
  while IFS='=' read -r name value; do
    [[ ! -v settings[$name] ]] || declare -g "$name=$value"
  done <"$STACK_DIR/settings"
}

# Keeps the settings for later commands.
memorize() {
  local name
  for name in "${!settings[@]}"; do
    echo "$name=${!name}"
  done >"$STACK_DIR/settings"
}

servers() {
  local n
  for ((n = 1; n <= BROKERS; n++)); do
    echo "kafka-$n"
  done
  echo registry
  echo postgres
}

services() {
  awk '{ if (NF) print $1 }' <<<"$services_table"
}

# parts: all, in the order of their start.
parts() {
  servers
  services
}

# kind PART: kafka, registry, postgres or service.
kind() {
  case $1 in
    kafka-*) echo kafka ;;
    registry | postgres) echo "$1" ;;
    *) echo service ;;
  esac
}

# ports PART: all it listens on, one a line; the first is where its clients go.
ports() {
  case $(kind "$1") in
    kafka)
      echo $((KAFKA_PORT + ${1#kafka-} - 1))
      echo $((RAFT_PORT + ${1#kafka-} - 1))
      [[ -z $SASL_PORT ]] || echo $((SASL_PORT + ${1#kafka-} - 1))
      ;;
    registry) echo "$REGISTRY_PORT" ;;
    postgres) echo "$POSTGRES_PORT" ;;
    service)
      local own
      own=$(own_port "$1")
      [[ $own == - ]] || echo "${!own}"
      health_port "$1"
      ;;
  esac
}

# first_port PART
first_port() {
  local all
  all=$(ports "$1")
  echo "${all%%$'\n'*}"
}

health_port() {
  awk -v name="$1" -v port="$HEALTH_PORTS" 'NF { if ($1 == name) print port; port++ }' <<<"$services_table"
}

own_port() {
  awk -v name="$1" '$1 == name { print $3 }' <<<"$services_table"
}

database() {
  awk -v name="$1" '$1 == name { print $2 }' <<<"$services_table"
}

# Addresses for clients.
kafka_brokers() {
  local n list=
  for ((n = 1; n <= BROKERS; n++)); do
    list+=,127.0.0.1:$(first_port "kafka-$n")
  done
  echo "${list#,}"
}

sasl_brokers() {
  local n list=
  for ((n = 0; n < BROKERS; n++)); do
    list+=,127.0.0.1:$((SASL_PORT + n))
  done
  echo "${list#,}"
}

registry_url() {
  echo "http://127.0.0.1:$REGISTRY_PORT/apis/ccompat/v7"
}

# database_url DATABASE
database_url() {
  echo "postgres://bank:$(<"$STACK_DIR/postgres.password")@127.0.0.1:$POSTGRES_PORT/$1"
}

# is_among NAME LIST: true if it is a line of it.
is_among() {
  [[ $'\n'$2$'\n' == *$'\n'"$1"$'\n'* ]]
}
