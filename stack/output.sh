# shellcheck shell=bash
# What the user sees. All of it goes to stderr: stdout belongs to the answer of a command.

say() {
  clear_progress
  printf '%s\n' "$*" >&2
}

die() {
  say "stack: $*"
  exit 1
}

now_ms() {
  echo $((${EPOCHREALTIME/[.,]/} / 1000))
}

# progress WHAT SINCE_MS: after 2 s and then now and again, says that WHAT is still waited for. On a terminal it is one
# line that changes.
progress() {
  local seconds=$((($(now_ms) - $2) / 1000))
  if ((seconds < 2 || seconds == ${progress_shown:-0})); then
    # In a signal's trap a bare `return` would give the status from before the trap.
    return 0
  fi
  if [[ -t 2 ]]; then
    printf '\r\e[K%s ... %d s' "$1" "$seconds" >&2
  elif ((seconds == 2 || seconds % 10 == 0)); then
    printf '%s ... %d s\n' "$1" "$seconds" >&2
  fi
  progress_shown=$seconds
}

clear_progress() {
  if [[ -n ${progress_shown:-} && -t 2 ]]; then
    printf '\r\e[K' >&2
  fi
  progress_shown=
}

# took SINCE_MS: as in "1.4 s".
took() {
  local ms=$(($(now_ms) - $1))
  echo "$((ms / 1000)).$((ms % 1000 / 100)) s"
}

# end_of_log PART
end_of_log() {
  say "The end of $(log_file "$1"):"
  tail -n 15 "$(log_file "$1")" | sed 's/^/    /' >&2
}
