package scratchbank;

import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.function.BooleanSupplier;

/** The bank's command-handler for the JVM. */
public final class Main {
  /** Longest shutdown, in milliseconds. */
  private static final int STOP_MS = 9_000;

  private Main() {}

  /**
   * Serves until SIGTERM. The exit code is 0 after SIGTERM, 1 after an error, and 2 if an
   * environment variable is missing.
   */
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
    // Ends the process while the hook waits. After SIGTERM the JVM itself would exit with code 143.
    Runtime.getRuntime().halt(code);
  }

  /** The JVM exits when this hook returns, so it waits until `main` has ended the process. */
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
    serve(server, "/healthz", () -> true);
    serve(server, "/readyz", handler::isReady);
    server.start();
  }

  private static void serve(HttpServer server, String path, BooleanSupplier isHealthy) {
    server.createContext(
        path,
        exchange -> {
          exchange.sendResponseHeaders(isHealthy.getAsBoolean() ? 200 : 503, -1);
          exchange.close();
        });
  }

  private static String variable(String name) {
    String value = System.getenv(name);
    if (value == null || value.isEmpty()) {
      System.err.println("environment variable " + name + " is not set");
      Runtime.getRuntime().halt(2);
    }
    return value;
  }
}
