#!/bin/sh
# Compiles librdkafka and links it statically. It needs Cargo, make, and compilers for C and C++.
# PROFILE=dev builds faster.
set -eu
cd "${0%/*}"
# shellcheck source=peers/rust-bank/cargo.sh
. ../rust-bank/cargo.sh
