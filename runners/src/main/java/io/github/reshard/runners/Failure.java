package io.github.reshard.runners;

import io.github.reshard.checkpoint.IoReason;
import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import java.io.IOException;
import java.util.ArrayDeque;
import java.util.Collections;
import java.util.Deque;
import java.util.IdentityHashMap;
import java.util.Optional;
import java.util.Set;
import java.util.function.Predicate;
import org.apache.flink.util.SerializedThrowable;

/**
 * How a run that threw ends.
 *
 * @param exitCode the exit code of the process
 * @param message the one message for the user
 */
record Failure(int exitCode, String message) {
  /** What Flink sends of an error that its client may not know. */
  private static final String SERIALIZED = "org.apache.flink.util.SerializedThrowable";

  static final int OTHER = 1;
  static final int USAGE = 2;
  static final int REFUSED = 3;
  static final int OUTPUT = 4;

  /** Not a failure: {@code verify} found a difference. */
  static final int DIFFERENT = 5;

  /**
   * What {@code thrown} means. Runners wrap what a transform throws, Flink even serializes it, so
   * causes and suppressed exceptions are searched for the one that says why.
   */
  static Failure of(Throwable thrown) {
    return find(thrown, UsageException.class)
        .map(message -> new Failure(USAGE, message))
        .or(() -> find(thrown, RefusedException.class).map(m -> new Failure(REFUSED, m)))
        .or(() -> find(thrown, OutputException.class).map(m -> new Failure(OUTPUT, m)))
        .or(() -> first(thrown, OutOfMemoryError.class::isInstance).map(Failure::outOfMemory))
        .orElseGet(() -> new Failure(OTHER, unexpected(thrown)));
  }

  private static Failure outOfMemory(Throwable error) {
    return new Failure(
        OTHER,
        "out of memory ("
            + error.getMessage()
            + "); give the program more, for example RESHARD_JAVA_OPTS=-Xmx1g");
  }

  private static String unexpected(Throwable thrown) {
    Set<Throwable> seen = Collections.newSetFromMap(new IdentityHashMap<>());
    Throwable root = thrown;
    while (seen.add(root) && root.getCause() != null && !seen.contains(root.getCause())) {
      root = root.getCause();
    }
    if (root instanceof IOException failure) {
      return "failed unexpectedly: " + IoReason.of(failure) + " (--debug shows where)";
    }
    String message = root.getMessage();
    return "failed unexpectedly: "
        + root.getClass().getSimpleName()
        + (message == null ? "" : ": " + message)
        + " (--debug shows where)";
  }

  private static Optional<String> find(Throwable thrown, Class<? extends Throwable> type) {
    return first(thrown, candidate -> isA(candidate, type)).map(found -> messageOf(found, type));
  }

  /** By name: a runner may have loaded the class once more. */
  private static boolean isA(Throwable candidate, Class<? extends Throwable> type) {
    if (candidate.getClass().getName().equals(SERIALIZED)) {
      return FlinkError.originalClass(candidate).equals(type.getName());
    }
    for (Class<?> c = candidate.getClass(); c != null; c = c.getSuperclass()) {
      if (c.getName().equals(type.getName())) {
        return true;
      }
    }
    return false;
  }

  /** Flink's libraries are not part of every installation: this class is only met with them. */
  private static final class FlinkError {
    static String originalClass(Throwable serialized) {
      return ((SerializedThrowable) serialized).getOriginalErrorClassName();
    }
  }

  private static String messageOf(Throwable found, Class<? extends Throwable> type) {
    String message = String.valueOf(found.getMessage());
    String prefix = type.getName() + ": ";
    return message.startsWith(prefix) ? message.substring(prefix.length()) : message;
  }

  private static Optional<Throwable> first(Throwable thrown, Predicate<Throwable> wanted) {
    Set<Throwable> seen = Collections.newSetFromMap(new IdentityHashMap<>());
    Deque<Throwable> open = new ArrayDeque<>();
    open.add(thrown);
    while (!open.isEmpty()) {
      Throwable next = open.removeFirst();
      if (!seen.add(next)) {
        continue;
      }
      if (wanted.test(next)) {
        return Optional.of(next);
      }
      if (next.getCause() != null) {
        open.addLast(next.getCause());
      }
      for (Throwable suppressed : next.getSuppressed()) {
        open.addLast(suppressed);
      }
    }
    return Optional.empty();
  }
}
