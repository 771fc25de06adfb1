#!/usr/bin/env bash
# Tests of the stack, on a stack of its own; ports and services as for `up`.
set -euo pipefail

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# A space in the path finds each missing quote.
export STACK_DIR="${here%/*}/target/stack tests"
export KAFKA_PORT=${KAFKA_PORT:-19092}
unset BROKERS KAFKA RAFT_PORT SASL_PORT KAFKA_OPTIONS POSTGRES_OPTIONS
out=$STACK_DIR/output

stack() {
  "$here/stack.sh" "$@"
}

failed=0
# check SENTENCE COMMAND...: COMMAND proves it.
check() {
  local sentence=$1
  shift
  if "$@"; then
    echo "ok: $sentence"
  else
    echo "FAILED: $sentence"
    echo "    $*"
    [[ ! -f $out ]] || sed 's/^/    | /' "$out"
    failed=$((failed + 1))
  fi
}

# refused COMMAND...: true if it fails; keeps what it says.
refused() {
  ! stack "$@" >"$out" 2>&1
}

# eventually COMMAND...: true once it is, within 30 s.
eventually() {
  local deadline=$((SECONDS + 30))
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

said() {
  grep -q -- "$1" "$out"
}

all_pids() {
  local file
  for file in "$STACK_DIR"/run/*.pid; do
    cat "$file"
  done
}

# count_up PARTS: so many are up.
count_up() {
  local found
  found=$(stack status | grep -cE ' (up|restarting)( |$)') || true
  [[ $found == "$1" ]]
}

is_ready() {
  # Not grep -q: it may leave before all is written to it.
  stack status | grep -E "^$1 +up  " >/dev/null
}

other_pid() {
  local pid
  pid=$(stack pid "$1" 2>/dev/null) && [[ $pid != "$2" ]]
}

# Processes with the stack's folder among their arguments, beside this test.
processes() {
  local file pid
  for file in /proc/[0-9]*/cmdline; do
    pid=${file//[!0-9]/}
    if [[ $pid != "$$" ]] && grep -aqF -- "$STACK_DIR/" "$file" 2>/dev/null; then
      echo "$pid"
    fi
  done
}

elsewhere=${here%/*}/target/stack-elsewhere

refused_elsewhere() {
  STACK_DIR=$elsewhere refused up --servers-only
}

# with_brokers N COMMAND...
with_brokers() {
  BROKERS=$1 "${@:2}"
}

with_kafka() {
  KAFKA=$1 "${@:2}"
}

broken_start() {
  KAFKA_OPTIONS=log.segment.bytes=10 refused up --servers-only
}

eventually_not() {
  eventually not "$@"
}

not() {
  ! "$@"
}

# Starts in a process group of its own and sends it what Ctrl-C does, once Kafka runs but can't be ready yet. A shell that
# runs this test in the background makes it ignore that signal, and children inherit it.
interrupt() {
  rm -f "$STACK_DIR/run/kafka-1.pid"
  set -m
  env --default-signal=INT "$here/stack.sh" up --servers-only >"$out" 2>&1 &
  set +m
  eventually test -f "$STACK_DIR/run/kafka-1.pid"
  kill -INT -- "-$!"
  code=0
  wait $! || code=$?
}

cleanup() {
  trap '' INT TERM
  [[ -z ${bystander:-} ]] || kill "$bystander" 2>/dev/null || true
  stack down 2>/dev/null
  rm -rf "$elsewhere" "$STACK_DIR-2"
}
trap cleanup EXIT

stack wipe
mkdir -p "$STACK_DIR"

check "env fails while nothing runs" refused env

stack up
parts=$(stack status | wc -l)
check "up starts every part" count_up "$parts"
pids=$(all_pids)
stack up >"$out" 2>&1
check "a second up says so" said "up already"
check "and starts nothing" test "$pids" == "$(all_pids)"
stack env >"$out"
check "env names the broker" said "^KAFKA_BROKERS=127.0.0.1:$KAFKA_PORT$"
check "env names the folder, space and all" said "^STACK_DIR=$STACK_DIR$"

pid=$(stack pid command-handler)
stack kill command-handler KILL
check "a killed service is started again" eventually other_pid command-handler "$pid"
check "and gets ready" eventually is_ready command-handler
check "and its log says so" grep -q "starting again.*service=command-handler code=137" "$STACK_DIR/log/command-handler.log"
stack stop command-handler KILL 2>/dev/null
check "a stopped service stays down" count_up $((parts - 1))
supervisor=$(cut -d' ' -f1 "$STACK_DIR/run/heartbeat.supervisor.pid")
kill -KILL "$supervisor"
stack up 2>"$out"
check "up replaces a service that lost its supervisor, and one that was stopped" count_up "$parts"


stack stop heartbeat 2>/dev/null
LOG=nonsense check "a service that its environment doesn't suit fails to start" refused start heartbeat
check "and is not tried again" test "$(grep -c "exited.*code=2 " "$STACK_DIR/log/heartbeat.log")" == 1
stack start heartbeat 2>/dev/null

check "another stack on these ports is refused" refused_elsewhere
check "the refusal names the port and who has it" said "Port $KAFKA_PORT of kafka-1 is taken by pid $(stack pid kafka-1) (java"
check "and nothing was started" test ! -s "$elsewhere/run/kafka-1.pid"
check "settings that the running stack doesn't have are refused" with_brokers 3 refused up
check "and named" said "has BROKERS=1, not 3"

stack kill registry STOP
check "a frozen server is seen" eventually_not is_ready registry
stack kill registry CONT
check "and goes on" eventually is_ready registry
stack kill postgres KILL
stack start postgres
check "PostgreSQL comes back from kill -9" is_ready postgres
stack kill heartbeat STOP
stack down
check "down stops everything, frozen or not" count_up 0
check "no process is left" test -z "$(processes)"

sleep 600 &
bystander=$!
echo "$bystander 1" >"$STACK_DIR/run/registry.pid"
stack down
check "a pid that was given out again is left alone" kill -0 "$bystander"

check "data of one broker are not opened by three" with_brokers 3 refused up --servers-only
check "data of Kafka 3.9 are not opened by 4" with_kafka 4 refused up --servers-only
check "and the refusal says what to do" said "holds data of KAFKA=3.9: set that, or another STACK_DIR"
check "a Kafka that is not known is refused" with_kafka 5 refused up --servers-only
check "a broken start fails" broken_start
check "it names the part" said "^kafka-1 failed"
check "and shows the end of its log" said "Invalid value 10 for configuration log.segment.bytes"
check "and leaves nothing running" test -z "$(processes)"

interrupt
check "Ctrl-C in the middle of a start fails it" test "$code" == 130
check "and leaves nothing running" test -z "$(processes)"

code=0
# shellcheck disable=SC2016 # for the command's shell
stack with --servers-only bash -c 'echo "brokers $KAFKA_BROKERS"; exit 7' >"$out" || code=$?
check "with gives its command the environment" said "^brokers 127.0.0.1:$KAFKA_PORT$"
check "with ends as its command does" test "$code" == 7
check "and leaves nothing running" test -z "$(processes)"
stack up --servers-only
rm -f "$out"
# shellcheck disable=SC2016 # for the command's shell
"$here/stack.sh" with --servers-only bash -c 'trap "sleep 1; echo ended >\"$0\"; exit" TERM; echo begun >"$0"; while :; do sleep 0.1; done' \
  "$out" 2>/dev/null &
bystander=$!
eventually grep -qs begun "$out"
kill -TERM "$bystander"
wait "$bystander" || true
check "with waits for a command that takes its time to end" said "^ended$"
stack down
stack with --servers-only env STACK_DIR="$STACK_DIR-2" KAFKA_PORT=$((KAFKA_PORT + 50)) REGISTRY_PORT=$((KAFKA_PORT + 51)) \
  POSTGRES_PORT=$((KAFKA_PORT + 52)) "$here/stack.sh" up --servers-only 2>/dev/null
STACK_DIR="$STACK_DIR-2" stack status >"$out"
check "a stack that its command started beside it is stopped too" test "$(grep -c " down$" "$out")" == "$parts"

((failed == 0)) || exit 1
echo "The stack does what its README says."
