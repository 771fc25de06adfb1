#!/usr/bin/env bash
# test.sh [PART...]: tests the binaries and images in dist/ with the servers of a stack. `make
# test-images` calls it in the environment of that stack. The parts, in order:
#   sizes        each image is below its size limit
#   refusals     a binary without its environment variables prints one line and exits with 2
#   emulated     synchronizer and command-handler run as arm64 binaries in an emulator, the other
#                services as amd64 processes
#   panics       a panic ends one operation of the graphql-endpoint, in a build that can panic
#   containers   all services run as amd64 containers
#   hostile      the graphql-endpoint's container withstands hostile.py for two minutes, or
#                HOSTILE_S seconds
#   largest      the containers handle the largest and the smallest records of every topic, with
#                each Kafka client
#   contract     the command-handler's image passes `bench verify`, which includes kill -9
#   same_image   Dockerfile.scratch builds the same image as oci.py
#
# In `emulated` and `containers` the services become ready, `bench demo` and GraphQL requests
# transfer money and check every cent, and SIGTERM ends each service within a second. The last five
# parts need a Docker engine (engine.sh). Without one, the result lists them as not tested.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/../.."
dir=$PWD/target/test-images
# The arm64 binaries of the part `emulated`.
readonly arm64=$dir/dist/arm64
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# The services that keep running.
mapfile -t services < <(
  awk '$2 != "edge" && $2 != "synchronizer" { print $2 }' dist/amd64/SHA256SUMS
)
readonly need_engine=(containers hostile largest contract same_image)
parts=("$@")
[[ $# -gt 0 ]] || parts=(sizes refusals emulated panics engine)
not_tested=
kafka_client=auto
started=()
containers=()

say() {
  printf 'test-images: %s\n' "$*" >&2
}

die() {
  say "FAILED: $*"
  exit 1
}

cleanup() {
  local code=$? it
  trap - EXIT
  for it in "${containers[@]}"; do
    docker rm --force "$it" &>/dev/null || true
  done
  for it in "${started[@]}"; do
    if kill "$it" 2>/dev/null; then
      wait "$it" 2>/dev/null || true
    fi
  done
  exit "$code"
}
trap cleanup EXIT

now_ms() {
  echo $((${EPOCHREALTIME/[.,]/} / 1000))
}

# within SECONDS MESSAGE COMMAND...: repeats COMMAND until it succeeds; fails with MESSAGE.
within() {
  local deadline=$(($(now_ms) + $1 * 1000)) message=$2
  shift 2
  until "$@" &>/dev/null; do
    (($(now_ms) < deadline)) || die "$message"
    sleep 0.1
  done
}

# environment SERVICE: prints its variables, with the ports that the stack assigns to it.
environment() {
  local url=${1^^}
  url=${url//-/_}_HEALTH_URL
  echo "KAFKA_BROKERS=$KAFKA_BROKERS"
  echo "SCHEMA_REGISTRY_URL=$SCHEMA_REGISTRY_URL"
  echo "KAFKA_CLIENT=$kafka_client"
  case $1 in
    heartbeat) echo "CONTROL_PORT=${HEARTBEAT_URL##*:}" ;;
    command-handler) echo "DATABASE_URL=$BALANCE_DATABASE_URL" ;;
    graphql-endpoint)
      echo "DATABASE_URL=$TRANSACTION_DATABASE_URL"
      echo "GRAPHQL_PORT=${GRAPHQL_ENDPOINT_URL##*:}"
      echo "VISITORS=200"
      ;;
    frontend) echo "FRONTEND_PORT=${FRONTEND_URL##*:}" ;;
  esac
  [[ -z ${!url:-} ]] || echo "HEALTH_PORT=${!url##*:}"
}

# needs_no_environment NAME: succeeds if NAME runs without environment variables.
needs_no_environment() {
  [[ ${1##*/} == frontend ]]
}

# refuses COMMAND...: checks that COMMAND prints one line and exits with 2.
refuses() {
  local code=0 output
  output=$("$@" 2>&1) || code=$?
  [[ $code == 2 && -n $output && $output != *$'\n'* ]] ||
    die "$* without an environment exited with $code and printed: $output"
}

# bank_works LOADS: checks that a load moves money without loss, and that a user can open an account
# and deposit.
bank_works() {
  bench demo --duration-s 6 --loads "$1" >"$dir/demo.log" 2>&1 || {
    cat "$dir/demo.log" >&2
    die "bench demo failed at $1 heartbeat records/s"
  }
  tail -n 1 "$dir/demo.log" >&2
  deploy/images/simulated_user.py "$FRONTEND_URL" "$GRAPHQL_ENDPOINT_URL" >&2 ||
    die "simulated_user.py failed"
}

# run NAME COMMAND...: runs COMMAND in the background with the environment of service NAME.
run() {
  local name=$1 variables
  shift
  mapfile -t variables < <(environment "$name")
  env -i "${variables[@]}" "$@" >"$dir/$name.log" 2>&1 &
  started+=($!)
}

# find_emulator: sets emulator to a program that runs arm64 binaries.
find_emulator() {
  emulator=$(command -v qemu-aarch64-static) || emulator=$(command -v qemu-aarch64) ||
    die "no emulator of arm64: apt-get install qemu-user-static"
}

# built DIR: prints the paths of the binaries in DIR.
built() {
  awk -v dir="$1" '{ print dir "/" $2 }' "$1/SHA256SUMS"
}

test_sizes() {
  local binary size limit
  for binary in $(built dist/amd64) $(built "$arm64"); do
    case $binary in
      */edge) limit=4000000 ;;
      */graphql-endpoint) limit=3250000 ;; # GraphiQL takes 0.35 MB of it.
      *) limit=2000000 ;;
    esac
    # The binary is the only file of its image.
    size=$(stat --format %s "$binary")
    ((size < limit)) || die "$binary has $size bytes; its limit is $limit"
  done
  say "all images are below their size limits"
}

