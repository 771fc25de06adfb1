# shellcheck shell=bash
# The bank's own services, each under a supervisor.

prepare_service() {
  [[ -x $(bin_dir)/$1 ]] || die "$(bin_dir)/$1 is missing: make build"
}

launch_service() {
  service_environment "$1"
  # Not as arguments of env: others could read the database's password there.
  local -x "${service_environment[@]}"
  launch "$1.supervisor" "$stack/supervise.sh" "$1" "$run_dir" "$(bin_dir)/$1"
}

ready_service() {
  http_ok "$(health_port "$1")" /readyz
}

# Name=value words for service $1, in the array of that name.
service_environment() {
  local database own
  service_environment=("KAFKA_BROKERS=$(kafka_brokers)" "SCHEMA_REGISTRY_URL=$(registry_url)")
  database=$(database "$1")
  [[ -z $database || $database == - ]] || service_environment+=("DATABASE_URL=$(database_url "$database")")
  own=$(own_port "$1")
  [[ -z $own || $own == - ]] || service_environment+=("$own=${!own}")
  [[ $1 == "$synchronizer" ]] || service_environment+=("HEALTH_PORT=$(health_port "$1")")
  # The page and the endpoint are on two ports, two origins that is: each is told of the other, unless the caller did.
  case $1 in
    graphql-endpoint)
      service_environment+=("CORS_ORIGINS=${CORS_ORIGINS:-http://localhost:$FRONTEND_PORT,http://127.0.0.1:$FRONTEND_PORT}")
      ;;
    frontend)
      service_environment+=("GRAPHQL_URL=${GRAPHQL_URL:-:$GRAPHQL_PORT/graphql}" "RESULTS_DIR=${RESULTS_DIR:-$root/target/results:$root/docs/results:$root/docs}")
      ;;
  esac
}

# Makes topics and schemas what they should be.
synchronize() {
  local since
  since=$(now_ms)
  prepare_service "$synchronizer"
  rotate_log "$synchronizer"
  service_environment "$synchronizer"
  local -x "${service_environment[@]}"
  current=$synchronizer
  # A bound for the worst case: it has one of its own.
  run_logged "$synchronizer" timeout --foreground 120 "$(bin_dir)/$synchronizer" ||
    die "$synchronizer exited with code $? (124 is a time-out)."
  current=
  say "$(printf '%-18s done in %s' "$synchronizer" "$(took "$since")")"
}
