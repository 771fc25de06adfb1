#!/usr/bin/env bash
# passwords.sh: writes random passwords for compose.yml to .env, which Compose reads. Keeps the ones
# that .env has.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/../.."

# random CHARACTERS COUNT: prints COUNT random characters out of 0-9 and a-f.
random() {
  od -An -N64 -tx1 /dev/urandom | tr -dc "$1" | head -c "$2"
}

umask 077
touch .env
chmod 600 .env
for variable in {POSTGRES,BANK_OWNER,COMMAND_HANDLER,GRAPHQL_ENDPOINT,REGISTRY}_PASSWORD \
  {COMPANY,CONTROL}_TOKEN; do
  if ! grep -q "^$variable=" .env; then
    case $variable in
      COMPANY_TOKEN) value=$(random 0-9 20) ;;
      *) value=$(random 0-9a-f 32) ;;
    esac
    echo "$variable=$value" >>.env
    echo "passwords: $variable is in .env" >&2
  fi
done
