#!/usr/bin/env bash
# engine.sh COMMAND...: runs COMMAND with a Docker engine: the one that answers, or else, as root, one of its own below
# target/docker, which leaves the machine's network and other engines alone (containers need --network host or none) and ends with COMMAND.
# Exit codes: COMMAND's; 69 where no engine can be had (sysexits.h, EX_UNAVAILABLE).
set -euo pipefail
dir=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)/target/docker

if docker version &>/dev/null; then
  exec "$@"
fi
if [[ $EUID != 0 ]] || ! command -v dockerd >/dev/null; then
  echo "engine: no Docker engine answers; to start one this must be root, with dockerd: apt-get install docker.io" >&2
  exit 69
fi
export DOCKER_HOST=unix://$dir/docker.sock
mkdir -p "$dir"
dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/docker.pid" --host "$DOCKER_HOST" \
  --bridge none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false >"$dir/dockerd.log" 2>&1 &
engine=$!
# It stops what runs in it, and leaves a mount behind, for which the folder could not be deleted.
trap 'kill $engine 2>/dev/null && wait $engine || true; umount "$dir/exec/netns/default" 2>/dev/null || true' EXIT
for ((tries = 0; tries < 300; tries++)); do
  if docker version &>/dev/null; then
    "$@"
    exit
  fi
  kill -0 $engine 2>/dev/null || break
  sleep 0.1
done
echo "engine: dockerd does not answer: $(tail -n 3 "$dir/dockerd.log")" >&2
exit 69
