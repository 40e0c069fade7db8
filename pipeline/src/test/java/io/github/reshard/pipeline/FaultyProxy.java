package io.github.reshard.pipeline;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.Executors;
import java.util.function.Function;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.zip.GZIPInputStream;

/**
 * Stands between the client and the emulator of Google Cloud Storage, notes every request and does
 * to some what networks and busy servers do. It also keeps the generation conditions of compose (of
 * its target and of its sources), copy and delete, which the emulator ignores.
 */
final class FaultyProxy implements AutoCloseable {
  /** What becomes of a request. */
  enum Fate {
    PASSES,
    TOO_MANY_REQUESTS,
    UNAVAILABLE,
    UNAUTHORIZED,
    FORBIDDEN,
    /** The connection breaks before anything is done. */
    RESET,
    /** The connection breaks in the middle of the answer. */
    CUT_SHORT,
    /** It is done, but the answer does not arrive. */
    ANSWER_LOST,
    /** The answer comes in drops. */
    SLOW
  }

  /**
   * A request as it came.
   *
   * @param path with its query, decoded
   * @param components of a compose; empty for all else
   */
  record Seen(String method, String path, String range, List<Component> components) {
    boolean isRead() {
      return method.equals("GET") && path.contains("alt=media");
    }

    boolean isUpload() {
      return !method.equals("GET") && path.startsWith("/upload/");
    }

    boolean isCompose() {
      return method.equals("POST") && path.contains("/compose");
    }

    boolean isCopy() {
      return method.equals("POST") && path.contains("/rewriteTo/");
    }
  }

  /**
   * An object that a compose is made of.
   *
   * @param generation that it must have, or an empty text
   */
  record Component(String name, String generation) {}

  private static final Pattern OBJECT =
      Pattern.compile("/storage/v1/b/([^/]+)/o/([^/?]+)(/compose)?(?:\\?.*)?");
  private static final Pattern COPY_TARGET =
      Pattern.compile(".*/rewriteTo/b/([^/]+)/o/([^/?]+)(?:\\?.*)?");
  private static final Pattern CONDITION = Pattern.compile("[?&]ifGenerationMatch=(\\d+)");
  private static final List<String> HOP_BY_HOP =
      List.of("connection", "content-length", "host", "transfer-encoding", "upgrade", "expect");

  static {
    // Without it each answer waits some 40 ms for the acknowledgement of its head.
    System.setProperty("sun.net.httpserver.nodelay", "true");
  }

  private final HttpClient http =
      HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
  private final HttpServer server;
  private final URI behind;
  private final List<Seen> seen = new CopyOnWriteArrayList<>();
  private volatile Function<Seen, Fate> fates = request -> Fate.PASSES;

  FaultyProxy(URI behind) throws IOException {
    this.behind = behind;
    server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
    server.setExecutor(
        Executors.newCachedThreadPool(
            task -> {
              Thread thread = new Thread(task, "faulty-proxy");
              thread.setDaemon(true);
              return thread;
            }));
    server.createContext("/", this::handle);
    server.start();
  }

  URI uri() {
    return URI.create("http://127.0.0.1:" + server.getAddress().getPort());
  }

  /** Decides over every request from now on; what was seen is forgotten. */
  void decide(Function<Seen, Fate> decision) {
    seen.clear();
    fates = decision;
  }

  List<Seen> seen() {
    return List.copyOf(seen);
  }

  @Override
  public void close() {
    server.stop(0);
  }

  private void handle(HttpExchange exchange) throws IOException {
    byte[] body = exchange.getRequestBody().readAllBytes();
    String path =
        java.net.URLDecoder.decode(exchange.getRequestURI().toString(), StandardCharsets.UTF_8);
    Seen request =
        new Seen(
            exchange.getRequestMethod(),
            path,
            exchange.getRequestHeaders().getFirst("Range"),
            path.contains("/compose") ? components(exchange, body) : List.of());
    seen.add(request);
    Fate fate = fates.apply(request);
    switch (fate) {
      case TOO_MANY_REQUESTS -> refuse(exchange, 429);
      case UNAVAILABLE -> refuse(exchange, 503);
      case UNAUTHORIZED -> refuse(exchange, 401);
      case FORBIDDEN -> refuse(exchange, 403);
      case RESET -> exchange.close();
      default -> pass(exchange, request, body, fate);
    }
  }

  private static void refuse(HttpExchange exchange, int code) throws IOException {
    byte[] answer =
        "{\"error\":{\"code\":%d,\"message\":\"the proxy says %d\"}}"
            .formatted(code, code)
            .getBytes(StandardCharsets.UTF_8);
    exchange.getResponseHeaders().set("Content-Type", "application/json");
    exchange.sendResponseHeaders(code, answer.length);
    try (OutputStream out = exchange.getResponseBody()) {
      out.write(answer);
    }
  }

