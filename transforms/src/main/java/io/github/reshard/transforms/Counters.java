package io.github.reshard.transforms;

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

  private Counters() {}
}
