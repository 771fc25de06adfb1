# shellcheck shell=bash
# Commands in the foreground, and what a signal to this script does.

# run COMMAND...: waits for it, in a process group of its own, so that a signal to this script reaches all of it.
run() {
  local code=0
  set -m
  "$@" 9>&- &
  child=$!
  set +m
  wait "$child" || code=$?
  child=
  return "$code"
}
child=

# run_logged NAME COMMAND...: the same, with its output in the log of NAME, and progress.
run_logged() {
  local name=$1 since code=0
  shift
  since=$(now_ms)
  set -m
  "$@" >>"$(log_file "$name")" 2>&1 </dev/null 9>&- &
  child=$!
  set +m
  while kill -0 "$child" 2>/dev/null; do
    progress "$name" "$since"
    sleep 0.05
  done
  wait "$child" || code=$?
  child=
  clear_progress
  return "$code"
}

# uninterrupted COMMAND...: signals wait until it is done. To ignore them would not do: what it starts would inherit that.
uninterrupted() {
  local pending
  deferring=1
  "$@"
  deferring=
  pending=$deferred
  deferred=
  [[ -z $pending ]] || on_signal "$pending"
}
deferring=
deferred=

# on_signal INT|TERM: passes it on to what `run` runs, then ends; the EXIT trap cleans up.
on_signal() {
  if [[ -n $deferring ]]; then
    deferred=$1
    return
  fi
  trap '' INT TERM
  if [[ -n $child ]]; then
    kill "-$1" -- "-$child" 2>/dev/null || true
    local since
    since=$(now_ms)
    while kill -0 -- "-$child" 2>/dev/null; do
      (($(now_ms) - since < 10000)) || kill -KILL -- "-$child" 2>/dev/null || true
      progress "waiting for the command to stop" "$since"
      sleep 0.05
    done
  fi
  exit $((128 + $(kill -l "$1")))
}
trap 'on_signal INT' INT
trap 'on_signal TERM' TERM
