#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# Builds the program `stack` where that is needed, and becomes it. README.md beside this file lists
# the commands and variables. One command is done here: `prerequisites`, which also brings Rust,
# without which there is no program.
set -euo pipefail

stack=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
root=${stack%/*}
# rustup puts its programs where not every shell looks.
PATH=$PATH:${CARGO_HOME:-~/.cargo}/bin

say() {
  printf '%s\n' "$*" >&2
}

die() {
  say "stack: $*"
  exit 1
}

usage_error() {
  say "stack: $*"
  exit 2
}

# shellcheck source=prerequisites.sh
source "$stack/prerequisites.sh"

if [[ ${1:-} == prerequisites ]]; then
  shift
  prerequisites "$@"
  exit
fi

# A folder of its own: no other build, which holds the lock of target/, delays a command.
target=${CARGO_TARGET_DIR:-$root/target}/stack-program
program=$target/debug/stack

# True if the program is newer than all that it is made of.
up_to_date() {
  local file
  [[ -x $program ]] || return 1
  for file in "$stack"/src/*.rs "$stack"/{Cargo.toml,README.md} "$root/Cargo.lock"; do
    [[ $target/built -nt $file ]] || return 1
  done
}

if ! up_to_date; then
  cargo_fits || prerequisites build
  # Nothing but this message may wait on stderr, so the sleep gets none.
  (sleep 2 &>/dev/null && say "Building the program that runs the servers.") </dev/null >/dev/null &
  message=$!
  begun=$(mktemp)
  cargo build --locked --quiet --manifest-path "$root/Cargo.toml" --package stack --target-dir "$target" ||
    die "cargo build failed"
  kill "$message" 2>/dev/null || true
  # As old as the sources were when the build began: a later change is newer.
  touch --reference "$begun" "$target/built"
  rm "$begun"
fi

exec "$program" --root "$root" "$@"
