#!/usr/bin/env bash
# test.sh [PART...]: the binaries and images in dist/ at work, on the servers of the stack whose environment it is run in: make
# test-images. The parts, in this order:
#   sizes        no image is larger than it may be
#   refusals     without an environment each binary that needs one says one line and exits with 2
#   emulated     the arm64 synchronizer and command-handler in an emulator, the other services as amd64 processes
#   containers   all amd64 services as containers
#   contract     the command-handler's image keeps the contract (`bench verify`), kill -9 included
#   same_image   Dockerfile.scratch makes the same image as oci.py
# Services are ready, money is transferred and every cent checked (`bench demo`, GraphQL), and SIGTERM stops them within a
# second. The last three need a Docker engine (engine.sh); where none can be had they are named as not tested.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/../.."
dir=$PWD/target/test-images
# What of arm64 is tried: the emulated ones.
readonly arm64=$dir/dist/arm64
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# All that keep running.
mapfile -t services < <(awk '$2 != "edge" && $2 != "synchronizer" { print $2 }' dist/amd64/SHA256SUMS)
readonly need_engine=(containers contract same_image)
parts=("$@")
[[ $# -gt 0 ]] || parts=(sizes refusals emulated engine)
not_tested=
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

# within SECONDS WHAT COMMAND...: until COMMAND succeeds.
within() {
  local deadline=$(($(now_ms) + $1 * 1000)) what=$2
  shift 2
  until "$@" &>/dev/null; do
    (($(now_ms) < deadline)) || die "$what"
    sleep 0.1
  done
}

# environment SERVICE: its variables, on the ports that the stack has for it.
environment() {
  local url=${1^^}
  url=${url//-/_}_HEALTH_URL
  echo "KAFKA_BROKERS=$KAFKA_BROKERS"
  echo "SCHEMA_REGISTRY_URL=$SCHEMA_REGISTRY_URL"
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

# lacks_nothing NAME: true if it runs without an environment.
lacks_nothing() {
  [[ ${1##*/} == frontend ]]
}

# refuses COMMAND...: one line and code 2.
refuses() {
  local code=0 said
  said=$("$@" 2>&1) || code=$?
  [[ $code == 2 && -n $said && $said != *$'\n'* ]] || die "$* without an environment: code $code, said: $said"
}

# bank_works LOADS: money moves, and none is lost; a visitor gets an account, and a deposit on it.
bank_works() {
  bench demo --duration-s 6 --loads "$1" >"$dir/demo.log" 2>&1 || {
    cat "$dir/demo.log" >&2
    die "bench demo at $1 beats/s"
  }
  tail -n 1 "$dir/demo.log" >&2
  deploy/images/visitor.py "$FRONTEND_URL" "$GRAPHQL_ENDPOINT_URL" >&2 || die "a visitor"
}

# run NAME COMMAND...: in the background, with the environment of service NAME.
run() {
  local name=$1 variables
  shift
  mapfile -t variables < <(environment "$name")
  env -i "${variables[@]}" "$@" >"$dir/$name.log" 2>&1 &
  started+=($!)
}

# Sets emulator to a program that runs arm64 binaries here.
find_emulator() {
  emulator=$(command -v qemu-aarch64-static) || emulator=$(command -v qemu-aarch64) || die "no emulator of arm64"
}

# built DIR: the binaries in it.
built() {
  awk -v dir="$1" '{ print dir "/" $2 }' "$1/SHA256SUMS"
}

test_sizes() {
  local binary size most
  for binary in $(built dist/amd64) $(built "$arm64"); do
    case $binary in
      */edge) most=4000000 ;;
      */graphql-endpoint) most=3200000 ;; # GraphiQL is 0.35 MB of it.
      *) most=2000000 ;;
    esac
    # An image has one file.
    size=$(stat --format %s "$binary")
    ((size < most)) || die "$binary is $size bytes; its limit is $most"
  done
  say "all images are below their limits"
}

test_refusals() {
  local binary
  find_emulator
  for binary in $(built dist/amd64); do
    lacks_nothing "$binary" || refuses env -i "$binary"
  done
  for binary in $(built "$arm64"); do
    refuses env -i "$emulator" "$binary"
  done
  say "each binary says what it lacks"
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
    within 30 "$name is not ready: $(tail -n 3 "$dir/$name.log")" env -i "${variables[@]}" "dist/amd64/$name" healthcheck
  done
  bank_works 20,100
  for pid in "${started[@]}"; do
    since=$(now_ms)
    kill -TERM "$pid"
    code=0
    wait "$pid" || code=$?
    (($(now_ms) - since < 1000 && code == 0)) || die "SIGTERM: code $code after $(($(now_ms) - since)) ms"
  done
  started=()
  say "arm64 synchronizer and command-handler work in $emulator"
}

# What the engine is for, if one can be had.
test_engine() {
  local code=0
  deploy/images/engine.sh "$0" "${need_engine[@]}" || code=$?
  case $code in
    0) ;;
    69) not_tested="; NOT TESTED, since no Docker engine can be had here: ${need_engine[*]}" ;;
    *) exit "$code" ;;
  esac
}

# container NAME ARGUMENT...: runs its image with them as compose.yml would.
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

test_containers() {
  local name image archive pid since took code
  for archive in dist/images/*-amd64.tar; do
    docker load --quiet --input "$archive" >/dev/null
    name=${archive##*/}
    name=${name%-amd64.tar}
    lacks_nothing "$name" || refuses docker run --rm --network none "scratchbank/$name:$version"
  done
  container synchronizer --rm "scratchbank/synchronizer:$version" &>"$dir/synchronizer.log" ||
    die "synchronizer: $(tail -n 3 "$dir/synchronizer.log")"
  for name in "${services[@]}"; do
    # One of them as a service of `edge`.
    image=("scratchbank/$name:$version")
    [[ $name != command-generator ]] || image=("scratchbank/edge:$version" "$name")
    container "$name" --detach --name "scratchbank-test-$name" "${image[@]}" >/dev/null
    containers+=("scratchbank-test-$name")
  done
  for name in "${containers[@]}"; do
    within 30 "$name is not healthy: $(docker logs --tail 3 "$name" 2>&1)" is_healthy "$name"
  done
  bank_works 100,1000,3000
  for name in "${containers[@]}"; do
    [[ $(docker inspect --format '{{.State.OOMKilled}} {{.RestartCount}}' "$name") == "false 0" ]] || die "$name ran out of memory"
    # Not `docker stop`: its own time would count.
    pid=$(docker inspect --format '{{.State.Pid}}' "$name")
    since=$(now_ms)
    kill -TERM "$pid"
    while kill -0 "$pid" 2>/dev/null; do
      sleep 0.01
    done
    took=$(($(now_ms) - since))
    code=$(docker wait "$name")
    [[ $code == 0 && $took -lt 1000 ]] || die "$name as PID 1, SIGTERM: code $code after $took ms"
    say "$name: SIGTERM as PID 1, exit 0 after $took ms"
  done
}

