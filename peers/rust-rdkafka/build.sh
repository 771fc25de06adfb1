#!/bin/sh
# Librdkafka is compiled and linked in. Needs cargo, make, a C compiler and one for C++. PROFILE=dev builds faster.
set -eu
cd "${0%/*}"
# shellcheck source=peers/rust-bank/cargo.sh
. ../rust-bank/cargo.sh
