package io.github.reshard.pipeline;

import org.apache.beam.sdk.options.Default;
import org.apache.beam.sdk.options.Description;
import org.apache.beam.sdk.options.PipelineOptions;

/**
 * What the user asks for: one checkpoint, from the ranks that saved it to M data-parallel ranks.
 */
public interface ReshardOptions extends PipelineOptions {
  /** Bytes that one part of a target file holds at most, unless the user says otherwise: 64 MiB. */
  long DEFAULT_PART_BYTES = 64L << 20;

  @Description("The directory that save_checkpoint was given")
  String getInput();

  void setInput(String input);

  @Description("The directory that gets the resharded checkpoint")
  String getOutput();

  void setOutput(String output);

  /** The data-parallel size M; {@code null} when it was not given. */
  @Description("The number of data-parallel ranks that will load the output")
  Integer getTargetWorldSize();

  void setTargetWorldSize(Integer targetWorldSize);

  /** The ZeRO stage; {@code null} means that of the input. */
  @Description("The ZeRO stage of the run that will load the output: 1, 2 or 3")
  Integer getTargetStage();

  void setTargetStage(Integer targetStage);

  /** The tag; {@code null} means what the file {@code latest} says. */
  @Description("The checkpoint inside --input; what the file `latest` says unless given")
  String getTag();

  void setTag(String tag);

  /** Names of shards that a user saved; {@code null} means the usual names, where there are any. */
  @Description("Shards that were saved one by one: their file name with * in the place of the rank")
  String getShards();

  void setShards(String shards);

  @Description("Write shards that torch.load(weights_only=True) reads")
  @Default.Boolean(false)
  boolean getSanitize();

  void setSanitize(boolean sanitize);

  @Description("A state dict of the model, for shards that were saved one by one")
  String getModel();

  void setModel(String model);

  @Description("The DeepSpeed configuration, for shards that were saved one by one")
  String getDsConfig();

  void setDsConfig(String dsConfig);

  @Description("The names of each param group as JSON, for shards that were saved one by one")
  String getParamGroups();

  void setParamGroups(String paramGroups);

  @Description("Replace the tag if the output already holds it")
  @Default.Boolean(false)
  boolean getOverwrite();

  void setOverwrite(boolean overwrite);

  @Description("Go on when the fp32 masters disagree with the module weights")
  @Default.Boolean(false)
  boolean getTrustMasters();

  void setTrustMasters(boolean trustMasters);

  @Description("Bytes that one worker writes in one go")
  @Default.Long(DEFAULT_PART_BYTES)
  long getPartBytes();

  void setPartBytes(long partBytes);

  @Description("Show stack traces and what the runner logs")
  @Default.Boolean(false)
  boolean getDebug();

  void setDebug(boolean debug);
}
