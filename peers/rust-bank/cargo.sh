# shellcheck shell=sh
# What build.sh of a peer in Rust sources in its folder: makes target/peers/NAME/artefact, NAME being the folder's.
# PROFILE=dev builds faster, with what the bank's own debug build has built already.
name=${PWD##*/} target=$PWD/../../target profile=${PROFILE:-release}
case $profile in
  dev) folder=debug cargo=$target ;;
  *) folder=$profile cargo=$target/peers/$name/cargo ;;
esac
cargo build --locked --profile "$profile" --target-dir "$cargo"
mkdir -p "$target/peers/$name/artefact"
cp "$cargo/$folder/$name" "$target/peers/$name/artefact/"
