#!/usr/bin/env bash
# Builds the compressed files in this folder from the packages in package-lock.json. The results are
# committed, so that a build of the bank needs neither npm nor a network. Run this after changing a
# version or a page, and commit the results.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp package.json package-lock.json "$work"
(cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --silent)
from=$work/node_modules

# The output of zopfli is 4 % smaller than that of gzip. It contains no time and no name, so the
# same input gives the same bytes.
command -v zopfli >/dev/null || {
  echo "build.sh: zopfli is missing: apt-get install zopfli" >&2
  exit 1
}
# pack NAME [FILE]: compresses FILE or stdin to NAME.gz.
pack() {
  cat "${2:--}" >"$work/$1"
  zopfli -c --i15 "$work/$1" >"$1.gz"
}

pack react.js "$from/react/umd/react.production.min.js"
pack react-dom.js "$from/react-dom/umd/react-dom.production.min.js"
pack graphiql.js "$from/graphiql/graphiql.min.js"
# The embedded fonts would double the size of all files. The system's fonts are used instead.
python3 -c '
import re, sys
css = sys.stdin.read()
sys.stdout.write(re.sub(r"@font-face\s*\{[^}]*\}", "", css))
' <"$from/graphiql/graphiql.min.css" | pack graphiql.css
pack start.js start.js
pack index.html index.html

{
  echo "The files in this folder contain these packages, all under the MIT license:"
  for package in graphiql react react-dom graphql; do
    echo
    echo "== $package $(node -p "require('$from/$package/package.json').version")"
    cat "$from/$package/LICENSE" 2>/dev/null || echo "MIT; see github.com/graphql/graphiql"
  done
} >LICENSES.txt
du -cb ./*.gz | tail -1
