package scratchbank;

import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.function.BooleanSupplier;

/** The bank's command-handler for the JVM. */
public final class Main {
  /** What a stop may take. */
  private static final int STOP_MS = 9_000;

  private Main() {}

  /** Serves until SIGTERM; exit code 0 after it, 1 in trouble, 2 if a variable is missing. */
  public static void main(String[] args) {
    String brokers = variable("KAFKA_BROKERS");
    String registryUrl = variable("SCHEMA_REGISTRY_URL");
    String databaseUrl = variable("DATABASE_URL");
    boolean single = "single".equals(System.getenv("MODE"));
    int code = 1;
    try (Store store = new Store(databaseUrl);
        Handler handler =
            new Handler(brokers, single, store, new Codec(new Registry(registryUrl)))) {
      health(Integer.parseInt(variable("HEALTH_PORT")), handler);
      Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(handler), "stop"));
      handler.run();
      code = 0;
    } catch (Throwable e) {
      e.printStackTrace();
    }
    // Also while the hook waits: after a signal the JVM itself would end with 143.
    Runtime.getRuntime().halt(code);
  }

  /** The JVM ends when this returns: `main` is to be faster. */
  private static void stop(Handler handler) {
    handler.stop();
    try {
      Thread.sleep(STOP_MS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  private static void health(int port, Handler handler) throws IOException {
    HttpServer server = HttpServer.create(new InetSocketAddress(port), 0);
    answer(server, "/healthz", () -> true);
    answer(server, "/readyz", handler::isReady);
    server.start();
  }

  private static void answer(HttpServer server, String path, BooleanSupplier well) {
    server.createContext(
        path,
        exchange -> {
          exchange.sendResponseHeaders(well.getAsBoolean() ? 200 : 503, -1);
          exchange.close();
        });
  }

  private static String variable(String name) {
    String value = System.getenv(name);
    if (value == null || value.isEmpty()) {
      System.err.println(name + " is not set");
      Runtime.getRuntime().halt(2);
    }
    return value;
  }
}
