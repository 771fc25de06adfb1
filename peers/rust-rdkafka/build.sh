#!/bin/sh
# Makes target/peers/rust-rdkafka/artefact: librdkafka is compiled and linked in. Needs cargo, make, a C compiler and one for C++.
# PROFILE=dev builds faster, with what the bank's own debug build has built already.
set -eu
cd "${0%/*}"
name=${PWD##*/} target=$PWD/../../target profile=${PROFILE:-release}
case $profile in
  dev) folder=debug cargo=$target ;;
  *) folder=$profile cargo=$target/peers/$name/cargo ;;
esac
cargo build --locked --profile "$profile" --target-dir "$cargo"
mkdir -p "$target/peers/$name/artefact"
cp "$cargo/$folder/$name" "$target/peers/$name/artefact/"
