package scratchbank;

import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.UUID;
import java.util.function.Function;

/** All SQL. A batch is one transaction with a constant number of statements. */
final class Store implements AutoCloseable {
  /** The migrations of the bank's own handler, in order. */
  private static final List<String> MIGRATIONS =
      List.of("1-bank", "tables", "3-tokens", "4-decision-times", "5-ibans");

  /** Every statement finds its rows by key, even if the statistics are those of empty tables. */
  private static final String OPTIONS =
      "-c statement_timeout=20s -c lock_timeout=10s -c enable_seqscan=off -c enable_hashjoin=off"
          + " -c enable_mergejoin=off -c jit=off -c plan_cache_mode=force_generic_plan";

  private final HikariDataSource pool;

  Store(String url) throws SQLException, IOException {
    URI uri = URI.create(url);
    String[] user = uri.getRawUserInfo().split(":", 2);
    HikariConfig config = new HikariConfig();
    config.setJdbcUrl("jdbc:postgresql://" + uri.getHost() + ":" + uri.getPort() + uri.getPath());
    config.setUsername(URLDecoder.decode(user[0], StandardCharsets.UTF_8));
    config.setPassword(
        user.length < 2 ? "" : URLDecoder.decode(user[1], StandardCharsets.UTF_8));
    // Only one thread decides.
    config.setMaximumPoolSize(1);
    config.setAutoCommit(false);
    config.addDataSourceProperty("options", OPTIONS);
    // Statements are prepared on the server at their first use.
    config.addDataSourceProperty("prepareThreshold", "1");
    config.addDataSourceProperty("ApplicationName", "java");
    pool = new HikariDataSource(config);
    migrate();
  }

  @Override
  public void close() {
    pool.close();
  }

  private void migrate() throws SQLException, IOException {
    try (Connection connection = pool.getConnection();
        Statement statement = connection.createStatement()) {
      statement.execute("SELECT pg_advisory_xact_lock(hashtext('command-handler/migrations'))");
      statement.execute(
          "CREATE TABLE IF NOT EXISTS migration"
              + " (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())");
      int version;
      try (ResultSet row =
          statement.executeQuery("SELECT coalesce(max(version), 0) FROM migration")) {
        row.next();
        version = row.getInt(1);
      }
      if (version > MIGRATIONS.size()) {
        throw new SQLException("the database has version " + version + ": start a newer handler");
      }
      for (; version < MIGRATIONS.size(); version++) {
        String path = "/migrations/" + MIGRATIONS.get(version) + ".sql";
        try (InputStream sql = Store.class.getResourceAsStream(path)) {
          statement.execute(new String(sql.readAllBytes(), StandardCharsets.UTF_8));
        }
        statement.execute("INSERT INTO migration (version) VALUES (" + (version + 1) + ")");
      }
      connection.commit();
    }
  }

  /** Decides a batch. Outcomes are in the order of the commands. An exception rolls all back. */
  List<Commands.Outcome> decide(List<Commands.Command> commands) throws SQLException {
    List<Commands.Creation> creations = new ArrayList<>();
    List<Commands.Transfer> transfers = new ArrayList<>();
    for (Commands.Command command : commands) {
      if (command instanceof Commands.Creation it) {
        creations.add(it);
      } else if (command instanceof Commands.Transfer it) {
        transfers.add(it);
      }
    }
    List<Commands.Outcome> outcomes = new ArrayList<>(commands.size());
    try (Connection connection = pool.getConnection()) {
      try {
        if (!creations.isEmpty()) {
          outcomes.addAll(open(connection, creations));
        }
        if (!transfers.isEmpty()) {
          outcomes.addAll(transfer(connection, transfers));
        }
        connection.commit();
      } catch (SQLException e) {
        connection.rollback();
        throw e;
      }
    }
    return outcomes;
  }

