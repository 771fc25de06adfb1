#!/bin/sh
# It needs Cargo, and a C compiler for ring. PROFILE=dev builds faster.
set -eu
cd "${0%/*}"
# shellcheck source=peers/rust-bank/cargo.sh
. ../rust-bank/cargo.sh
