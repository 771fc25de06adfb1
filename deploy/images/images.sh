#!/usr/bin/env bash
# images.sh [ARCH...]: builds an image of each binary in dist/ARCH, as an archive in dist/images. If
# a Docker engine is running, the images of its architecture are also loaded into it.
#
# oci.py writes the archives without an engine, so they have the same bytes on every machine. Older
# engines cannot build for another architecture.
#
# SOURCE is the URL of the source for the label of the images; default: the git remote origin.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/../.."

say() {
  printf 'images: %s\n' "$*" >&2
}

archs=("${@:-amd64}")
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
if [[ $revision != unknown && -n $(git status --porcelain --untracked-files=no) ]]; then
  revision+=-changed
fi
source=${SOURCE:-$(git remote get-url origin 2>/dev/null | grep -E '^https?://' || echo unknown)}

say "writing archives to dist/images"
table=$(deploy/images/oci.py "$version" "$revision" "$source" "${archs[@]}")
case $(uname -m) in
  x86_64) native=amd64 ;;
  aarch64) native=arm64 ;;
  *) native=armv7 ;;
esac
if docker version &>/dev/null; then
  for archive in dist/images/*-"$native".tar; do
    docker load --quiet --input "$archive" >&2
  done
else
  say "no Docker engine is running; load an image with: docker load -i dist/images/NAME-ARCH.tar"
fi
echo "$table"
