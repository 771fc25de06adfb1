// Creates a topic that stores batches as they are sent. If CLIENT is "java", it also produces the
// records of src/tests/golden.rs with the Java client.
//
//     java -cp 'jars/*' Golden.java BROKERS TOPIC CLIENT CODEC

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Golden {
    public static void main(String[] args) throws Exception {
        String brokers = args[0], topic = args[1], client = args[2], codec = args[3];
        try (var admin = Admin.create(Map.of("bootstrap.servers", brokers))) {
            var configs = Map.of("compression.type", "producer", "message.timestamp.type", "CreateTime", "retention.ms", "-1");
            var one = new NewTopic(topic, Optional.of(1), Optional.empty()).configs(configs);
            admin.createTopics(List.of(one)).all().get();
        }
        if (!client.equals("java")) {
            return;
        }
        var config = Map.<String, Object>of(
            "bootstrap.servers", brokers, "compression.type", codec, "linger.ms", 1000, "batch.size", 1 << 20);
        try (var producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (int i = 0; i < 12; i++) {
                byte[] key = switch (i % 3) {
                    case 0 -> null;
                    case 1 -> new byte[0];
                    default -> bytes("key-" + i);
                };
                byte[] value = switch (i % 4) {
                    case 0 -> null;
                    case 1 -> new byte[0];
                    case 2 -> bytes("value-" + i);
                    default -> bytes(("words of " + i + " ").repeat(codec.equals("none") ? 10 : 3000));
                };
                var record = new ProducerRecord<>(topic, 0, 1_700_000_000_000L + 10 * i, key, value);
                if (i % 5 == 0) {
                    record.headers().add("name", bytes("one")).add("name", null).add("é", new byte[] {0, -1});
                }
                producer.send(record);
            }
        }
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
