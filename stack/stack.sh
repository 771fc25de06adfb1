#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# Starts and stops a real Kafka, schema registry and PostgreSQL on this machine, and the bank on top of them. README.md
# beside this file tells the commands and variables.
set -eEuo pipefail
trap 'say "stack: ${BASH_SOURCE[0]##*/}:$LINENO: failed: $BASH_COMMAND"' ERR

stack=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=output.sh
source "$stack/output.sh"
# shellcheck source=config.sh
source "$stack/config.sh"
# shellcheck source=process.sh
source "$stack/process.sh"
# shellcheck source=foreground.sh
source "$stack/foreground.sh"
# shellcheck source=prerequisites.sh
source "$stack/prerequisites.sh"
# shellcheck source=kafka.sh
source "$stack/kafka.sh"
# shellcheck source=registry.sh
source "$stack/registry.sh"
# shellcheck source=postgres.sh
source "$stack/postgres.sh"
# shellcheck source=services.sh
source "$stack/services.sh"
# shellcheck source=parts.sh
source "$stack/parts.sh"

usage() {
  sed -n '/^## Commands/,/^## Variables/s/^    //p' "$stack/README.md"
}

main() {
  trap 'undo $?' EXIT
  local command=${1:-help}
  [[ $# == 0 ]] || shift
  case $command in
    up) up "$@" ;;
    down) down ;;
    status) status ;;
    logs) logs "$@" ;;
    env) environment ;;
    with) with "$@" ;;
    start) start "$@" ;;
    stop) stop "$@" ;;
    kill) signal "$@" ;;
    pid) pid "$@" ;;
    prerequisites) prerequisites "$@" ;;
    build) configure && build ;;
    wipe) wipe ;;
    help | --help | -h) usage ;;
    *) die "unknown command $command; stack.sh help lists them" ;;
  esac
}

# up [--servers-only]: starts what is down. On failure or a signal, what this call started is stopped again.
up() {
  local bank=1
  case ${1:-} in
    --servers-only) bank= ;;
    '') ;;
    *) die "up: unknown argument $1" ;;
  esac
  lock
  configure_up
  local wanted down
  wanted=$(servers)
  [[ -z $bank ]] || wanted=$(parts)
  down=$(parts_down "$wanted")
  if [[ -z $down ]]; then
    say "All parts are up already."
    unlock
    return
  fi
  check_data
  prerequisites servers
  get_servers
  [[ -z $bank ]] || build
  check_ports "$down"
  memorize
  start_servers "$down"
  if [[ -n $bank ]]; then
    synchronize
    start_services "$down"
  fi
  unlock
}

# The settings of the running stack, or, if nothing runs, those of this call.
configure_up() {
  remember
  if [[ -z $(parts_up) ]]; then
    configure
    return
  fi
  local name
  for name in "${!given[@]}"; do
    [[ ${given[$name]} == "${!name}" ]] ||
      die "the running stack has $name=${!name}, not ${given[$name]}: down first, or use another STACK_DIR"
  done
}

down() {
  lock
  remember
  local last_first
  mapfile -t last_first < <(parts | tac)
  stop_parts "${last_first[@]}"
  unlock
}

# with [--servers-only] COMMAND...: runs COMMAND with the variables of `env` on a stack that is up meanwhile. Parts that
# were down before are stopped afterwards, whatever happens. The services' binaries are found without a path.
with() {
  local only=()
  if [[ ${1:-} == --servers-only ]]; then
    only=("$1")
    shift
  fi
  remember
  up_before=$(parts_up)
  up "${only[@]}"
  trap 'put_back $?' EXIT
  local name value code=0
  while IFS='=' read -r name value; do
    export "$name=$value"
  done < <(environment)
  PATH=$(bin_dir):$PATH
  run "$@" || code=$?
  exit "$code"
}