  private static List<Commands.Outcome> open(
      Connection connection, List<Commands.Creation> commands) throws SQLException {
    Map<UUID, Commands.Outcome> outcomes = new HashMap<>();
    try (PreparedStatement known =
        connection.prepareStatement(
            "SELECT creation.id, a_type, iban, account.token, reason"
                + " FROM account_creation AS creation LEFT JOIN account USING (iban)"
                + " WHERE creation.id = ANY(?)")) {
      set(known, 1, "uuid", commands, Commands.Creation::id);
      try (ResultSet row = known.executeQuery()) {
        while (row.next()) {
          UUID id = row.getObject(1, UUID.class);
          String reason = row.getString(5);
          outcomes.put(
              id,
              reason == null
                  ? new Commands.Opened(id, row.getString(3), row.getString(4), row.getString(2))
                  : new Commands.NotOpened(id, reason));
        }
      }
    }
    Map<UUID, Commands.Creation> fresh = new LinkedHashMap<>();
    Map<UUID, String> ibans = new HashMap<>();
    Map<String, String> tokens = new TreeMap<>();
    for (Commands.Creation command : commands) {
      if (!outcomes.containsKey(command.id())
          && fresh.putIfAbsent(command.id(), command) == null) {
        String iban = Iban.generate();
        ibans.put(command.id(), iban);
        tokens.put(iban, Iban.generateToken());
      }
    }
    if (!fresh.isEmpty()) {
      TreeSet<String> opened = new TreeSet<>();
      try (PreparedStatement accounts =
          connection.prepareStatement(
              "WITH new AS (SELECT * FROM unnest(?::text[], ?::text[]) AS new (iban, token)),"
                  + " free AS (INSERT INTO account_iban SELECT iban FROM new"
                  + " ON CONFLICT DO NOTHING RETURNING iban),"
                  + " opened AS (INSERT INTO account (iban, token, balance, overdraft_limit)"
                  + " SELECT iban, token, 0, ? FROM new JOIN free USING (iban))"
                  + " SELECT iban FROM free")) {
        set(accounts, 1, "text", tokens.keySet(), it -> it);
        set(accounts, 2, "text", tokens.values(), it -> it);
        accounts.setLong(3, Rules.OVERDRAFT_LIMIT);
        try (ResultSet row = accounts.executeQuery()) {
          while (row.next()) {
            opened.add(row.getString(1));
          }
        }
      }
      for (Commands.Creation command : fresh.values()) {
        UUID id = command.id();
        String iban = ibans.get(id);
        // Removed, so that two equal ibans of one batch open only one account.
        outcomes.put(
            id,
            opened.remove(iban)
                ? new Commands.Opened(id, iban, tokens.get(iban), command.aType())
                : new Commands.NotOpened(id, Rules.IBAN_EXISTS));
      }
      try (PreparedStatement stored =
          connection.prepareStatement(
              "INSERT INTO account_creation (id, a_type, iban, reason)"
                  + " SELECT * FROM unnest(?::uuid[], ?::text[], ?::text[], ?::text[])")) {
        Collection<Commands.Creation> rows = fresh.values();
        set(stored, 1, "uuid", rows, Commands.Creation::id);
        set(stored, 2, "text", rows, Commands.Creation::aType);
        set(
            stored,
            3,
            "text",
            rows,
            it -> outcomes.get(it.id()) instanceof Commands.Opened account ? account.iban() : null);
        set(
            stored,
            4,
            "text",
            rows,
            it -> outcomes.get(it.id()) instanceof Commands.NotOpened no ? no.reason() : null);
        stored.executeUpdate();
      }
    }
    return commands.stream().map(command -> outcomes.get(command.id())).toList();
  }

  private static List<Commands.Outcome> transfer(
      Connection connection, List<Commands.Transfer> commands) throws SQLException {
    Map<UUID, Commands.Outcome> outcomes = known(connection, commands);
    Map<String, Rules.Account> accounts = lockAccounts(connection, commands, outcomes);
    long decidedAt = now(connection);
    List<Commands.Outcome> fresh = new ArrayList<>();
    TreeSet<String> changed = new TreeSet<>();
    for (Commands.Transfer command : commands) {
      if (outcomes.containsKey(command.id())) {
        continue;
      }
      Rules.Decision decision = Rules.transfer(command, accounts);
      Commands.Outcome outcome;
      if (decision.reason() != null) {
        outcome = new Commands.Refused(command.id(), decision.reason());
      } else {
        outcome =
            new Commands.Moved(
                command.id(),
                command.amount(),
                command.from(),
                command.to(),
                command.description(),
                decision.from(),
                decision.to(),
                decidedAt);
        if (decision.from() != null) {
          changed.add(command.from());
        }
        if (decision.to() != null) {
          changed.add(command.to());
        }
      }
      outcomes.put(command.id(), outcome);
      fresh.add(outcome);
    }
    if (!changed.isEmpty()) {
      try (PreparedStatement update =
          connection.prepareStatement(
              "UPDATE account SET balance = new.balance, sequence = new.sequence"
                  + " FROM unnest(?::text[], ?::bigint[], ?::bigint[])"
                  + " AS new (iban, balance, sequence)"
                  + " WHERE account.iban = new.iban COLLATE \"C\"")) {
        set(update, 1, "text", changed, it -> it);
        set(update, 2, "bigint", changed, it -> accounts.get(it).balance);
        set(update, 3, "bigint", changed, it -> accounts.get(it).sequence);
        update.executeUpdate();
      }
    }
    if (!fresh.isEmpty()) {
      store(connection, fresh, decidedAt);
    }
    return commands.stream().map(command -> outcomes.get(command.id())).toList();
  }