test_refusals() {
  local binary
  find_emulator
  for binary in $(built dist/amd64); do
    needs_no_environment "$binary" || refuses env -i "$binary"
  done
  for binary in $(built "$arm64"); do
    refuses env -i "$emulator" "$binary"
  done
  say "each binary reports a missing variable"
}

test_emulated() {
  local pid since code name variables
  find_emulator
  mapfile -t variables < <(environment synchronizer)
  env -i "${variables[@]}" "$emulator" "$arm64/synchronizer" >"$dir/synchronizer.log" 2>&1 ||
    die "arm64 synchronizer: $(tail -n 3 "$dir/synchronizer.log")"
  for name in "${services[@]}"; do
    case $name in
      command-handler) run "$name" "$emulator" "$arm64/$name" ;;
      *) run "$name" dist/amd64/edge "$name" ;;
    esac
  done
  for name in "${services[@]}"; do
    mapfile -t variables < <(environment "$name")
    within 30 "$name is not ready: $(tail -n 3 "$dir/$name.log")" \
      env -i "${variables[@]}" "dist/amd64/$name" healthcheck
  done
  bank_works 20,100
  for pid in "${started[@]}"; do
    since=$(now_ms)
    kill -TERM "$pid"
    code=0
    wait "$pid" || code=$?
    (($(now_ms) - since < 1000 && code == 0)) ||
      die "exit code $code, $(($(now_ms) - since)) ms after SIGTERM"
  done
  started=()
  say "the arm64 synchronizer and command-handler work in $emulator"
}

# unwinds BINARY: succeeds if a panic unwinds in it. Then it has the table of its landing pads.
unwinds() {
  readelf --section-headers --wide "$1" | grep -q gcc_except_table
}

test_panics() {
  local binary variables
  for binary in $(built dist/amd64); do
    case $binary in
      */edge | */graphql-endpoint) unwinds "$binary" || die "a panic ends $binary" ;;
      *) ! unwinds "$binary" || die "$binary has the tables of an unwinder" ;;
    esac
  done
  binary=$dir/failpoints/amd64/graphql-endpoint
  mapfile -t variables < <(environment graphql-endpoint)
  run graphql-endpoint "$binary"
  within 30 "graphql-endpoint is not ready: $(tail -n 3 "$dir/graphql-endpoint.log")" \
    env -i "${variables[@]}" "$binary" healthcheck
  deploy/images/panicking_document.py "$GRAPHQL_ENDPOINT_URL" >&2 ||
    die "panicking_document.py failed: $(tail -n 3 "$dir/graphql-endpoint.log")"
  grep -q "a thread panicked" "$dir/graphql-endpoint.log" || die "no panic is in the log"
  kill "${started[0]}"
  wait "${started[0]}" || die "the graphql-endpoint exited with $?"
  started=()
}

# Runs the parts that need a Docker engine, if one is available.
test_engine() {
  local code=0
  deploy/images/engine.sh "$0" "${need_engine[@]}" || code=$?
  case $code in
    0) ;;
    69) not_tested="; NOT TESTED, no Docker engine is available: ${need_engine[*]}" ;;
    *) exit "$code" ;;
  esac
}

# container NAME ARGUMENT...: runs `docker run` with ARGUMENTs and the limits of compose.yml for
# NAME.
container() {
  local name=$1 variable options=(--memory 16m --pids-limit 64)
  shift
  case $name in
    graphql-endpoint) options=(--memory 32m --pids-limit 500) ;;
    frontend) options=(--memory 16m --pids-limit 600) ;;
  esac
  while read -r variable; do
    options+=(--env "$variable")
  done < <(environment "$name")
  docker run --network host --read-only --cap-drop ALL --security-opt no-new-privileges \
    "${options[@]}" "$@"
}

is_healthy() {
  [[ $(docker inspect --format '{{.State.Health.Status}}' "$1") == healthy ]]
}

