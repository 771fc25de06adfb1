# shellcheck shell=bash
# Starting and stopping parts.

# What this call has started, and what it waits for now.
started=()
declare -A started_ms=()
current=

is_up() {
  is_running "$1.supervisor" || { [[ $(kind "$1") != service ]] && is_running "$1"; }
}

parts_up() {
  local part
  for part in $(parts); do
    ! is_up "$part" || echo "$part"
  done
}

# parts_down PARTS
parts_down() {
  local part
  for part in $1; do
    is_up "$part" || echo "$part"
  done
}

ready() {
  "ready_$(kind "$1")" "$1"
}

# check_ports PARTS: before anything starts, all their ports must be free.
check_ports() {
  local part port owner taken=
  for part in $1; do
    # Of a service whose supervisor was killed: it would stand in its own way.
    ! is_running "$part" || stop_part "$part"
    for port in $(ports "$part"); do
      if owner=$(port_owner "$port"); then
        say "Port $port of $part is taken by $owner."
        taken=1
      fi
    done
  done
  [[ -z $taken ]] || die "nothing was started; README.md in $stack names the variables that change ports"
}

# Kafka's data belong to a number of brokers: with another one they would lose what the majority has not seen. And to a version: the
# older one can't read those of the newer.
check_data() {
  local formatted
  formatted=$(find "$STACK_DIR" -path "$STACK_DIR/kafka-*/data/meta.properties" | wc -l)
  ((formatted == 0 || formatted == BROKERS)) ||
    die "$STACK_DIR holds data of BROKERS=$formatted: set that, or another STACK_DIR, or delete them: make wipe"
  local version
  version=$(cat "$STACK_DIR/kafka-1/version" 2>/dev/null) || version=$KAFKA
  [[ $version == "$KAFKA" ]] ||
    die "$STACK_DIR holds data of KAFKA=$version: set that, or another STACK_DIR, or delete them: make wipe"
}

# get_servers: Maven brings the jars, once for each pom.xml and version of Kafka.
get_servers() {
  local done_file=$SERVERS_DIR/complete-$KAFKA other registry_is_there=false options=()
  ! cmp -s "$stack/pom.xml" "$done_file" || return 0
  # Another stack may be running it.
  for other in "$SERVERS_DIR"/complete-*; do
    ! cmp -s "$stack/pom.xml" "$other" || registry_is_there=true
  done
  say "Getting Kafka $KAFKA and the registry with Maven (190 MB, once)."
  mkdir -p "$SERVERS_DIR"
  rm -rf "$(kafka_jars)" "$SERVERS_DIR/maven" "$done_file"
  $registry_is_there || rm -rf "$SERVERS_DIR/registry"
  [[ $KAFKA == 3.9 ]] || options=("-Pkafka-$KAFKA")
  current=maven
  run_logged maven mvn --batch-mode --file "$stack/pom.xml" "${options[@]}" -Dservers="$SERVERS_DIR" \
    -Dregistry.skip="$registry_is_there" package || die "Maven exited with code $?."
  current=
  cp "$stack/pom.xml" "$done_file"
}

# build: the services, or nothing if BIN_DIR says that somebody else did.
build() {
  [[ -z $BIN_DIR ]] || return 0
  prerequisites build
  run cargo build --manifest-path "$root/Cargo.toml" --locked --workspace --bins --profile "$PROFILE" \
    ${FEATURES:+--features "$FEATURES"} || die "cargo build failed."
}

# start_servers PARTS: those among them that are servers. All start at once.
start_servers() {
  local part mine=()
  for part in $(servers); do
    ! is_among "$part" "$1" || mine+=("$part")
  done
  for part in "${mine[@]}"; do
    start_part "$part"
  done
  for part in "${mine[@]}"; do
    await "$part" "$BROKERS"
  done
}

# start_services PARTS
start_services() {
  local part mine=()
  for part in $(services); do
    ! is_among "$part" "$1" || mine+=("$part")
  done
  for part in "${mine[@]}"; do
    start_part "$part"
  done
  for part in "${mine[@]}"; do
    await "$part"
  done
}

start_part() {
  current=$1
  rotate_log "$1"
  "prepare_$(kind "$1")" "$1"
  started+=("$1")
  started_ms[$1]=$(now_ms)
  "launch_$(kind "$1")" "$1"
}

# await PART [BROKERS]: waits until it is ready, at most two minutes: a busy machine is slow.
await() {
  current=$1
  until "ready_$(kind "$1")" "$@"; do
    is_up "$1" || die "$1 has exited."
    (($(now_ms) - ${started_ms[$1]} < 120000)) || die "$1 is not ready after two minutes."
    progress "waiting for $1" "${started_ms[$1]}"
    sleep 0.1
  done
  say "$(printf '%-18s up after %s, port %d' "$1" "$(took "${started_ms[$1]}")" "$(first_port "$1")")"
  current=
}

# stop_parts PARTS...: in this order.
stop_parts() {
  local part broker pid
  for part in "$@"; do
    # Brokers at once: the last one alone would wait for the others, to say goodbye.
    if [[ $(kind "$part") == kafka ]]; then
      for broker in "$@"; do
        [[ $(kind "$broker") != kafka ]] || ! pid=$(pid_of "$broker") || kill -TERM "$pid"
      done
    fi
    stop_part "$part"
  done
}

# stop_part PART [SIGNAL]: the supervisor first, so that it doesn't start the part again.
stop_part() {
  local part=$1 signal=${2:-} pid
  if pid=$(pid_of "$part.supervisor"); then
    # KILL takes the whole group at once; TERM is passed on to the service, which may be frozen.
    if [[ $signal == KILL ]]; then
      kill -KILL -- "-$pid" 2>/dev/null || true
    else
      kill -TERM "$pid" 2>/dev/null || true
    fi
  elif ! pid_of "$part" >/dev/null; then
    return 0
  fi
  local since
  since=$(now_ms)
  terminate "$part" "$signal"
  terminate "$part.supervisor" "$signal"
  say "$(printf '%-18s stopped after %s' "$part" "$(took "$since")")"
}

# terminate NAME [SIGNAL]: after 20 s it is killed.
terminate() {
  local pid signal=${2:-TERM}
  pid=$(pid_of "$1") || return 0
  # PostgreSQL waits for its clients on TERM, and ends their sessions on INT.
  [[ $1 != postgres || $signal == KILL ]] || signal=INT
  # shellcheck disable=SC2046 # a list of pids
  if [[ $signal == KILL ]]; then
    kill -KILL $(family "$pid") 2>/dev/null || true
  else
    kill "-$signal" "$pid" 2>/dev/null || true
    kill -CONT $(family "$pid") 2>/dev/null || true
  fi
  if ! wait_gone "$1" 20; then
    say "$1 does not stop, so it is killed."
    terminate "$1" KILL
  fi
}

# undo CODE: at the end of a call that did not come through, stops what it started.
undo() {
  trap '' INT TERM
  if [[ $1 != 0 ]]; then
    if [[ -n $current && -f $(log_file "$current") && $1 -lt 128 ]]; then
      say "$current failed."
      end_of_log "$current"
    fi
    if ((${#started[@]} > 0)); then
      say "Stopping what was started."
      stop_started
    fi
  fi
  exit "$1"
}

stop_started() {
  local last_first
  mapfile -t last_first < <(printf '%s\n' "${started[@]}" | tac)
  stop_parts "${last_first[@]}"
}
