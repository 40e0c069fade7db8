package io.github.reshard.runners;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.pipeline.FollowEvent;
import io.github.reshard.pipeline.FollowEvent.Kind;
import java.io.PrintStream;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;

/** What following a run says: a line a checkpoint, or an object a line; at the end how it went. */
final class FollowLines {
  /** Of so many that were published last are the percentiles. */
  private static final int MOST_LATENCIES = 10_000;

  private final PrintStream out;
  private final boolean json;
  private final Map<Kind, Integer> counts = new EnumMap<>(Kind.class);
  private final long[] latenciesMillis = new long[MOST_LATENCIES];

  FollowLines(PrintStream out, boolean json) {
    this.out = out;
    this.json = json;
  }

  private int count(Kind kind) {
    return counts.getOrDefault(kind, 0);
  }

  /** Says one thing. */
  void accept(FollowEvent event) {
    if (event.kind() == Kind.PUBLISHED) {
      latenciesMillis[count(Kind.PUBLISHED) % MOST_LATENCIES] = event.latencyMillis();
    }
    counts.merge(event.kind(), 1, Integer::sum);
    if (json) {
      out.println(object(event));
    } else if (event.kind() != Kind.BEGUN && event.kind() != Kind.OVER) {
      String about = event.checkpoint().isEmpty() ? "" : event.checkpoint() + ": ";
      out.println(about + text(event));
    }
  }

  private static String text(FollowEvent event) {
    return switch (event.kind()) {
      case PUBLISHED -> published(event);
      case KNOWN -> "stands in the output already";
      case SKIPPED -> "passed over: " + event.message();
      case GIVEN_UP -> "not whole, given up until more of it comes: " + event.message();
      case REFUSED -> "refused: " + event.message();
      case GONE -> "nothing was published: " + event.message();
      case FAILED -> "failed: " + event.message();
      case BEGUN, NOTE, OVER -> event.message();
    };
  }

  private static String published(FollowEvent event) {
    String ranks =
        event.ranks().stream()
            .map(of -> of == ReshardPlan.ANY_WORLD_SIZE ? "any number of" : of.toString())
            .collect(Collectors.joining(", "));
    String text =
        "found %s, %s; resharded for %s ranks in %s; published %s after it was whole"
            .formatted(
                Quantity.count(event.files(), "file"),
                Quantity.bytes(event.bytes()),
                ranks,
                Quantity.seconds((event.publishedMillis() - event.beganMillis()) / 1e3),
                Quantity.seconds(event.latencyMillis() / 1e3));
    if (event.waiting() > 0) {
      text += "; %d more wait".formatted(event.waiting());
    }
    return text + (event.message().isEmpty() ? "" : "; " + event.message());
  }

  private static ObjectNode object(FollowEvent event) {
    ObjectNode object = JsonNodeFactory.instance.objectNode();
    object.put("event", event.kind().name().toLowerCase(Locale.ROOT));
    put(object, "checkpoint", event.checkpoint());
    put(object, "message", event.message());
    if (event.kind() == Kind.BEGUN || event.kind() == Kind.PUBLISHED) {
      event.ranks().forEach(object.putArray("ranks")::add);
      event.outputs().forEach(object.putArray("outputs")::add);
      object.put("files", event.files());
      object.put("bytes", event.bytes());
      object.put("waiting", event.waiting());
      object.put("whole", Instant.ofEpochMilli(event.wholeMillis()).toString());
      object.put("begun", Instant.ofEpochMilli(event.beganMillis()).toString());
    }
    if (event.kind() == Kind.PUBLISHED) {
      object.put("published", Instant.ofEpochMilli(event.publishedMillis()).toString());
      object.put("latencySeconds", event.latencyMillis() / 1e3);
    }
    return object;
  }

  private static void put(ObjectNode object, String name, String value) {
    if (!value.isEmpty()) {
      object.put(name, value);
    }
  }

  /** Says how it went; the exit code. */
  int end() {
    long[] sorted = Arrays.copyOf(latenciesMillis, Math.min(MOST_LATENCIES, count(Kind.PUBLISHED)));
    Arrays.sort(sorted);
    if (json) {
      ObjectNode object = JsonNodeFactory.instance.objectNode();
      object.put("event", "end");
      for (Kind kind :
          List.of(
              Kind.PUBLISHED, Kind.KNOWN, Kind.SKIPPED, Kind.GIVEN_UP, Kind.REFUSED, Kind.GONE)) {
        object.put(kind.name().toLowerCase(Locale.ROOT), count(kind));
      }
      if (sorted.length > 0) {
        object.put("latencySecondsP50", percentile(sorted, 50) / 1e3);
        object.put("latencySecondsP99", percentile(sorted, 99) / 1e3);
      }
      out.println(object);
    } else {
      List<String> parts = new ArrayList<>();
      parts.add(Quantity.count(count(Kind.PUBLISHED), "checkpoint") + " published");
      add(parts, Kind.KNOWN, "there already");
      add(parts, Kind.SKIPPED, "passed over");
      add(parts, Kind.GIVEN_UP, "not whole");
      add(parts, Kind.REFUSED, "refused");
      add(parts, Kind.GONE, "gone or changed");
      String text = String.join(", ", parts);
      if (sorted.length > 0) {
        text +=
            "; from whole to published p50 %s, p99 %s"
                .formatted(
                    Quantity.seconds(percentile(sorted, 50) / 1e3),
                    Quantity.seconds(percentile(sorted, 99) / 1e3));
      }
      out.println(text);
    }
    return count(Kind.FAILED) > 0 ? Failure.OUTPUT : count(Kind.REFUSED) > 0 ? Failure.REFUSED : 0;
  }

  private void add(List<String> parts, Kind kind, String what) {
    if (count(kind) > 0) {
      parts.add(count(kind) + " " + what);
    }
  }

  /** The least of {@code sorted} that so many percent are not above. */
  private static long percentile(long[] sorted, int percent) {
    return sorted[Math.max(0, (sorted.length * percent + 99) / 100 - 1)];
  }
}
