package scratchbank;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import org.apache.avro.Schema;

/** Client of the schema registry (the Confluent API). */
final class Registry {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final int CONNECT_MS = 2_000;
  private static final int RESPONSE_MS = 5_000;
  private static final int SCHEMAS_MAX = 1_000;

  private final String url;
  private final Map<Integer, Schema> schemas = new HashMap<>();

  Registry(String url) {
    this.url = url.replaceAll("/+$", "");
  }

  /** The id of a schema that is registered for the values of the topic. */
  int idOf(String topic, String schema) throws IOException {
    JsonNode response =
        call("POST", "/subjects/" + topic + "-value", JSON.createObjectNode().put("schema", schema))
            .orElseThrow(
                () -> new IOException("topic " + topic + " has no schema: run the synchronizer"));
    return response.get("id").intValue();
  }

  /** The schema with this id, or empty if it is not registered. */
  Optional<Schema> schema(int id) throws IOException {
    Schema known = schemas.get(id);
    if (known != null || id < 0) {
      return Optional.ofNullable(known);
    }
    Optional<JsonNode> response = call("GET", "/schemas/ids/" + id, null);
    if (response.isEmpty()) {
      return Optional.empty();
    }
    if (schemas.size() >= SCHEMAS_MAX) {
      schemas.clear();
    }
    Schema schema = new Schema.Parser().parse(response.get().get("schema").textValue());
    schemas.put(id, schema);
    return Optional.of(schema);
  }

  private Optional<JsonNode> call(String method, String path, JsonNode body) throws IOException {
    HttpURLConnection call = (HttpURLConnection) URI.create(url + path).toURL().openConnection();
    call.setRequestMethod(method);
    call.setConnectTimeout(CONNECT_MS);
    call.setReadTimeout(RESPONSE_MS);
    if (body != null) {
      call.setDoOutput(true);
      call.setRequestProperty("Content-Type", "application/vnd.schemaregistry.v1+json");
      try (OutputStream out = call.getOutputStream()) {
        out.write(JSON.writeValueAsString(body).getBytes(StandardCharsets.UTF_8));
      }
    }
    int status = call.getResponseCode();
    if (status == 404) {
      return Optional.empty();
    }
    if (status != 200) {
      throw new IOException(method + " " + url + path + ": status " + status);
    }
    try (InputStream in = call.getInputStream()) {
      return Optional.of(JSON.readTree(in));
    }
  }
}
