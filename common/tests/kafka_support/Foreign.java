// What clients that nobody here wrote do to a topic: the Java client's compression, transactions and partitioner.
// Run with the jars of Apache Kafka: java -cp 'jars/*' Foreign.java BROKERS TOPIC STEP...; a STEP is as in gzip:3.

import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringSerializer;

public class Foreign {
    private final String brokers;
    private final String topic;
    private int number = 0;

    public static void main(String[] args) throws Exception {
        Foreign foreign = new Foreign(args[0], args[1]);
        for (String step : List.of(args).subList(2, args.length)) {
            String[] words = step.split(":");
            foreign.step(words[0], Integer.parseInt(words[1]));
        }
    }

    private Foreign(String brokers, String topic) {
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
                // The broker ends a transaction that takes longer, by default after a minute.
                Map<String, Object> config =
                        Map.of("transactional.id", UUID.randomUUID().toString(), "transaction.timeout.ms", 900_000);
                try (var producer = producer(config)) {
                    producer.initTransactions();
                    producer.beginTransaction();
                    send(producer, 0, count);
                    producer.flush();
                    if (what.equals("hold")) {
                        System.out.println("held");
                        System.in.read(); // Until whoever started this closes it.
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
                        var record = new ProducerRecord<String, String>(topic, 0, 1234567890123L, null, "");
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
            case "delete" -> {
                try (var admin = Admin.create(Map.of("bootstrap.servers", brokers))) {
                    var before = RecordsToDelete.beforeOffset(count);
                    admin.deleteRecords(Map.of(new TopicPartition(topic, 0), before)).all().get();
                }
            }
            default -> throw new IllegalArgumentException(what);
        }
    }

    private KafkaProducer<String, String> producer(Map<String, Object> more) {
        var config = new java.util.HashMap<String, Object>(more);
        config.put("bootstrap.servers", brokers);
        config.put("linger.ms", 50);
        return new KafkaProducer<>(config, new StringSerializer(), new StringSerializer());
    }

    private void send(KafkaProducer<String, String> producer, Integer partition, int count) {
        for (int i = 0; i < count; i++, number++) {
            producer.send(new ProducerRecord<>(topic, partition, "key-" + number, "value-" + number));
        }
    }
}