# put_back CODE: what COMMAND started is stopped too, also a stack beside this one, named STACK_DIR-anything. The last words
# stay those of COMMAND.
put_back() {
  trap '' INT TERM
  local part beside
  started=()
  for part in $(parts); do
    is_among "$part" "$up_before" || started+=("$part")
  done
  [[ ${#started[@]} == 0 ]] || stop_started 2>>"$(log_file stack)"
  for beside in "$STACK_DIR"-*/settings; do
    [[ ! -f $beside ]] || STACK_DIR=${beside%/settings} "$stack/stack.sh" down 2>>"$(log_file stack)"
  done
  exit "$1"
}

environment() {
  remember
  [[ -n $(parts_up) ]] || die "nothing runs in $STACK_DIR: make up"
  local service
  echo "STACK_DIR=$STACK_DIR"
  echo "STACK=$stack/stack.sh"
  echo "KAFKA_BROKERS=$(kafka_brokers)"
  [[ -z $SASL_PORT ]] || echo "KAFKA_SASL_BROKERS=$(sasl_brokers)"
  echo "KAFKA_JARS=$(kafka_jars)"
  echo "SCHEMA_REGISTRY_URL=$(registry_url)"
  echo "BALANCE_DATABASE_URL=$(database_url balancedb)"
  echo "TRANSACTION_DATABASE_URL=$(database_url transactiondb)"
  for service in $(services); do
    echo "$(variable "$service")_URL=http://127.0.0.1:$(first_port "$service")"
    echo "$(variable "$service")_HEALTH_URL=http://127.0.0.1:$(health_port "$service")"
  done
}

# variable SERVICE: as in COMMAND_HANDLER.
variable() {
  tr 'a-z-' 'A-Z_' <<<"$1"
}

status() {
  remember
  local part pid state
  for part in $(parts); do
    if pid=$(pid_of "$part"); then
      state=up
      ready "$part" || state="up, not ready"
      printf '%-18s %-13s  pid %-7d  port %-5d  RSS %5d MiB\n' \
        "$part" "$state" "$pid" "$(first_port "$part")" "$(rss_mib "$pid")"
    elif is_running "$part.supervisor"; then
      printf '%-18s restarting\n' "$part"
    else
      printf '%-18s down\n' "$part"
    fi
  done
}

# Resident memory of a process with its children, what they share counted once.
rss_mib() {
  local pid kib=0 pss
  for pid in $(family "$1"); do
    # PSS needs the right to look into the process; RSS doesn't.
    pss=$(awk '/^Pss:/ { print $2 }' "/proc/$pid/smaps_rollup" 2>/dev/null) ||
      pss=$(awk '/^VmRSS:/ { print $2 }' "/proc/$pid/status" 2>/dev/null) || pss=0
    kib=$((kib + ${pss:-0}))
  done
  echo $((kib / 1024))
}

logs() {
  remember
  local part files=() all=${1:-$(parts) $synchronizer}
  for part in $all; do
    [[ ! -f $(log_file "$part") ]] || files+=("$(log_file "$part")")
  done
  ((${#files[@]} > 0)) || die "no logs in $log_dir"
  if [[ -t 1 ]]; then
    run tail -n 10 -F "${files[@]}"
  else
    tail -n 40 "${files[@]}"
  fi
}

# start PART: waits until it is ready. `start synchronizer` runs it to its end.
start() {
  lock
  remember
  if [[ ${1:-} == "$synchronizer" ]]; then
    synchronize
    return
  fi
  known "${1:-}"
  if is_up "$1"; then
    say "$1 is up already."
    return
  fi
  check_ports "$1"
  start_part "$1"
  await "$1"
}

# stop PART [TERM|KILL]: waits until it is gone. A stopped service is not started again by its supervisor.
stop() {
  lock
  remember
  known "${1:-}"
  [[ ${2:-TERM} == @(TERM|KILL) ]] || die "stop $1 $2: expected TERM or KILL; kill sends any signal"
  stop_part "$1" "${2:-}"
}

# kill PART SIGNAL: sends it to the part and its children.
signal() {
  remember
  known "${1:-}"
  local pid born
  [[ -n ${2:-} ]] || die "kill $1: expected a signal too, as in STOP"
  pid=$(pid_of "$1") || die "$1 is not running"
  born=$(birth "$pid") || die "$1 is not running"
  # shellcheck disable=SC2046 # a list of pids
  kill "-$2" $(family "$pid")
  # Nothing survives it, but a big process takes a moment to die.
  while [[ $2 == KILL && $(birth "$pid") == "$born" ]]; do
    sleep 0.05
  done
}

pid() {
  remember
  known "${1:-}"
  pid_of "$1" || die "$1 is not running"
}

known() {
  is_among "$1" "$(parts)" || die "no part ${1:-given}; there are: $(parts | tr '\n' ' ')"
}

# Stops everything and forgets its data.
wipe() {
  down
  lock
  rm -rf "$STACK_DIR"/kafka-* "$STACK_DIR"/{registry,postgres,postgres.new,postgres.password,settings,run,log}
}

# One command at a time changes a stack.
lock() {
  mkdir -p "$run_dir" "$log_dir"
  exec 9>"$STACK_DIR/lock"
  if ! flock -n 9; then
    say "Another command works on $STACK_DIR; waiting for it."
    flock 9
  fi
}

unlock() {
  exec 9>&-
}

main "$@"
