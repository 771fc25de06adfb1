#!/usr/bin/env bash
# build.sh            builds dist/ from src/. Run it after a change and commit the results, since a
#                     build of the bank needs neither npm nor a network.
# build.sh --check    fails unless dist/ is up to date. Prepares the tests in target/page.
# Needs npm and the packages in package-lock.json.
set -euo pipefail
page=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# npm installs its packages here, outside of the sources.
work=$page/../../../target/page
mkdir -p "$work"
rm -rf "$work"/{src,tests}
cp -r "$page"/{package.json,package-lock.json,.npmrc,tsconfig.json,src,tests} "$work"
cp "$page"/{build.js,screenshots.js} "$work"
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
  # Compares the contents, since another version of gzip may compress differently.
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
  # -n: no time and no name in the file, so that the same input gives the same bytes.
  gzip -9 -n <"dist/$file" >"$page/dist/$file.gz"
done
cp dist/{index.html,LICENSES.txt} "$page/dist"
wc -c "$page"/dist/*
