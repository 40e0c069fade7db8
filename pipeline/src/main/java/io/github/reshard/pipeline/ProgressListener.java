package io.github.reshard.pipeline;

import org.apache.beam.sdk.PipelineResult;

/**
 * Hears how a run gets on. Bytes come from the Beam counters {@value #BYTES_READ} and {@value
 * #BYTES_WRITTEN} in the namespace {@value #METRICS_NAMESPACE}.
 */
public interface ProgressListener {
  String METRICS_NAMESPACE = "reshard";
  String BYTES_READ = "bytesRead";
  String BYTES_WRITTEN = "bytesWritten";

  /**
   * Something new is being done.
   *
   * @param what the work, as a user would say it: "reading headers"
   * @param totalBytes the bytes that this phase will write, or 0 when that is not known
   */
  void phase(String what, long totalBytes);

  /** The pipeline of the current phase runs; its counters may be asked for from now on. */
  void running(PipelineResult result);
}
