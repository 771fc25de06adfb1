#!/usr/bin/env bash
# passwords.sh: writes random passwords for compose.yml to .env, which Compose reads. Keeps the ones
# that .env has.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/../.."

umask 077
touch .env
chmod 600 .env
for role in POSTGRES BANK_OWNER COMMAND_HANDLER GRAPHQL_ENDPOINT REGISTRY; do
  variable=${role}_PASSWORD
  if ! grep -q "^$variable=" .env; then
    echo "$variable=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')" >>.env
    echo "passwords: $variable is in .env" >&2
  fi
done
