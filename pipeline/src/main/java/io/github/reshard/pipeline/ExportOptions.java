package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.format.ExportRequest;
import org.apache.beam.sdk.options.Default;

/** What an export is asked for beside input, output and tag. */
public interface ExportOptions extends ReshardOptions {
  /** The type that parameters are written as; {@code null} for the one they are saved in. */
  String getDtype();

  void setDtype(String dtype);

  /** Bytes of tensors that one file holds at most. */
  @Default.Long(ExportRequest.DEFAULT_SHARD_BYTES)
  long getShardBytes();

  void setShardBytes(long shardBytes);

  /** Write the optimizer's states too. */
  @Default.Boolean(false)
  boolean getOptimizer();

  void setOptimizer(boolean optimizer);

  /** What is taken off names; {@code null} for nothing. */
  String getStripPrefix();

  void setStripPrefix(String stripPrefix);

  /** A pattern of the names that are exported; {@code null} for all. */
  String getOnly();

  void setOnly(String only);
}
