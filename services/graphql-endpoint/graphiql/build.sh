#!/usr/bin/env bash
# build.sh            builds the compressed files in this folder from the packages in
#                     package-lock.json. Run it after a change of a version or of a page and commit
#                     the results, since a build of the bank needs neither npm nor a network. Needs
#                     zopfli.
# build.sh --check    fails unless the compressed files are up to date.
# Needs npm and the packages in package-lock.json.
set -euo pipefail
graphiql=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# npm installs its packages here, outside of the sources.
work=$graphiql/../../../target/graphiql
mkdir -p "$work"
cp "$graphiql"/{package.json,package-lock.json,.npmrc,index.html,start.js} "$work"
cd "$work"
if ! cmp -s package-lock.json installed.json; then
  rm -f installed.json
  # npm compares each package with its hash in package-lock.json.
  npm ci --ignore-scripts --no-audit --no-fund --silent
  cp package-lock.json installed.json
fi

cp node_modules/react/umd/react.production.min.js react.js
cp node_modules/react-dom/umd/react-dom.production.min.js react-dom.js
cp node_modules/graphiql/graphiql.min.js graphiql.js
# The embedded fonts would double the size of all files. The system's fonts are used instead.
node -e '
const css = require("node:fs").readFileSync("node_modules/graphiql/graphiql.min.css", "utf8");
process.stdout.write(css.replace(/@font-face\s*\{[^}]*\}/g, ""));
' >graphiql.css
{
  echo "The files in this folder contain these packages, all under the MIT license:"
  for package in graphiql react react-dom graphql; do
    echo
    echo "== $package $(node -p "require('./node_modules/$package/package.json').version")"
    cat "node_modules/$package/LICENSE" 2>/dev/null || echo "MIT; see github.com/graphql/graphiql"
  done
} >LICENSES.txt

compressed=(graphiql.css graphiql.js index.html react-dom.js react.js start.js)
if [[ ${1:-} == --check ]]; then
  # Compares the contents, since another version of zopfli may compress differently.
  for file in "${compressed[@]}"; do
    gzip -dc "$graphiql/$file.gz" | cmp - "$file" || exit 1
  done
  cmp "$graphiql/LICENSES.txt" LICENSES.txt
  exit
fi
# The output of zopfli is 4 % smaller than that of gzip. It contains no time and no name, so the
# same input gives the same bytes.
command -v zopfli >/dev/null || {
  echo "build.sh: zopfli is missing: apt-get install zopfli" >&2
  exit 1
}
for file in "${compressed[@]}"; do
  zopfli -c --i15 "$file" >"$graphiql/$file.gz"
done
cp LICENSES.txt "$graphiql"
du -cb "$graphiql"/*.gz | tail -1
