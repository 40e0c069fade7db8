package io.github.reshard.pipeline;

import org.apache.beam.sdk.options.Default;
import org.apache.beam.sdk.options.Description;

/** What the commands beside the main job are asked for. */
public interface CommandOptions extends ReshardOptions {
  @Description("Print JSON instead of a table")
  @Default.Boolean(false)
  boolean getJson();

  void setJson(boolean json);

  /** Where the page goes; {@code null} for none. */
  @Description("Write a page that shows which rank holds what")
  String getHtml();

  void setHtml(String html);

  /** The tag of {@code --output}; {@code null} for what its {@code latest} says. */
  @Description("The checkpoint inside --output; what the file `latest` says unless given")
  String getOutputTag();

  void setOutputTag(String outputTag);

  /** All GPUs that will load; {@code null} when the data-parallel ranks are given instead. */
  @Description("All GPUs that will load the output, in the place of --targetWorldSize")
  Integer getGpus();

  void setGpus(Integer gpus);

  /** How many checkpoints stay in the output; {@code null} for all. */
  @Description("How many checkpoints to keep in the output; older ones are removed")
  Integer getKeep();

  void setKeep(Integer keep);
}
