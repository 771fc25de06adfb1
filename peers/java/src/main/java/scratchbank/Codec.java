package scratchbank;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.generic.GenericRecordBuilder;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.avro.util.Utf8;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;

/** Decodes records to commands and encodes outcomes to records: Avro in Confluent framing. */
final class Codec {
  static final String ACCOUNTS = "confirm_account_creation";
  static final String TRANSFERS = "confirm_money_transfer";
  private static final int COMMAND_BYTES_MAX = 64 << 10;

  /** An undecodable record. The message is the reason. */
  static final class UndecodableException extends Exception {
    private static final long serialVersionUID = 1;

    UndecodableException(String reason) {
      super(reason);
    }
  }

  private final Registry registry;
  private final Schema account = schema(ACCOUNTS);
  private final Schema transfer = schema(TRANSFERS);
  private final Map<Integer, GenericDatumReader<GenericRecord>> accountReaders = new HashMap<>();
  private final Map<Integer, GenericDatumReader<GenericRecord>> transferReaders = new HashMap<>();
  private final Writer opened;
  private final Writer notOpened;
  private final Writer moved;
  private final Writer refused;
  private final Writer changed;
  private BinaryDecoder decoder;

  Codec(Registry registry) throws IOException {
    this.registry = registry;
    opened = new Writer("account_creation_confirmed");
    notOpened = new Writer("account_creation_failed");
    moved = new Writer("money_transfer_confirmed");
    refused = new Writer("money_transfer_failed");
    changed = new Writer("balance_changed");
  }

  /** Decodes the command in a record. */
  Commands.Command read(ConsumerRecord<byte[], byte[]> record)
      throws UndecodableException, IOException {
    byte[] value = record.value();
    if (record.key() == null) {
      throw new UndecodableException("record has no key");
    }
    if (value == null) {
      throw new UndecodableException("record has no value");
    }
    if (value.length > COMMAND_BYTES_MAX) {
      throw new UndecodableException(
          "value has " + value.length + " bytes, more than " + COMMAND_BYTES_MAX);
    }
    if (value.length < 5 || value[0] != 0) {
      throw new UndecodableException("value has no magic byte 0 with a schema id");
    }
    int id = ByteBuffer.wrap(value).getInt(1);
    Optional<Schema> writer = registry.schema(id);
    if (writer.isEmpty()) {
      throw new UndecodableException("schema " + id + " is not registered");
    }
    boolean isTransfer = record.topic().equals(TRANSFERS);
    GenericDatumReader<GenericRecord> reader =
        isTransfer
            ? transferReaders.computeIfAbsent(
                id, it -> new GenericDatumReader<>(writer.get(), transfer))
            : accountReaders.computeIfAbsent(
                id, it -> new GenericDatumReader<>(writer.get(), account));
    try {
      decoder = DecoderFactory.get().binaryDecoder(value, 5, value.length - 5, decoder);
      GenericRecord datum = reader.read(null, decoder);
      if (!decoder.isEnd()) {
        throw new UndecodableException("schema " + id + ": bytes follow the datum");
      }
      return isTransfer ? transfer(datum) : creation(datum);
    } catch (IOException | RuntimeException e) {
      // The exception comes from Avro and has its cause in the bytes: no I/O happens here.
      throw new UndecodableException("schema " + id + ": " + e);
    }
  }

  private static Commands.Creation creation(GenericRecord datum) {
    return new Commands.Creation(uuid(datum.get("id")), datum.get("a_type").toString());
  }

  private static Commands.Transfer transfer(GenericRecord datum)
      throws UndecodableException, CharacterCodingException {
    return new Commands.Transfer(
        uuid(datum.get("id")),
        text(datum.get("token")),
        (Long) datum.get("amount"),
        storable(text(datum.get("from"))),
        storable(text(datum.get("to"))),
        storable(text(datum.get("description"))));
  }

  private static String storable(String text) throws UndecodableException {
    if (text.indexOf('\0') >= 0) {
      throw new UndecodableException("a text has a NUL character");
    }
    return text;
  }

  /** Avro itself would replace bytes that are not UTF-8 by another character. */
  private static String text(Object field) throws CharacterCodingException {
    Utf8 utf8 = (Utf8) field;
    ByteBuffer bytes = ByteBuffer.wrap(utf8.getBytes(), 0, utf8.getByteLength());
    return StandardCharsets.UTF_8.newDecoder().decode(bytes).toString();
  }