  private static List<Component> components(HttpExchange exchange, byte[] body) throws IOException {
    boolean packed = "gzip".equals(exchange.getRequestHeaders().getFirst("Content-Encoding"));
    InputStream plain = new ByteArrayInputStream(body);
    List<Component> components = new ArrayList<>();
    for (JsonNode source :
        new ObjectMapper()
            .readTree(packed ? new GZIPInputStream(plain) : plain)
            .path("sourceObjects")) {
      components.add(
          new Component(
              source.path("name").asText(),
              source.path("objectPreconditions").path("ifGenerationMatch").asText()));
    }
    return components;
  }

  private void pass(HttpExchange exchange, Seen seen, byte[] body, Fate fate) throws IOException {
    if (!conditionHolds(exchange) || !componentsAre(exchange, seen)) {
      refuse(exchange, 412);
      return;
    }
    HttpRequest.Builder request =
        HttpRequest.newBuilder(URI.create(behind + exchange.getRequestURI().toString()))
            .method(exchange.getRequestMethod(), HttpRequest.BodyPublishers.ofByteArray(body));
    for (Map.Entry<String, List<String>> header : exchange.getRequestHeaders().entrySet()) {
      if (!HOP_BY_HOP.contains(header.getKey().toLowerCase(Locale.ROOT))) {
        header.getValue().forEach(value -> request.header(header.getKey(), value));
      }
    }
    HttpResponse<byte[]> response = send(request.build());
    if (fate == Fate.ANSWER_LOST) {
      exchange.close();
      return;
    }
    response
        .headers()
        .map()
        .forEach(
            (name, values) -> {
              if (!name.startsWith(":") && !HOP_BY_HOP.contains(name.toLowerCase(Locale.ROOT))) {
                values.forEach(
                    v ->
                        exchange
                            .getResponseHeaders()
                            .add(name, v.replace(behind.toString(), uri().toString())));
              }
            });
    byte[] answer = response.body();
    exchange.sendResponseHeaders(response.statusCode(), answer.length == 0 ? -1 : answer.length);
    if (answer.length == 0) {
      exchange.close();
      return;
    }
    OutputStream out = exchange.getResponseBody();
    if (fate == Fate.CUT_SHORT) {
      out.write(answer, 0, answer.length / 2);
      out.flush();
      exchange.close();
      return;
    }
    if (fate == Fate.SLOW) {
      int step = Math.max(1, answer.length / 5);
      for (int at = 0; at < answer.length; at += step) {
        out.write(answer, at, Math.min(step, answer.length - at));
        out.flush();
        sleep();
      }
    } else {
      out.write(answer);
    }
    out.close();
  }

  private static void sleep() {
    try {
      Thread.sleep(20);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  private HttpResponse<byte[]> send(HttpRequest request) throws IOException {
    try {
      return http.send(request, HttpResponse.BodyHandlers.ofByteArray());
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IOException(e);
    }
  }

  /** Whether the object that the request changes has the generation that the request names. */
  private boolean conditionHolds(HttpExchange exchange) throws IOException {
    String raw = exchange.getRequestURI().toString();
    Matcher condition = CONDITION.matcher(raw);
    Matcher copy = COPY_TARGET.matcher(raw);
    Matcher object = copy.matches() ? copy : OBJECT.matcher(raw);
    if (exchange.getRequestMethod().equals("GET") || !condition.find() || !object.matches()) {
      return true;
    }
    String name = java.net.URLDecoder.decode(object.group(2), StandardCharsets.UTF_8);
    return generation(object.group(1), name).equals(condition.group(1));
  }

  /** Whether the components of a compose have the generations that it names. */
  private boolean componentsAre(HttpExchange exchange, Seen seen) throws IOException {
    Matcher target = OBJECT.matcher(exchange.getRequestURI().toString());
    for (Component component : seen.components()) {
      if (!component.generation().isEmpty()
          && target.matches()
          && !generation(target.group(1), component.name()).equals(component.generation())) {
        return false;
      }
    }
    return true;
  }

  /** The generation of an object as it is now, 0 if there is none. */
  private String generation(String bucket, String name) throws IOException {
    HttpResponse<byte[]> now =
        send(
            HttpRequest.newBuilder(
                    URI.create(
                        behind
                            + "/storage/v1/b/"
                            + bucket
                            + "/o/"
                            + URLEncoder.encode(name, StandardCharsets.UTF_8)))
                .build());
    return now.statusCode() == 404
        ? "0"
        : new ObjectMapper().readTree(now.body()).path("generation").asText();
  }
}
