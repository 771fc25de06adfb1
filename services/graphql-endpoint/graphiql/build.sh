#!/usr/bin/env bash
# Makes the compressed files that stand beside this script, from the packages in package-lock.json. They are checked in, so that
# a build of the bank needs neither npm nor a network; run this after changing a version or a page, and commit what it makes.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp package.json package-lock.json "$work"
(cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --silent)
from=$work/node_modules

# Zopfli's gzip is 4 % smaller than gzip's own, and has no time and name in it: the same input gives the same bytes.
command -v zopfli >/dev/null || {
  echo "build.sh: zopfli is missing: apt-get install zopfli" >&2
  exit 1
}
# pack NAME [FILE]: FILE or stdin.
pack() {
  cat "${2:--}" >"$work/$1"
  zopfli -c --i15 "$work/$1" >"$1.gz"
}

pack react.js "$from/react/umd/react.production.min.js"
pack react-dom.js "$from/react-dom/umd/react-dom.production.min.js"
pack graphiql.js "$from/graphiql/graphiql.min.js"
# The fonts inside are as large as all the rest; the system has fonts.
python3 -c '
import re, sys
css = sys.stdin.read()
sys.stdout.write(re.sub(r"@font-face\s*\{[^}]*\}", "", css))
' <"$from/graphiql/graphiql.min.css" | pack graphiql.css
pack start.js start.js
pack index.html index.html

{
  echo "The files here come from these packages, all under the MIT licence:"
  for package in graphiql react react-dom graphql; do
    echo
    echo "== $package $(node -p "require('$from/$package/package.json').version")"
    cat "$from/$package/LICENSE" 2>/dev/null || echo "MIT; see github.com/graphql/graphiql"
  done
} >LICENSES.txt
du -cb ./*.gz | tail -1
