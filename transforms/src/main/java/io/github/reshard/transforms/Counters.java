package io.github.reshard.transforms;

import org.apache.beam.sdk.metrics.Metrics;

/** The names of the Beam counters that say how far a job is. */
public final class Counters {
  public static final String NAMESPACE = "reshard";

  /** Bytes read from the source to be moved or proven. */
  public static final String BYTES_READ = "bytesRead";

  /** Payload bytes written to the target. */
  public static final String BYTES_WRITTEN = "bytesWritten";

  /** Parameters whose master weights were trusted although they do not give the module's. */
  public static final String PARAMETERS_DISAGREED = "parametersDisagreed";

  /** Tags that were published although something unpublished could not be removed. */
  public static final String LEFT_BEHIND = "leftBehind";

  /** How often a worker found that its reshard was published, by a worker that died then. */
  public static final String PUBLISHED_BEFORE = "publishedBefore";

  /**
   * A distribution: milliseconds from when a followed checkpoint was found whole to when it was
   * published.
   */
  public static final String WHOLE_TO_PUBLISHED = "wholeToPublishedMillis";

  /** A distribution: whole checkpoints that waited whenever one was published. */
  public static final String LAG = "checkpointsBehind";

  private Counters() {}

  /**
   * What the counter {@code name} is called that counts for one reshard alone. Where a run is
   * followed there is none: a runner keeps every counter for ever.
   */
  public static String of(Reshard reshard, String name) {
    return name + "-" + reshard.key();
  }

  static void inc(Reshard reshard, String name, long by) {
    if (by > 0 && reshard.config().counted()) {
      Metrics.counter(NAMESPACE, of(reshard, name)).inc(by);
    }
  }
}
