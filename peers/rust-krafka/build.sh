#!/bin/sh
# Makes target/peers/rust-krafka/artefact. Needs cargo and a C compiler, for ring.
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