  private static Map<UUID, Commands.Outcome> known(
      Connection connection, List<Commands.Transfer> commands) throws SQLException {
    Map<UUID, Commands.Outcome> outcomes = new HashMap<>();
    try (PreparedStatement known =
        connection.prepareStatement(
            "SELECT id, reason, amount, from_party, to_party, description,"
                + " from_balance, from_sequence, to_balance, to_sequence,"
                + " (extract(epoch FROM decided_at) * 1000)::bigint"
                + " FROM transfer WHERE id = ANY(?)")) {
      set(known, 1, "uuid", commands, Commands.Transfer::id);
      try (ResultSet row = known.executeQuery()) {
        while (row.next()) {
          UUID id = row.getObject(1, UUID.class);
          String reason = row.getString(2);
          outcomes.put(
              id,
              reason != null
                  ? new Commands.Refused(id, reason)
                  : new Commands.Moved(
                      id,
                      row.getLong(3),
                      row.getString(4),
                      row.getString(5),
                      row.getString(6),
                      change(row, 7),
                      change(row, 9),
                      row.getObject(11, Long.class)));
        }
      }
    }
    return outcomes;
  }

  private static Rules.Change change(ResultSet row, int column) throws SQLException {
    long balance = row.getLong(column);
    return row.wasNull() ? null : new Rules.Change(balance, row.getLong(column + 1));
  }

  /** Locks accounts in the order of their ibans, so that two handlers cannot deadlock. */
  private static Map<String, Rules.Account> lockAccounts(
      Connection connection,
      List<Commands.Transfer> commands,
      Map<UUID, Commands.Outcome> outcomes)
      throws SQLException {
    TreeSet<String> ibans = new TreeSet<>();
    for (Commands.Transfer command : commands) {
      if (!outcomes.containsKey(command.id())) {
        for (String side : List.of(command.from(), command.to())) {
          if (Iban.isWellFormed(side)) {
            ibans.add(side);
          }
        }
      }
    }
    Map<String, Rules.Account> accounts = new HashMap<>();
    try (PreparedStatement lock =
        connection.prepareStatement(
            "SELECT iban, token, balance, overdraft_limit, sequence FROM account"
                + " WHERE iban = ANY(?) ORDER BY iban FOR NO KEY UPDATE")) {
      set(lock, 1, "text", ibans, it -> it);
      try (ResultSet row = lock.executeQuery()) {
        while (row.next()) {
          accounts.put(
              row.getString(1),
              new Rules.Account(row.getString(2), row.getLong(3), row.getLong(4), row.getLong(5)));
        }
      }
    }
    return accounts;
  }

  /** The time after the accounts are locked, in milliseconds since 1970. */
  private static long now(Connection connection) throws SQLException {
    String sql = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    try (PreparedStatement now = connection.prepareStatement(sql);
        ResultSet row = now.executeQuery()) {
      row.next();
      return row.getLong(1);
    }
  }

  private static void store(
      Connection connection, List<Commands.Outcome> outcomes, long decidedAt)
      throws SQLException {
    try (PreparedStatement store =
        connection.prepareStatement(
            "INSERT INTO transfer (id, reason, amount, from_party, to_party, description,"
                + " from_balance, from_sequence, to_balance, to_sequence, decided_at)"
                + " SELECT *, to_timestamp(?::bigint / 1000.0)"
                + " FROM unnest(?::uuid[], ?::text[], ?::bigint[], ?::text[], ?::text[],"
                + " ?::text[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[])")) {
      store.setLong(1, decidedAt);
      set(
          store,
          2,
          "uuid",
          outcomes,
          it -> it instanceof Commands.Moved moved ? moved.id() : ((Commands.Refused) it).id());
      set(
          store,
          3,
          "text",
          outcomes,
          it -> it instanceof Commands.Refused refused ? refused.reason() : null);
      setMoved(store, 4, "bigint", outcomes, Commands.Moved::amount);
      setMoved(store, 5, "text", outcomes, Commands.Moved::from);
      setMoved(store, 6, "text", outcomes, Commands.Moved::to);
      setMoved(store, 7, "text", outcomes, Commands.Moved::description);
      setMoved(store, 8, "bigint", outcomes, it -> balance(it.fromChange()));
      setMoved(store, 9, "bigint", outcomes, it -> sequence(it.fromChange()));
      setMoved(store, 10, "bigint", outcomes, it -> balance(it.toChange()));
      setMoved(store, 11, "bigint", outcomes, it -> sequence(it.toChange()));
      store.executeUpdate();
    }
  }

  private static Long balance(Rules.Change change) {
    return change == null ? null : (Long) change.balance();
  }

  private static Long sequence(Rules.Change change) {
    return change == null ? null : (Long) change.sequence();
  }

  private static void setMoved(
      PreparedStatement statement,
      int parameter,
      String type,
      List<Commands.Outcome> outcomes,
      Function<Commands.Moved, Object> field)
      throws SQLException {
    set(
        statement,
        parameter,
        type,
        outcomes,
        it -> it instanceof Commands.Moved moved ? field.apply(moved) : null);
  }

  /** Sets a parameter to the array of the values of one field in all rows. */
  private static <T> void set(
      PreparedStatement statement,
      int parameter,
      String type,
      Collection<T> rows,
      Function<? super T, Object> field)
      throws SQLException {
    Object[] values = rows.stream().map(field).toArray();
    statement.setArray(parameter, statement.getConnection().createArrayOf(type, values));
  }
}