test_contract() {
  bench verify --kills 1 --kill-transfers 300 --out "$dir" --image "scratchbank/command-handler:$version" >"$dir/verify.log" 2>&1 || {
    cat "$dir/verify.log" >&2
    die "the command-handler's image breaks the contract"
  }
  say "the command-handler's image keeps the contract"
}

# Dockerfile.scratch makes the same image as oci.py.
test_same_image() {
  local format='{{json .Config.User}} {{json .Config.Entrypoint}} {{json .Config.Healthcheck}} {{json .Config.Labels}} {{.Architecture}} {{.Size}}'
  local archived built
  archived=$(docker inspect --format "$format" "scratchbank/heartbeat:$version")
  label() {
    docker inspect --format "{{index .Config.Labels \"org.opencontainers.image.$1\"}}" "scratchbank/heartbeat:$version"
  }
  docker build --quiet --file Dockerfile.scratch --target prebuilt --build-arg SERVICE=heartbeat --build-arg "VERSION=$version" \
    --build-arg "REVISION=$(label revision)" --build-arg "SOURCE=$(label source)" --tag scratchbank-test/heartbeat . >/dev/null
  built=$(docker inspect --format "$format" scratchbank-test/heartbeat)
  [[ $archived == "$built" ]] || die "the images differ:"$'\n'"$archived"$'\n'"$built"
  say "Dockerfile.scratch and oci.py make the same image"
}

mkdir -p "$dir"
for part in "${parts[@]}"; do
  "test_$part"
done
say "passed: ${parts[*]}$not_tested"
