#!/usr/bin/env bash
# verify-reproducible.sh [ARCH]: builds the binaries of the current commit into dist/ARCH, builds
# them again from scratch in another folder, and compares the two builds.
set -euo pipefail
root=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
cd "$root"
arch=${1:-amd64}

if [[ -n $(git status --porcelain --untracked-files=no) ]]; then
  echo "verify-reproducible: the checkout has uncommitted changes; commit them first" >&2
  exit 1
fi
again=$root/target/reproducible
rm -rf "$again"
mkdir -p "$again/elsewhere/source"
git archive HEAD | tar -x -C "$again/elsewhere/source"
deploy/images/binaries.sh "$arch"
# The builds share only the files of the C library, which binaries.sh checks by checksum.
mkdir -p "$again/elsewhere/source/target"
[[ ! -d target/musl ]] || cp -r target/musl "$again/elsewhere/source/target/"
TARGET_DIR='' DIST='' "$again/elsewhere/source/deploy/images/binaries.sh" "$arch"
(cd "$again/elsewhere/source/dist/$arch" && sha256sum --check "$root/dist/$arch/SHA256SUMS")
cmp "$again/elsewhere/source/dist/$arch/sbom.cdx.json" "dist/$arch/sbom.cdx.json"
echo "$arch: two builds of $(git rev-parse --short HEAD) in different folders are identical"
