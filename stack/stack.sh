#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
# Builds the program `stack` if its sources have changed, and runs it. README.md in this folder
# lists the commands and variables. The command `prerequisites` is implemented here, since it also
# installs Rust, which the build of the program needs.
set -euo pipefail

stack=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
root=${stack%/*}
# rustup installs programs here, which is not in the PATH of every shell.
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

# In a separate folder, so that another build does not delay a command by its lock on target/.
target=${CARGO_TARGET_DIR:-$root/target}/stack-program
program=$target/debug/stack

# True if the program is newer than its sources.
up_to_date() {
  local file
  [[ -x $program ]] || return 1
  for file in "$stack"/src/*.rs "$stack"/{Cargo.toml,README.md} "$root/Cargo.lock"; do
    [[ $target/built -nt $file ]] || return 1
  done
}

if ! up_to_date; then
  cargo_fits || prerequisites build
  # The sleep must not keep stderr open after the end of this script.
  (sleep 2 &>/dev/null && say "Building the program that runs the servers.") </dev/null >/dev/null &
  message=$!
  begun=$(mktemp)
  cargo build --locked --quiet --manifest-path "$root/Cargo.toml" --package stack \
    --target-dir "$target" || die "cargo build failed"
  kill "$message" 2>/dev/null || true
  # Has the time of the build's start, so that a later change of a source is newer.
  touch --reference "$begun" "$target/built"
  rm "$begun"
fi

exec "$program" --root "$root" "$@"
