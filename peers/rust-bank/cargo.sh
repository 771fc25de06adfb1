# shellcheck shell=sh
# Sourced by build.sh of a Rust peer, in the folder of the peer. Creates target/peers/NAME/artefact,
# where NAME is the name of that folder. PROFILE=dev builds faster, because it shares the debug
# build of the bank.
name=${PWD##*/} target=$PWD/../../target profile=${PROFILE:-release}
case $profile in
  dev) folder=debug cargo=$target ;;
  *) folder=$profile cargo=$target/peers/$name/cargo ;;
esac
cargo build --locked --profile "$profile" --target-dir "$cargo"
mkdir -p "$target/peers/$name/artefact"
cp "$cargo/$folder/$name" "$target/peers/$name/artefact/"
