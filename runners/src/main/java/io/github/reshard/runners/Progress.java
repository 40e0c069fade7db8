package io.github.reshard.runners;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.github.reshard.checkpoint.storage.Heartbeat;
import io.github.reshard.pipeline.ProgressListener;
import java.io.PrintStream;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.function.LongSupplier;
import org.apache.beam.sdk.PipelineResult;
import org.apache.beam.sdk.metrics.MetricNameFilter;
import org.apache.beam.sdk.metrics.MetricResult;
import org.apache.beam.sdk.metrics.MetricsFilter;

/**
 * Tells how a run gets on: on a terminal in one line that is rewritten, elsewhere as a plain line
 * every few seconds. Counters are asked of the runner while it runs; a runner that does not answer
 * then (embedded Flink) leaves the phase and the time.
 */
final class Progress implements ProgressListener, AutoCloseable {
  /** How it is shown, and how often. */
  enum Style {
    /** A line every few seconds. */
    PLAIN(5_000),
    /** One line that is rewritten. */
    TERMINAL(200),
    /** For programs: a JSON object on a line, at each phase and in between. */
    JSON(500);

    private final long millis;

    Style(long millis) {
      this.millis = millis;
    }
  }

  private static final double NANOS = 1e9;

  private final PrintStream out;
  private final Style style;
  private final LongSupplier nanoClock;
  private final ScheduledExecutorService ticker =
      Executors.newSingleThreadScheduledExecutor(
          task -> {
            Thread thread = new Thread(task, "progress");
            thread.setDaemon(true);
            return thread;
          });

  private String what = "";
  private long totalBytes;
  private long phaseStartNanos;
  private PipelineResult result;
  private int shownChars;

  /**
   * @param nanoClock as {@link System#nanoTime}
   */
  Progress(PrintStream out, Style style, LongSupplier nanoClock) {
    this.out = out;
    this.style = style;
    this.nanoClock = nanoClock;
  }

  /** Starts to print by itself. */
  Progress start() {
    long millis = style.millis;
    var unused = ticker.scheduleAtFixedRate(this::tick, millis, millis, TimeUnit.MILLISECONDS);
    return this;
  }

  @Override
  public synchronized void phase(String newPhase, long newTotalBytes) {
    what = newPhase;
    totalBytes = newTotalBytes;
    phaseStartNanos = nanoClock.getAsLong();
    result = null;
    if (style != Style.PLAIN) {
      show(newPhase, 0);
    }
  }

  @Override
  public synchronized void running(PipelineResult newResult) {
    result = newResult;
  }

  synchronized void tick() {
    if (what.isEmpty()) {
      return;
    }
    double seconds = (nanoClock.getAsLong() - phaseStartNanos) / NANOS;
    long movedBytes = movedBytes();
    String line = line(what, movedBytes, totalBytes, seconds);
    Heartbeat.say(line);
    show(line, movedBytes);
  }

  /**
   * One line of progress.
   *
   * @param movedBytes bytes written so far in this phase, or 0 when not known
   * @param totalBytes bytes that it will write, or 0 when not known
   * @param seconds how long the phase has run
   */
  static String line(String what, long movedBytes, long totalBytes, double seconds) {
    StringBuilder line = new StringBuilder(what);
    if (movedBytes > 0) {
      line.append(": ").append(Quantity.bytes(movedBytes));
      double rate = seconds > 0 ? movedBytes / seconds : 0;
      if (totalBytes > 0) {
        line.append(" of ").append(Quantity.bytes(totalBytes));
        line.append(" (").append(Math.min(100, 100 * movedBytes / totalBytes)).append(" %)");
      }
      if (rate > 0) {
        line.append(", ").append(Quantity.bytes(rate)).append("/s");
        if (totalBytes >= movedBytes) {
          line.append(", ").append(Quantity.seconds((totalBytes - movedBytes) / rate));
          line.append(" left");
        }
      }
    } else {
      if (totalBytes > 0) {
        line.append(": ").append(Quantity.bytes(totalBytes));
      }
      line.append(", ").append(Quantity.seconds(seconds)).append(" so far");
    }
    return line.toString();
  }

  private long movedBytes() {
    if (result == null) {
      return 0;
    }
    MetricsFilter filter =
        MetricsFilter.builder()
            .addNameFilter(MetricNameFilter.named(METRICS_NAMESPACE, BYTES_WRITTEN))
            .build();
    long bytes = 0;
    try {
      for (MetricResult<Long> counter : result.metrics().queryMetrics(filter).getCounters()) {
        bytes += counter.getAttempted();
      }
    } catch (RuntimeException e) {
      // The runner cannot tell, or not now; a run does not fail for want of a progress line.
      return 0;
    }
    return bytes;
  }

  private void show(String line, long movedBytes) {
    if (style == Style.JSON) {
      // The first key is what tells these lines from messages.
      ObjectNode step = JsonNodeFactory.instance.objectNode();
      step.put("phase", what);
      step.put("movedBytes", movedBytes);
      step.put("totalBytes", totalBytes);
      step.put("text", line);
      out.println(step);
    } else if (style == Style.TERMINAL) {
      out.print("\r" + line + " ".repeat(Math.max(0, shownChars - line.length())));
      out.flush();
      shownChars = line.length();
    } else {
      out.println(line);
    }
  }

  /** Stops, and leaves the terminal line empty for what comes next. */
  @Override
  public void close() {
    ticker.shutdownNow();
    Heartbeat.say("");
    synchronized (this) {
      what = "";
      result = null;
      if (style == Style.TERMINAL && shownChars > 0) {
        out.print("\r" + " ".repeat(shownChars) + "\r");
        out.flush();
        shownChars = 0;
      }
    }
  }
}
