# shellcheck shell=bash
# Apicurio Registry with the Confluent API, its schemas in a file.

prepare_registry() {
  mkdir -p "$STACK_DIR/registry"
}

launch_registry() {
  # Each commit goes to the file at once: a killed registry has lost no schema that it gave an id.
  local database="jdbc:h2:file:$STACK_DIR/registry/schemas;WRITE_DELAY=0;DB_CLOSE_ON_EXIT=FALSE"
  REGISTRY_DATASOURCE_URL=$database launch registry java -Xms64m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    -Djava.util.logging.manager=org.jboss.logmanager.LogManager \
    -Dquarkus.datasource.jdbc.url="$database" -Dquarkus.http.host=127.0.0.1 -Dquarkus.http.port="$REGISTRY_PORT" \
    -jar "$(registry_jar)"
}

registry_jar() {
  local jars=("$SERVERS_DIR"/registry/apicurio-registry-app-*-runner.jar)
  echo "${jars[0]}"
}

ready_registry() {
  http_ok "$REGISTRY_PORT" /apis/ccompat/v7/subjects
}
