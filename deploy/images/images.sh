#!/usr/bin/env bash
# images.sh [ARCH...]: an image of each binary in dist/ARCH, as an archive in dist/images; into the Docker engine too, if one answers
# and can run it. oci.py writes the archives, with or without an engine: they are the same bytes everywhere, and older engines
# can't build for another architecture than their own. SOURCE is the address of the source, for the images' label.
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

say "archives in dist/images by deploy/images/oci.py"
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
  say "no Docker engine answers; where one does: docker load -i dist/images/NAME-ARCH.tar"
fi
echo "$table"
