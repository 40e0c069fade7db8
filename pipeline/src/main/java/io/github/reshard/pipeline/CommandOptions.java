package io.github.reshard.pipeline;

import org.apache.beam.sdk.options.Default;

/** What the commands beside the main job are asked for. */
public interface CommandOptions extends ExportOptions {
  /** Print JSON instead of a table. */
  @Default.Boolean(false)
  boolean getJson();

  void setJson(boolean json);

  /** Where the page goes; {@code null} for none. */
  String getHtml();

  void setHtml(String html);

  /** The tag of {@code --output}; {@code null} for what its {@code latest} says. */
  String getOutputTag();

  void setOutputTag(String outputTag);

  /** All GPUs that will load; {@code null} when the data-parallel ranks are given instead. */
  Integer getGpus();

  void setGpus(Integer gpus);

  /** How many checkpoints stay in the output; {@code null} for all. */
  Integer getKeep();

  void setKeep(Integer keep);
}