  private static UUID uuid(Object field) {
    ByteBuffer bytes = ByteBuffer.wrap(((GenericData.Fixed) field).bytes());
    return new UUID(bytes.getLong(), bytes.getLong());
  }

  private static ByteBuffer bytes(UUID id) {
    return ByteBuffer.allocate(16)
        .putLong(id.getMostSignificantBits())
        .putLong(id.getLeastSignificantBits());
  }

  /** The dead letter of a record: its value under a key with its origin and the reason. */
  static ProducerRecord<byte[], byte[]> deadLetter(
      ConsumerRecord<byte[], byte[]> record, String reason) {
    String origin = record.topic() + "/" + record.partition() + "/" + record.offset();
    byte[] value = record.value() == null ? new byte[0] : record.value();
    return new ProducerRecord<>(
        "dead_letter", (origin + ": " + reason).getBytes(StandardCharsets.UTF_8), value);
  }

  /** Adds the records of an outcome. They are equal for equal outcomes. */
  void encode(Commands.Outcome outcome, List<ProducerRecord<byte[], byte[]>> records)
      throws IOException {
    if (outcome instanceof Commands.Moved it) {
      records.add(moved.record(it.id().toString(), moved.with(it.id())));
      if (it.fromChange() != null) {
        records.add(change(it, it.from(), it.to(), -it.amount(), it.fromChange()));
      }
      if (it.toChange() != null) {
        records.add(change(it, it.to(), it.from(), it.amount(), it.toChange()));
      }
    } else if (outcome instanceof Commands.Refused it) {
      records.add(
          refused.record(it.id().toString(), refused.with(it.id()).set("reason", it.reason())));
    } else if (outcome instanceof Commands.Opened it) {
      Schema type = opened.schema.getField("a_type").schema();
      records.add(
          opened.record(
              it.id().toString(),
              opened
                  .with(it.id())
                  .set("iban", it.iban())
                  .set("token", it.token())
                  .set("a_type", new GenericData.EnumSymbol(type, it.aType()))));
    } else if (outcome instanceof Commands.NotOpened it) {
      records.add(
          notOpened.record(it.id().toString(), notOpened.with(it.id()).set("reason", it.reason())));
    }
  }

  private ProducerRecord<byte[], byte[]> change(
      Commands.Moved it, String iban, String other, long by, Rules.Change change)
      throws IOException {
    Schema id = changed.schema.getField("transfer_id").schema().getTypes().get(1);
    return changed.record(
        iban,
        new GenericRecordBuilder(changed.schema)
            .set("iban", iban)
            .set("new_balance", change.balance())
            .set("changed_by", by)
            .set("from_to", other)
            .set("description", it.description())
            .set("transfer_id", new GenericData.Fixed(id, bytes(it.id()).array()))
            .set("sequence", change.sequence())
            .set("decided_at", it.decidedAt()));
  }

  private static Schema schema(String topic) {
    try {
      return new Schema.Parser().parse(schemaText(topic));
    } catch (IOException e) {
      throw new IllegalStateException(topic + ".avsc is not in the jar", e);
    }
  }

  private static String schemaText(String topic) throws IOException {
    try (InputStream in = Codec.class.getResourceAsStream("/schemas/" + topic + ".avsc")) {
      return new String(in.readAllBytes(), StandardCharsets.UTF_8);
    }
  }

  /** Encodes the values of one topic. */
  private final class Writer {
    final String topic;
    final Schema schema;
    private final int id;
    private final GenericDatumWriter<GenericRecord> writer;
    private final ByteArrayOutputStream out = new ByteArrayOutputStream(256);
    private BinaryEncoder encoder;

    Writer(String topic) throws IOException {
      this.topic = topic;
      schema = schema(topic);
      id = registry.idOf(topic, schema.toString());
      writer = new GenericDatumWriter<>(schema);
    }

    GenericRecordBuilder with(UUID id) {
      Schema fixed = schema.getField("id").schema();
      return new GenericRecordBuilder(schema)
          .set("id", new GenericData.Fixed(fixed, bytes(id).array()));
    }

    ProducerRecord<byte[], byte[]> record(String key, GenericRecordBuilder datum)
        throws IOException {
      out.reset();
      out.writeBytes(ByteBuffer.allocate(5).put((byte) 0).putInt(id).array());
      encoder = EncoderFactory.get().binaryEncoder(out, encoder);
      writer.write(datum.build(), encoder);
      encoder.flush();
      return new ProducerRecord<>(topic, key.getBytes(StandardCharsets.UTF_8), out.toByteArray());
    }
  }
}
