package io.github.reshard.pipeline;

import org.apache.beam.sdk.options.Default;
import org.apache.beam.sdk.options.PipelineOptions;

/**
 * What the user asks for: one checkpoint, from the ranks that saved it to M data-parallel ranks.
 */
public interface ReshardOptions extends PipelineOptions {
  /** Bytes that one part of a target file holds at most, unless the user says otherwise: 64 MiB. */
  long DEFAULT_PART_BYTES = 64L << 20;

  /** The directory that save_checkpoint was given. */
  String getInput();

  void setInput(String input);

  /** The directory that gets the resharded checkpoint. */
  String getOutput();

  void setOutput(String output);

  /** The data-parallel size M; {@code null} when it was not given. */
  Integer getTargetWorldSize();

  void setTargetWorldSize(Integer targetWorldSize);

  /**
   * The name of the format that is written, which {@link
   * io.github.reshard.checkpoint.planner.Formats} knows; {@code null} for files of {@code
   * save_checkpoint}.
   */
  String getOutputFormat();

  void setOutputFormat(String outputFormat);

  /** Under which keys a distributed checkpoint has what; {@code null} for those of PyTorch. */
  String getDialect();

  void setDialect(String dialect);

  /** Data files of a distributed checkpoint; {@code null} for as many as the source has ranks. */
  Integer getFilesPerCheckpoint();

  void setFilesPerCheckpoint(Integer filesPerCheckpoint);

  /** A checkpoint of the run that will load, for an input that is a distributed checkpoint. */
  String getTemplate();

  void setTemplate(String template);

  /** The ZeRO stage; {@code null} means that of the input. */
  Integer getTargetStage();

  void setTargetStage(Integer targetStage);

  /** The number of tensor-parallel ranks; {@code null} means that of the input. */
  Integer getTargetTensorParallelSize();

  void setTargetTensorParallelSize(Integer size);

  /** How parameters are cut: a file, or the name of one that comes with the program. */
  String getTpRules();

  void setTpRules(String rules);

  /** The key-value heads of the model; {@code null} for what its configuration says. */
  Integer getKvHeads();

  void setKvHeads(Integer heads);

  /** {@code make_vocab_size_divisible_by} of Megatron; {@code null} if it is not needed. */
  Integer getVocabularyMultiple();

  void setVocabularyMultiple(Integer multiple);

  /** The expert-parallel size; {@code null} means that of the input. */
  Integer getTargetExpertParallelSize();

  void setTargetExpertParallelSize(Integer size);

  /** {@code max_group_size} of the script, in elements; {@code null} if it is not needed. */
  Integer getMaxGroupSize();

  void setMaxGroupSize(Integer elements);

  /** The number of pipeline stages; {@code null} means that of the input. */
  Integer getTargetPipelineParallelSize();

  void setTargetPipelineParallelSize(Integer size);

  /** The first layer of each stage, and the number of layers; {@code null} where it is not said. */
  String getPipelineParts();

  void setPipelineParts(String parts);

  /** The partition_method of the script; {@code null} where it is not said. */
  String getPipelineMethod();

  void setPipelineMethod(String method);

  /** The layers of the pipeline, or how many there are; {@code null} where it is not said. */
  String getPipelineLayers();

  void setPipelineLayers(String layers);

  /** The tag; {@code null} means what the file {@code latest} says. */
  String getTag();

  void setTag(String tag);

  /** Names of shards that a user saved; {@code null} means the usual names, where there are any. */
  String getShards();

  void setShards(String shards);

  /** Write shards that torch.load(weights_only=True) reads. */
  @Default.Boolean(false)
  boolean getSanitize();

  void setSanitize(boolean sanitize);

  /** A state dict of the model, for shards that were saved one by one. */
  String getModel();

  void setModel(String model);

  /** The DeepSpeed configuration, for shards that were saved one by one. */
  String getDsConfig();

  void setDsConfig(String dsConfig);

  /** The names of each param group as JSON, for shards that were saved one by one. */
  String getParamGroups();

  void setParamGroups(String paramGroups);

  /** For how many seconds a run may still be saving the input; {@code null} for none. */
  Long getWait();

  void setWait(Long seconds);

  /** Replace the tag if the output already holds it. */
  @Default.Boolean(false)
  boolean getOverwrite();

  void setOverwrite(boolean overwrite);

  /** Go on when the fp32 masters disagree with the module weights. */
  @Default.Boolean(false)
  boolean getTrustMasters();

  void setTrustMasters(boolean trustMasters);

  /** Bytes that one worker writes in one go. */
  @Default.Long(DEFAULT_PART_BYTES)
  long getPartBytes();

  void setPartBytes(long partBytes);

  /** Show stack traces and what the runner logs. */
  @Default.Boolean(false)
  boolean getDebug();

  void setDebug(boolean debug);
}
