#!/usr/bin/env bash
# test.sh [PART...]: the binaries and images in dist/ at work, with a Docker engine (engine.sh) and the servers of the stack whose
# environment it is run in: make test-images.
# First the arm64 synchronizer and command-handler in an emulator, then all amd64 services as containers: refused without
# an environment, ready, money transferred and every cent checked by `bench demo`, stopped by SIGTERM within a second.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/.."
dir=$PWD/target/test-images
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# All that keep running.
mapfile -t services < <(awk '$2 != "edge" && $2 != "synchronizer" { print $2 }' dist/amd64/SHA256SUMS)
parts=("$@")
[[ $# -gt 0 ]] || parts=(emulated containers same_image)
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
  echo "DATABASE_URL=$BALANCE_DATABASE_URL"
  echo "CONTROL_PORT=${HEARTBEAT_URL##*:}"
  [[ -z ${!url:-} ]] || echo "HEALTH_PORT=${!url##*:}"
}

# refuses COMMAND...: one line and code 2.
refuses() {
  local code=0 said
  said=$("$@" 2>&1) || code=$?
  [[ $code == 2 && -n $said && $said != *$'\n'* ]] || die "$* without an environment: code $code, said: $said"
}

# bank_works LOADS: money moves, and none is lost.
bank_works() {
  DEMO_S=6 DEMO_LOADS=$1 bench demo >"$dir/demo.log" 2>&1 || {
    cat "$dir/demo.log" >&2
    die "bench demo at $1 beats/s"
  }
  tail -n 1 "$dir/demo.log" >&2
}

# run NAME COMMAND...: in the background, with the environment of service NAME.
run() {
  local name=$1 variables
  shift
  mapfile -t variables < <(environment "$name")
  env -i "${variables[@]}" "$@" >"$dir/$name.log" 2>&1 &
  started+=($!)
}

test_emulated() {
  local emulator=qemu-aarch64-static pid since code
  command -v "$emulator" >/dev/null || emulator=qemu-aarch64
  [[ $(uname -m) != aarch64 ]] || emulator="env"
  local name binary variables
  for binary in dist/amd64/*; do
    [[ ! -x $binary ]] || refuses env -i "$binary"
    binary=${binary/amd64/arm64}
    [[ ! -x $binary ]] || refuses env -i "PATH=$PATH" "$emulator" "$binary"
  done
  mapfile -t variables < <(environment synchronizer)
  env -i "PATH=$PATH" "${variables[@]}" "$emulator" dist/arm64/synchronizer >"$dir/synchronizer.log" 2>&1 ||
    die "arm64 synchronizer: $(tail -n 3 "$dir/synchronizer.log")"
  for name in "${services[@]}"; do
    case $name in
      command-handler) run "$name" "$(command -v "$emulator")" "dist/arm64/$name" ;;
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

# container NAME ARGUMENT...: runs its image with them as compose.yml would.
container() {
  local name=$1 variable options=()
  shift
  while read -r variable; do
    options+=(--env "$variable")
  done < <(environment "$name")
  docker run --network host --memory 16m --pids-limit 64 --read-only --cap-drop ALL --security-opt no-new-privileges \
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
    refuses docker run --rm --network none "scratchbank/$name:$version"
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

rm -f "$dir"/*.log
mkdir -p "$dir"
for part in "${parts[@]}"; do
  "test_$part"
done
say 'all passed'
