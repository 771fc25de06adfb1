#!/usr/bin/env bash
# build.sh            makes the page in dist/ from src/. It is checked in, so that a build of the bank needs neither npm nor a network: run
#                     this after a change and commit what it makes.
# build.sh --check    fails unless dist/ is what src/ makes, then leaves the page and its tests ready to run in target/page.
# Needs npm and the packages in package-lock.json.
set -euo pipefail
page=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# Packages have no place among the sources.
work=$page/../../../target/page
mkdir -p "$work"
rm -rf "$work"/{src,tests}
cp -r "$page"/{package.json,package-lock.json,.npmrc,tsconfig.json,build.js,screenshots.js,src,tests} "$work"
cd "$work"
if ! cmp -s package-lock.json installed.json; then
  rm -f installed.json
  npm ci --ignore-scripts --no-audit --no-fund --silent
  cp package-lock.json installed.json
fi
npx --no-install tsc
rm -rf dist
node build.js

compressed=(app.css app.js icon.svg)
if [[ ${1:-} == --check ]]; then
  # The contents: another gzip may compress in another way.
  for file in "${compressed[@]}"; do
    gzip -dc "$page/dist/$file.gz" | cmp - "dist/$file" || exit 1
  done
  for file in index.html LICENSES.txt; do
    cmp "$page/dist/$file" "dist/$file"
  done
  exit
fi
mkdir -p "$page/dist"
for file in "${compressed[@]}"; do
  # -n: no time and name in the file, so that the same input gives the same bytes.
  gzip -9 -n <"dist/$file" >"$page/dist/$file.gz"
done
cp dist/{index.html,LICENSES.txt} "$page/dist"
wc -c "$page"/dist/*
