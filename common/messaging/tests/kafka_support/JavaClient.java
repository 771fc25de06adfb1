// Runs steps with the Java client on a topic: compression, transactions, partitioner, consumer.
// Usage, with the jars of Apache Kafka: java -cp 'jars/*' JavaClient.java BROKERS TOPIC STEP...
// A STEP is a word and a number, such as gzip:3.

import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.ScramCredentialInfo;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.clients.admin.UserScramCredentialUpsertion;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class JavaClient {
    private final String brokers;
    private final String topic;
    private int number = 0;

    public static void main(String[] args) throws Exception {
        JavaClient client = new JavaClient(args[0], args[1]);
        for (String step : List.of(args).subList(2, args.length)) {
            String[] words = step.split(":");
            client.step(words[0], Integer.parseInt(words[1]));
        }
    }

    private JavaClient(String brokers, String topic) {
        this.brokers = brokers;
        this.topic = topic;
    }

    private void step(String what, int count) throws Exception {
        switch (what) {
            case "none", "gzip", "snappy", "lz4", "zstd" -> {
                try (var producer = producer(Map.of("compression.type", what))) {
                    send(producer, 0, count);
                }
            }
            case "commit", "abort", "hold" -> {
                // Without the timeout the broker aborts a transaction after one minute.
                var id = UUID.randomUUID().toString();
                Map<String, Object> config =
                        Map.of("transactional.id", id, "transaction.timeout.ms", 900_000);
                try (var producer = producer(config)) {
                    producer.initTransactions();
                    producer.beginTransaction();
                    send(producer, 0, count);
                    producer.flush();
                    if (what.equals("hold")) {
                        System.out.println("held");
                        System.in.read(); // Waits until the test closes the input.
                    }
                    if (what.equals("abort")) {
                        producer.abortTransaction();
                    } else {
                        producer.commitTransaction();
                    }
                }
            }
            case "headers" -> {
                try (var producer = producer(Map.of())) {
                    for (int i = 0; i < count; i++) {
                        var time = 1234567890123L;
                        var record = new ProducerRecord<String, String>(topic, 0, time, null, "");
                        record.headers().add("name", "one".getBytes()).add("name", null);
                        producer.send(record);
                    }
                }
            }
            case "keys" -> {
                try (var producer = producer(Map.of())) {
                    send(producer, null, count);
                }
            }
            case "read" -> {
                try (var consumer = consumer(Map.of())) {
                    var partition = List.of(new TopicPartition(topic, 0));
                    consumer.assign(partition);
                    consumer.seekToBeginning(partition);
                    while (number < count) {
                        for (var record : consumer.poll(Duration.ofSeconds(1))) {
                            System.out.println(record.value());
                            number++;
                        }
                    }
                }
            }
            case "user" -> {
                try (var admin = Admin.create(Map.of("bootstrap.servers", brokers))) {
                    var mechanisms =
                            List.of(ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512);
                    for (var mechanism : mechanisms) {
                        var info = new ScramCredentialInfo(mechanism, count);
                        var user = new UserScramCredentialUpsertion("ann,=", info, "pencil");
                        admin.alterUserScramCredentials(List.of(user)).all().get();
                    }
                }
            }
            // Joins the group named like the topic for `count` ms. Prints the number of assigned
            // partitions after each change.
            case "member" -> {
                try (var consumer = consumer(Map.of("group.id", topic))) {
                    consumer.subscribe(List.of(topic));
                    int had = -1;
                    for (long end = Long.MAX_VALUE; System.currentTimeMillis() < end; ) {
                        consumer.poll(Duration.ofMillis(100));
                        int has = consumer.assignment().size();
                        if (has > 0 && had <= 0) {
                            end = System.currentTimeMillis() + count;
                        }
                        if (has != had) {
                            System.out.println(has);
                        }
                        had = has;
                    }
                }
            }
            case "delete" -> {
                try (var admin = Admin.create(Map.of("bootstrap.servers", brokers))) {
                    var before = RecordsToDelete.beforeOffset(count);
                    admin.deleteRecords(Map.of(new TopicPartition(topic, 0), before)).all().get();
                }
            }
            default -> throw new IllegalArgumentException(what);
        }
    }

    private KafkaConsumer<String, String> consumer(Map<String, Object> more) {
        var config = new java.util.HashMap<String, Object>(more);
        config.put("bootstrap.servers", brokers);
        return new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer());
    }

    private KafkaProducer<String, String> producer(Map<String, Object> more) {
        var config = new java.util.HashMap<String, Object>(more);
        config.put("bootstrap.servers", brokers);
        config.put("linger.ms", 50);
        return new KafkaProducer<>(config, new StringSerializer(), new StringSerializer());
    }

    private void send(KafkaProducer<String, String> producer, Integer partition, int count) {
        for (int i = 0; i < count; i++, number++) {
            var key = "key-" + number;
            producer.send(new ProducerRecord<>(topic, partition, key, "value-" + number));
        }
    }
}
