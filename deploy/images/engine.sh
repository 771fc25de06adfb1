#!/usr/bin/env bash
# engine.sh COMMAND...: runs COMMAND with a Docker engine.
#
# If no engine is running, the script starts one below target/docker, which requires root, and stops
# it after COMMAND. That engine does not change the network of the machine or other engines, so
# containers need --network host or none.
#
# Exit codes: that of COMMAND; 69 if no engine is available (sysexits.h, EX_UNAVAILABLE).
set -euo pipefail
dir=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)/target/docker

if docker version &>/dev/null; then
  exec "$@"
fi
if [[ $EUID != 0 ]] || ! command -v dockerd >/dev/null; then
  echo "engine: no Docker engine is running; starting one requires root and dockerd:" \
    "apt-get install docker.io" >&2
  exit 69
fi
export DOCKER_HOST=unix://$dir/docker.sock
mkdir -p "$dir"
dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/docker.pid" \
  --host "$DOCKER_HOST" --bridge none --iptables=false --ip6tables=false --ip-forward=false \
  --ip-masq=false >"$dir/dockerd.log" 2>&1 &
engine=$!
# dockerd stops its containers but leaves a mount, which would prevent the deletion of the folder.
trap 'kill $engine 2>/dev/null && wait $engine || true
  umount "$dir/exec/netns/default" 2>/dev/null || true' EXIT
for ((tries = 0; tries < 300; tries++)); do
  if docker version &>/dev/null; then
    "$@"
    exit
  fi
  kill -0 $engine 2>/dev/null || break
  sleep 0.1
done
echo "engine: dockerd did not start: $(tail -n 3 "$dir/dockerd.log")" >&2
exit 69
