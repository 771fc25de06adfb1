#!/usr/bin/env bash
# verify-reproducible.sh [ARCH]: builds what is committed a second time, in another folder and from nothing, and compares it
# with dist/ARCH, which is built first if it isn't there for this commit.
set -euo pipefail
root=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
cd "$root"
arch=${1:-amd64}

if [[ -n $(git status --porcelain --untracked-files=no) ]]; then
  echo "verify-reproducible: there are changes that aren't committed" >&2
  exit 1
fi
again=$root/target/reproducible
rm -rf "$again"
mkdir -p "$again/elsewhere/source"
git archive HEAD | tar -x -C "$again/elsewhere/source"
deploy/images/binaries.sh "$arch"
# Only the C library's files are shared, which have checksums of their own.
mkdir -p "$again/elsewhere/source/target"
[[ ! -d target/musl ]] || cp -r target/musl "$again/elsewhere/source/target/"
TARGET_DIR='' DIST='' "$again/elsewhere/source/images/binaries.sh" "$arch"
(cd "$again/elsewhere/source/dist/$arch" && sha256sum --check "$root/dist/$arch/SHA256SUMS")
cmp "$again/elsewhere/source/dist/$arch/sbom.cdx.json" "dist/$arch/sbom.cdx.json"
echo "$arch: two builds of $(git rev-parse --short HEAD) in two folders are equal"
