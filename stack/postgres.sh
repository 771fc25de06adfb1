# shellcheck shell=bash
# PostgreSQL with balancedb and transactiondb, both of the role bank. It refuses to run as root, so root runs it as
# POSTGRES_USER.

POSTGRES_USER=${POSTGRES_USER:-postgres}

# Folder of the newest PostgreSQL's programs, or of POSTGRES_BIN; fails if there is none.
postgres_bin() {
  local found=${POSTGRES_BIN:-}
  [[ -n $found ]] || found=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
  [[ -x $found/postgres ]] || found=$(dirname "$(command -v postgres || echo none)")
  [[ -x $found/postgres && -x $found/initdb && -x $found/pg_isready ]] || return 1
  echo "$found"
}

# as_postgres: the words before a command that run it as a user that PostgreSQL accepts, in the array of that name.
as_postgres() {
  as_postgres=()
  [[ $EUID == 0 ]] || return 0
  local user=(setpriv "--reuid=$POSTGRES_USER" "--regid=$POSTGRES_USER" --init-groups) power
  # Of a checkout below root's home, that user may not even pass the folders above its own. It gets the power to, the
  # smaller one where there is a choice (a container has the larger one only).
  for power in '' dac_read_search dac_override; do
    as_postgres=("${user[@]}" ${power:+"--inh-caps=+$power" "--ambient-caps=+$power"})
    # Not test -x: access(2) knows nothing of such powers.
    if "${as_postgres[@]}" stat "$STACK_DIR/." &>/dev/null; then
      return
    fi
  done
  die "user $POSTGRES_USER, as whom root runs PostgreSQL, can't reach $STACK_DIR: set STACK_DIR to another folder"
}

prepare_postgres() {
  local bin
  bin=$(postgres_bin)
  as_postgres
  wait_backends_gone
  [[ ! -d $STACK_DIR/postgres ]] || return 0
  # Made aside: a folder that is there is a whole one.
  local new=$STACK_DIR/postgres.new password
  password=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
  rm -rf "$new"
  install -d -m 700 "$new"
  [[ $EUID != 0 ]] || chown "$POSTGRES_USER:" "$new"
  (umask 077 && echo "$password" >"$STACK_DIR/postgres.password")
  run_logged postgres init_postgres "$bin" "$new" "$password"
  mv "$new" "$STACK_DIR/postgres"
}

init_postgres() {
  local bin=$1 dir=$2 password=$3
  "${as_postgres[@]}" "$bin/initdb" -D "$dir" -U postgres -A trust -E UTF8 --locale=C
  "${as_postgres[@]}" "$bin/postgres" --single -D "$dir" template1 <<END
CREATE EXTENSION pg_stat_statements
CREATE ROLE bank LOGIN CREATEDB IN ROLE pg_monitor PASSWORD '$password'
CREATE DATABASE balancedb OWNER bank
CREATE DATABASE transactiondb OWNER bank
END
  echo "host all all 127.0.0.1/32 scram-sha-256" >"$dir/pg_hba.conf"
}

launch_postgres() {
  local bin option options=()
  bin=$(postgres_bin)
  as_postgres
  # Durable as PostgreSQL comes (fsync, synchronous_commit); the rest fits a small machine that writes much.
  for option in listen_addresses=127.0.0.1 port="$POSTGRES_PORT" unix_socket_directories= shared_buffers=1GB \
    wal_buffers=16MB max_wal_size=4GB checkpoint_timeout=15min jit=off timezone=UTC log_timezone=UTC \
    $POSTGRES_OPTIONS; do
    options+=(-c "$option")
  done
  launch postgres "${as_postgres[@]}" "$bin/postgres" -D "$STACK_DIR/postgres" "${options[@]}"
}

ready_postgres() {
  "$(postgres_bin)/pg_isready" -q -h 127.0.0.1 -p "$POSTGRES_PORT" -d balancedb -U bank -t 2
}

# The backends of a killed PostgreSQL end a moment after it, and until then its data can't be opened. All work in its
# folder. Where nobody has taken its exit code yet, the next one would think it alive for its postmaster.pid.
wait_backends_gone() {
  local since
  since=$(now_ms)
  while [[ -n $(find /proc/[0-9]*/cwd -lname "$STACK_DIR/postgres" 2>/dev/null) ]]; do
    (($(now_ms) - since < 10000)) || die "processes of an earlier PostgreSQL still use $STACK_DIR/postgres"
    sleep 0.05
  done
  rm -f "$STACK_DIR/postgres/postmaster.pid"
}
