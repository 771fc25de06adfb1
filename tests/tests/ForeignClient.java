import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.apicurio.registry.serde.avro.AvroKafkaDeserializer;
import io.apicurio.registry.serde.avro.AvroKafkaSerializer;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericFixed;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.generic.GenericRecordBuilder;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * A client of the bank on the JVM, with Apicurio's serializers. Opens an account, deposits money,
 * and prints the records sent and read as one JSON object. The addresses of the brokers and of the
 * registry are in environment variables.
 */
final class ForeignClient {
  private static final String BROKERS = System.getenv("KAFKA_BROKERS");
  private static final String REGISTRY = System.getenv("SCHEMA_REGISTRY_URL");
  private static final List<String> OUTCOMES =
      List.of("account_creation_confirmed", "money_transfer_confirmed", "balance_changed");
  private static final Duration TIMEOUT = Duration.ofSeconds(30);
  private static final ObjectMapper JSON = new ObjectMapper();

  private final AvroKafkaSerializer<GenericRecord> byText = new AvroKafkaSerializer<>();
  private final AvroKafkaSerializer<GenericRecord> newest = new AvroKafkaSerializer<>();
  private final AvroKafkaDeserializer<GenericRecord> deserializer = new AvroKafkaDeserializer<>();
  private final KafkaProducer<String, byte[]> producer =
      new KafkaProducer<>(
          Map.of("bootstrap.servers", BROKERS), new StringSerializer(), new ByteArraySerializer());
  private final KafkaConsumer<String, byte[]> consumer =
      new KafkaConsumer<>(
          Map.of("bootstrap.servers", BROKERS),
          new StringDeserializer(),
          new ByteArrayDeserializer());
  private final List<ObjectNode> sent = new ArrayList<>();
  private final List<ObjectNode> read = new ArrayList<>();

  public static void main(String[] args) throws Exception {
    new ForeignClient().run();
    // The HTTP client of the serializers has threads.
    System.exit(0);
  }

  private ForeignClient() {
    // The wire format of Confluent. Schemas are looked up and never registered.
    Map<String, Object> config =
        Map.of(
            "apicurio.registry.url", REGISTRY.replace("/apis/ccompat/v7", "/apis/registry/v2"),
            "apicurio.registry.auto-register", false,
            "apicurio.registry.artifact-resolver-strategy",
                "io.apicurio.registry.serde.strategy.TopicIdStrategy",
            "apicurio.registry.headers.enabled", false,
            "apicurio.registry.as-confluent", true,
            "apicurio.registry.use-id", "contentId");
    byText.configure(config, false);
    Map<String, Object> findLatest = new HashMap<>(config);
    findLatest.put("apicurio.registry.find-latest", true);
    newest.configure(findLatest, false);
    deserializer.configure(config, false);
  }

  private void run() throws Exception {
    List<TopicPartition> partitions =
        OUTCOMES.stream()
            .flatMap(topic -> consumer.partitionsFor(topic).stream())
            .map(it -> new TopicPartition(it.topic(), it.partition()))
            .toList();
    consumer.assign(partitions);
    consumer.seekToEnd(partitions);
    partitions.forEach(consumer::position);

    // The serializer sends a schema with an enum in parts, which no client registers.
    String opening = send("confirm_account_creation", newest, Map.of("a_type", "MANUAL"));
    String iban = outcome("account_creation_confirmed", opening).get("iban").textValue();
    Map<String, Object> fields =
        Map.of(
            "token", "cash", "amount", 1234L, "from", "cash", "to", iban,
            "description", "émigré €");
    String deposit = send("confirm_money_transfer", byText, fields);
    outcome("money_transfer_confirmed", deposit);
    outcome("balance_changed", iban);
    System.out.println(JSON.writeValueAsString(Map.of("sent", sent, "read", read)));
  }

  /** The newest schema of a topic. */
  private static Schema schema(String topic) throws Exception {
    URI url = URI.create(REGISTRY + "/subjects/" + topic + "-value/versions/latest/schema");
    HttpRequest request = HttpRequest.newBuilder(url).build();
    String text = HttpClient.newHttpClient().send(request, BodyHandlers.ofString()).body();
    return new Schema.Parser().parse(text);
  }

  /** Sends a command; returns its key. */
  private String send(
      String topic, AvroKafkaSerializer<GenericRecord> serializer, Map<String, Object> fields)
      throws Exception {
    UUID key = UUID.randomUUID();
    ByteBuffer id = ByteBuffer.allocate(16);
    id.putLong(key.getMostSignificantBits()).putLong(key.getLeastSignificantBits());
    Schema schema = schema(topic);
    GenericRecordBuilder command = new GenericRecordBuilder(schema);
    command.set("id", new GenericData.Fixed(schema.getField("id").schema(), id.array()));
    fields.forEach(
        (name, value) -> {
          Schema type = schema.getField(name).schema();
          boolean isSymbol = type.getType() == Schema.Type.ENUM;
          command.set(name, isSymbol ? new GenericData.EnumSymbol(type, value) : value);
        });
    byte[] value = serializer.serialize(topic, command.build());
    int partition =
        producer.send(new ProducerRecord<>(topic, key.toString(), value)).get().partition();
    ObjectNode record = JSON.createObjectNode();
    record.put("topic", topic).put("key", key.toString()).put("partition", partition);
    record.putArray("ids").add(ByteBuffer.wrap(value).getInt(1));
    sent.add(record);
    return key.toString();
  }

  /** The outcome with this key. Records with other keys are skipped. */
  private JsonNode outcome(String topic, String key) {
    long deadline = System.nanoTime() + TIMEOUT.toNanos();
    while (true) {
      for (ObjectNode record : read) {
        if (record.get("topic").textValue().equals(topic)
            && record.get("key").textValue().equals(key)) {
          return record.get("value");
        }
      }
      if (System.nanoTime() > deadline) {
        throw new IllegalStateException("no record " + key + " on " + topic);
      }
      for (ConsumerRecord<String, byte[]> it : consumer.poll(Duration.ofMillis(100))) {
        ObjectNode record = JSON.createObjectNode();
        record.put("topic", it.topic()).put("key", it.key()).put("partition", it.partition());
        record.set("value", json(deserializer.deserialize(it.topic(), it.value())));
        read.add(record);
      }
    }
  }

  private static JsonNode json(GenericRecord value) {
    ObjectNode json = JSON.createObjectNode();
    for (Schema.Field field : value.getSchema().getFields()) {
      Object it = value.get(field.pos());
      if (it instanceof GenericFixed fixed) {
        json.put(field.name(), HexFormat.of().formatHex(fixed.bytes()));
      } else if (it instanceof Long number) {
        json.put(field.name(), number);
      } else {
        json.put(field.name(), it == null ? null : it.toString());
      }
    }
    return json;
  }
}
