package io.github.reshard.pipeline;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;
import java.time.Duration;

/** An object store on this machine, started by {@code scripts/emulators} and ended with the JVM. */
final class Emulator {
  private static Emulator gcs;
  private static Emulator s3;

  private final URI uri;

  private Emulator(URI uri) {
    this.uri = uri;
  }

  /** Google Cloud Storage. */
  static synchronized Emulator gcs() {
    if (gcs == null) {
      gcs = start("gcs", "/storage/v1/b?project=emulated");
    }
    return gcs;
  }

  /** Amazon S3. */
  static synchronized Emulator s3() {
    if (s3 == null) {
      s3 = start("s3", "/moto-api/");
    }
    return s3;
  }

  /** Where it listens. */
  URI uri() {
    return uri;
  }

  private static Emulator start(String store, String ready) {
    try {
      int port;
      try (ServerSocket free = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
        port = free.getLocalPort();
      }
      Path log =
          Path.of("target", "emulator-" + store + "-" + ProcessHandle.current().pid() + ".log");
      Path script =
          Path.of(System.getProperty("reshard.testdata")).resolveSibling("scripts/emulators");
      Process process =
          new ProcessBuilder(script.toString(), store, String.valueOf(port))
              .redirectErrorStream(true)
              .redirectOutput(log.toFile())
              .start();
      Runtime.getRuntime().addShutdownHook(new Thread(process::destroyForcibly));
      URI uri = URI.create("http://127.0.0.1:" + port);
      HttpClient http = HttpClient.newHttpClient();
      HttpRequest question = HttpRequest.newBuilder(uri.resolve(ready)).build();
      long patience = System.nanoTime() + Duration.ofMinutes(10).toNanos();
      while (true) {
        try {
          if (http.send(question, HttpResponse.BodyHandlers.discarding()).statusCode() == 200) {
            return new Emulator(uri);
          }
        } catch (IOException e) {
          if (!process.isAlive() || System.nanoTime() > patience) {
            throw new IllegalStateException(script + " did not start; see " + log, e);
          }
        }
        Thread.sleep(50);
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IllegalStateException(e);
    }
  }
}
