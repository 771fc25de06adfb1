// What clients that nobody here wrote do to a topic: the Java client's compression, transactions, partitioner and reader.
// Run with the jars of Apache Kafka: java -cp 'jars/*' Foreign.java BROKERS TOPIC STEP...; a STEP is as in gzip:3.

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
            case "read" -> {
                var config = Map.<String, Object>of("bootstrap.servers", brokers);
                try (var consumer = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
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
                    for (var mechanism : List.of(ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512)) {
                        var info = new ScramCredentialInfo(mechanism, count);
                        var user = new UserScramCredentialUpsertion("ann,=", info, "pencil");
                        admin.alterUserScramCredentials(List.of(user)).all().get();
                    }
                }
            }
            // In the group that is called as the topic, for so many ms; prints how many partitions it has whenever that changes.
            case "member" -> {
                var config = Map.<String, Object>of("bootstrap.servers", brokers, "group.id", topic);
                try (var consumer = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
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
