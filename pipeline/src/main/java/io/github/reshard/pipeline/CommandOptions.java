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

  /**
   * The data-parallel sizes, separated by commas, where there are several; {@code null} when {@code
   * targetWorldSize} says the one.
   */
  String getTargetWorldSizes();

  void setTargetWorldSizes(String sizes);

  /** Of how many checkpoints that are saved one is resharded. */
  @Default.Integer(1)
  Integer getEvery();

  void setEvery(Integer every);

  /** Whether older checkpoints are passed over when a newer one is whole. */
  @Default.Boolean(false)
  boolean getNewestOnly();

  void setNewestOnly(boolean newestOnly);

  /** After how many quiet milliseconds following ends; {@code null} for never. */
  Long getUntil();

  void setUntil(Long quietMillis);

  /** How many milliseconds lie between two looks at what is saved. */
  @Default.Long(10_000)
  Long getPoll();

  void setPoll(Long millis);

  /** For how many milliseconds a checkpoint may stay incomplete. */
  @Default.Long(600_000)
  Long getGiveUpAfter();

  void setGiveUpAfter(Long millis);

  /** How many checkpoints stay in the output; {@code null} for all. */
  Integer getKeep();

  void setKeep(Integer keep);
}
