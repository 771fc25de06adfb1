package scratchbank;

import java.io.IOException;
import java.sql.SQLException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The main loop: polls records, decides and stores them in one transaction, sends the outcomes, and
 * commits the offsets after all are acknowledged. The producer sends a batch while the next one is
 * polled and decided.
 */
final class Handler implements AutoCloseable, ConsumerRebalanceListener {
  private static final Logger LOG = LoggerFactory.getLogger(Handler.class);
  private static final Duration POLL = Duration.ofMillis(100);

  /**
   * Shortest time between commits. A commit costs the broker as much as a batch. It only limits the
   * number of records that are read again after a crash.
   */
  private static final long COMMIT_NANOS = 100_000_000;

  /** Wait of a poll while records are not acknowledged. */
  private static final Duration POLL_PENDING = Duration.ofMillis(1);

  private final Store store;
  private final Codec codec;
  private final boolean single;
  private final KafkaConsumer<byte[], byte[]> consumer;
  private final KafkaProducer<byte[], byte[]> producer;

  /** Records that were sent and may not be acknowledged. */
  private final List<Future<?>> pending = new ArrayList<>();

  /** The next offsets after all records that were handled since the last commit. */
  private final Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();

  private long committedAt = System.nanoTime();
  private volatile boolean ready;
  private volatile boolean stopping;

  Handler(String brokers, boolean single, Store store, Codec codec) {
    this.store = store;
    this.codec = codec;
    this.single = single;
    consumer = new KafkaConsumer<>(consumerConfig(brokers));
    producer = new KafkaProducer<>(producerConfig(brokers));
  }

  private static Properties consumerConfig(String brokers) {
    Properties config = new Properties();
    config.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
    config.put(ConsumerConfig.GROUP_ID_CONFIG, "command-handler");
    config.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
    config.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
    config.put(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, 1000);
    // The shortest session timeout that brokers allow, so that a killed handler is soon replaced.
    config.put(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG, 6_000);
    config.put(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG, 2_000);
    config.put(ConsumerConfig.KEY_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class);
    config.put(ConsumerConfig.VALUE_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class);
    return config;
  }

  private static Properties producerConfig(String brokers) {
    Properties config = new Properties();
    config.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
    config.put(ProducerConfig.ACKS_CONFIG, "all");
    config.put(ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG, true);
    // All records of a batch are sent together: linger has no use, and 16 KiB would split them.
    config.put(ProducerConfig.LINGER_MS_CONFIG, 0);
    config.put(ProducerConfig.BATCH_SIZE_CONFIG, 256 << 10);
    config.put(ProducerConfig.MAX_REQUEST_SIZE_CONFIG, 4 << 20);
    config.put(ProducerConfig.KEY_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class);
    config.put(ProducerConfig.VALUE_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class);
    return config;
  }

  boolean isReady() {
    return ready;
  }

  /** Requests shutdown. Any thread may call it. `run` finishes the current batch and returns. */
  void stop() {
    stopping = true;
  }

  void run() throws SQLException, IOException, ExecutionException, InterruptedException {
    consumer.subscribe(List.of(Codec.ACCOUNTS, Codec.TRANSFERS), this);
    while (!stopping) {
      ConsumerRecords<byte[], byte[]> records =
          consumer.poll(pending.isEmpty() ? POLL : POLL_PENDING);
      if (records.isEmpty()) {
        if (pending.stream().allMatch(Future::isDone)) {
          settle(false);
        }
      } else if (single) {
        handleSingly(records);
      } else {
        handle(records);
      }
    }
    settle(true);
  }

  private void handle(ConsumerRecords<byte[], byte[]> records)
      throws SQLException, IOException, ExecutionException, InterruptedException {
    List<Commands.Command> commands = new ArrayList<>(records.count());
    List<ProducerRecord<byte[], byte[]>> outgoing = new ArrayList<>(records.count() * 3);
    Map<TopicPartition, OffsetAndMetadata> next = new HashMap<>();
    for (ConsumerRecord<byte[], byte[]> record : records) {
      read(record, commands, outgoing);
      next.put(
          new TopicPartition(record.topic(), record.partition()),
          new OffsetAndMetadata(record.offset() + 1));
    }
    if (!commands.isEmpty()) {
      for (Commands.Outcome outcome : store.decide(commands)) {
        codec.encode(outcome, outgoing);
      }
    }
    // The records of the batch before must be acknowledged before later offsets are committed.
    settle(false);
    for (ProducerRecord<byte[], byte[]> record : outgoing) {
      pending.add(producer.send(record));
    }
    offsets.putAll(next);
  }

  /** Handles one record at a time: one transaction for each, and one acknowledgement at a time. */
  private void handleSingly(ConsumerRecords<byte[], byte[]> records)
      throws SQLException, IOException, ExecutionException, InterruptedException {
    for (ConsumerRecord<byte[], byte[]> record : records) {
      List<Commands.Command> command = new ArrayList<>(1);
      List<ProducerRecord<byte[], byte[]>> outgoing = new ArrayList<>(3);
      read(record, command, outgoing);
      if (!command.isEmpty()) {
        codec.encode(store.decide(command).get(0), outgoing);
      }
      for (ProducerRecord<byte[], byte[]> sent : outgoing) {
        producer.send(sent).get();
      }
      offsets.put(
          new TopicPartition(record.topic(), record.partition()),
          new OffsetAndMetadata(record.offset() + 1));
      if (stopping) {
        break;
      }
    }
    settle(false);
  }

  private void read(
      ConsumerRecord<byte[], byte[]> record,
      List<Commands.Command> commands,
      List<ProducerRecord<byte[], byte[]>> outgoing)
      throws IOException {
    try {
      commands.add(codec.read(record));
    } catch (Codec.UndecodableException e) {
      LOG.warn(
          "undecodable record {}/{}/{} goes to dead_letter: {}",
          record.topic(),
          record.partition(),
          record.offset(),
          e.getMessage());
      outgoing.add(Codec.deadLetter(record, e.getMessage()));
    }
  }

  /**
   * Waits until all sent records are acknowledged. Then commits their offsets if `now` is set or
   * `COMMIT_NANOS` have passed.
   */
  private void settle(boolean now) throws ExecutionException, InterruptedException {
    for (Future<?> record : pending) {
      record.get();
    }
    pending.clear();
    if (offsets.isEmpty() || !now && System.nanoTime() - committedAt < COMMIT_NANOS) {
      return;
    }
    committedAt = System.nanoTime();
    Map<TopicPartition, OffsetAndMetadata> done = Map.copyOf(offsets);
    offsets.clear();
    if (now) {
      consumer.commitSync(done);
    } else {
      // After a failure, the next commit of the same partitions has later offsets.
      consumer.commitAsync(
          done,
          (committed, e) -> {
            if (e != null) {
              LOG.warn("could not commit offsets, the next commit has later ones", e);
            }
          });
    }
  }

  @Override
  public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
    ready = !consumer.assignment().isEmpty();
  }

  @Override
  public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
    ready = false;
    try {
      settle(true);
    } catch (ExecutionException | InterruptedException e) {
      throw new IllegalStateException("could not publish the last batch before a rebalance", e);
    }
  }

  @Override
  public void close() {
    consumer.close();
    producer.close();
  }
}
