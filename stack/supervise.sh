#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# supervise.sh NAME RUN_DIR COMMAND...: keeps COMMAND running. It is started again when it exits with a code other than 0
# (done) and 2 (its environment is wrong, which a restart doesn't mend): at once at first, then ever slower, and at once
# again after it has lived for a while. TERM is passed on and ends both. KILL to the process group ends both too.
set -euo pipefail

readonly delay_first_ms=100 delay_max_ms=5000 healthy_s=10

name=$1
run_dir=$2
shift 2
# shellcheck source=process.sh
source "${BASH_SOURCE[0]%/*}/process.sh"

log() {
  local level=$1 msg=$2
  shift 2
  TZ=UTC0 printf 'ts=%(%FT%TZ)T level=%s msg="%s" service=%s %s\n' -1 "$level" "$msg" "$name" "$*"
}

child=
stopping=
stop() {
  stopping=1
  [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true
}
trap stop TERM

delay_ms=$delay_first_ms
while [[ -z $stopping ]]; do
  started_s=$SECONDS
  code=0
  "$@" &
  child=$!
  record "$name" "$child"
  # A TERM that came while the child was being made found no child.
  [[ -z $stopping ]] || stop
  # A trapped signal ends `wait` before the child ends.
  wait "$child" 2>/dev/null || code=$?
  while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" 2>/dev/null || code=$?
  done
  child=
  lived_s=$((SECONDS - started_s))
  if [[ -n $stopping || $code == 0 || $code == 2 ]]; then
    log info "exited" "code=$code" "lived_s=$lived_s"
    exit "$code"
  fi
  ((lived_s < healthy_s)) || delay_ms=$delay_first_ms
  log warn "exited, starting again" "code=$code" "lived_s=$lived_s" "delay_ms=$delay_ms"
  sleep "$((delay_ms / 1000)).$(printf '%03d' $((delay_ms % 1000)))" &
  wait $! || true
  delay_ms=$((delay_ms * 2 < delay_max_ms ? delay_ms * 2 : delay_max_ms))
done