load_images() {
  local archive
  for archive in dist/images/*-amd64.tar; do
    docker load --quiet --input "$archive" >/dev/null
  done
}

test_containers() {
  local name archive
  load_images
  for archive in dist/images/*-amd64.tar; do
    name=${archive##*/}
    name=${name%-amd64.tar}
    needs_no_environment "$name" ||
      refuses docker run --rm --network none "localhost/scratchbank/$name:$version"
  done
  start_containers
  bank_works 100,1000,3000
  stop_containers
}

test_hostile() {
  start_containers
  deploy/images/hostile.py --seconds "${HOSTILE_S:-120}" \
    --container scratchbank-test-graphql-endpoint >&2 ||
    die "hostile.py failed: $(docker logs --tail 5 scratchbank-test-graphql-endpoint 2>&1)"
  stop_containers
}

test_largest() {
  local name
  load_images
  for kafka_client in kafka-crate built-in; do
    start_containers
    target/debug/examples/largest_records >&2 ||
      die "with $kafka_client: $(for name in "${containers[@]}"; do
        docker inspect --format '{{.Name}} {{.State.Status}} {{.State.OOMKilled}}' "$name"
        docker logs --tail 3 "$name" 2>&1
      done)"
    for name in "${containers[@]}"; do
      say "$kafka_client: $name used $(highest_memory "$name") KiB of memory at most"
    done
    stop_containers
  done
  kafka_client=auto
}

# highest_memory CONTAINER: prints the highest resident memory of its process in KiB.
highest_memory() {
  awk '$1 == "VmHWM:" { print $2 }' "/proc/$(docker inspect --format '{{.State.Pid}}' "$1")/status"
}

start_containers() {
  local name image
  container synchronizer --rm "localhost/scratchbank/synchronizer:$version" \
    &>"$dir/synchronizer.log" ||
    die "synchronizer: $(tail -n 3 "$dir/synchronizer.log")"
  for name in "${services[@]}"; do
    # The command-generator runs from the image of `edge`.
    image=("localhost/scratchbank/$name:$version")
    [[ $name != command-generator ]] || image=("localhost/scratchbank/edge:$version" "$name")
    container "$name" --detach --name "scratchbank-test-$name" "${image[@]}" >/dev/null
    containers+=("scratchbank-test-$name")
  done
  for name in "${containers[@]}"; do
    within 30 "$name is not healthy: $(docker logs --tail 3 "$name" 2>&1)" is_healthy "$name"
  done
}

stop_containers() {
  local name status pid since took code
  for name in "${containers[@]}"; do
    status=$(docker inspect --format '{{.State.OOMKilled}} {{.RestartCount}}' "$name")
    [[ $status == "false 0" ]] || die "$name exceeded its memory limit"
    # Not `docker stop`, because its own time would count.
    pid=$(docker inspect --format '{{.State.Pid}}' "$name")
    since=$(now_ms)
    kill -TERM "$pid"
    while kill -0 "$pid" 2>/dev/null; do
      sleep 0.01
    done
    took=$(($(now_ms) - since))
    code=$(docker wait "$name")
    [[ $code == 0 && $took -lt 1000 ]] ||
      die "$name as PID 1: exit code $code, $took ms after SIGTERM"
    say "$name as PID 1: exit code 0, $took ms after SIGTERM"
    docker rm "$name" >/dev/null
  done
  containers=()
}

test_contract() {
  bench verify --kills 1 --kill-transfers 300 --out "$dir" \
    --image "localhost/scratchbank/command-handler:$version" >"$dir/verify.log" 2>&1 || {
    cat "$dir/verify.log" >&2
    die "the command-handler's image violates the contract"
  }
  say "the command-handler's image satisfies the contract"
}

test_same_image() {
  local format='{{json .Config.User}} {{json .Config.Entrypoint}} {{json .Config.Healthcheck}}'
  format+=' {{json .Config.Labels}} {{.Architecture}} {{.Size}}'
  local archived built
  archived=$(docker inspect --format "$format" "localhost/scratchbank/heartbeat:$version")
  label() {
    docker inspect --format "{{index .Config.Labels \"org.opencontainers.image.$1\"}}" \
      "localhost/scratchbank/heartbeat:$version"
  }
  docker build --quiet --file Dockerfile.scratch --target prebuilt --build-arg SERVICE=heartbeat \
    --build-arg "VERSION=$version" --build-arg "REVISION=$(label revision)" \
    --build-arg "SOURCE=$(label source)" --tag scratchbank-test/heartbeat . >/dev/null
  built=$(docker inspect --format "$format" scratchbank-test/heartbeat)
  [[ $archived == "$built" ]] || die "the images differ:"$'\n'"$archived"$'\n'"$built"
  say "Dockerfile.scratch and oci.py build the same image"
}

mkdir -p "$dir"
for part in "${parts[@]}"; do
  "test_$part"
done
say "passed: ${parts[*]}$not_tested"
