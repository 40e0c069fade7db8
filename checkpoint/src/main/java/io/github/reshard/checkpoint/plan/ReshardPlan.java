package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.state.DegreeChange;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.PartitionedModel;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.List;

/**
 * Everything that is known before the first byte moves. It grows with the number of files and
 * parameters, never with their bytes, and is made once and handed to every worker.
 *
 * @param checkpoint names the source in a {@link ParamId}
 * @param tag the tag that is resharded
 * @param sourceWorldSize data-parallel ranks of the source
 * @param targetWorldSize data-parallel ranks of the output, or {@link #ANY_WORLD_SIZE}
 * @param parallelism how the GPUs of both sides share the model
 * @param sources every file that is read
 * @param targets every file that is written
 * @param models the partitioned parameters
 * @param carried what is copied without being partitioned: whole storages, and files as they are
 * @param padding what fills the target's partitions behind their parameters: the elements of which
 *     state
 * @param evidence what was proven of the source by its metadata
 * @param notes what the user should know
 * @param partBytes the size of a part of a target file
 */
public record ReshardPlan(
    String checkpoint,
    String tag,
    int sourceWorldSize,
    int targetWorldSize,
    DegreeChange parallelism,
    List<SourceFile> sources,
    List<TargetFile> targets,
    List<PartitionedModel> models,
    List<SliceCopy> carried,
    List<Padding> padding,
    List<Evidence> evidence,
    List<String> notes,
    long partBytes)
    implements Serializable {

  /** The target's size where the output is the same for any number of ranks. */
  public static final int ANY_WORLD_SIZE = 0;

  /**
   * The elements behind the parameters in the partitions of one state.
   *
   * @param model index into {@link ReshardPlan#models()}
   * @param group the param group
   * @param state the state
   * @param bits one element, little endian, in the low bytes
   */
  public record Padding(int model, int group, String state, long bits) implements Serializable {}

  public ReshardPlan {
    sources = List.copyOf(sources);
    targets = List.copyOf(targets);
    models = List.copyOf(models);
    carried = List.copyOf(carried);
    padding = List.copyOf(padding);
    evidence = List.copyOf(evidence);
    notes = List.copyOf(notes);
  }

  /**
   * The elements behind the parameters of {@code group} in {@code state}: zero unless the source
   * shows another value.
   */
  public long paddingBits(int model, int group, String state) {
    for (Padding p : padding) {
      if (p.model() == model && p.group() == group && p.state().equals(state)) {
        return p.bits();
      }
    }
    return 0;
  }

  /** The ranks that saved the source, or {@link #ANY_WORLD_SIZE} if its pieces are no ranks'. */
  public int savedRanks() {
    return models.stream().allMatch(model -> model.source().isOfRanks())
        ? sourceWorldSize
        : ANY_WORLD_SIZE;
  }

  /**
   * The grids of GPUs of both sides, {@code 8 GPUs = 2 data x 2 tensor x 2 pipeline → 4 GPUs = 4
   * data}; empty if each GPU is a data-parallel rank.
   */
  public String grids() {
    if (!parallelism.source().isMore() && !parallelism.target().isMore()) {
      return "";
    }
    List<String> grids = new ArrayList<>();
    if (savedRanks() != ANY_WORLD_SIZE) {
      grids.add(parallelism.source().grid(sourceWorldSize));
    }
    if (targetWorldSize != ANY_WORLD_SIZE) {
      grids.add(parallelism.target().grid(targetWorldSize));
    }
    return String.join(" → ", grids);
  }

  /** The same with these sources, which slices that are carried name. */
  public ReshardPlan with(List<SourceFile> others, List<SliceCopy> slices) {
    return new ReshardPlan(
        checkpoint,
        tag,
        sourceWorldSize,
        targetWorldSize,
        parallelism,
        others,
        targets,
        models,
        slices,
        padding,
        evidence,
        notes,
        partBytes);
  }

  /** The same with these models, whose pieces lie in the same sources. */
  public ReshardPlan with(List<PartitionedModel> others) {
    return new ReshardPlan(
        checkpoint,
        tag,
        sourceWorldSize,
        targetWorldSize,
        parallelism,
        sources,
        targets,
        others,
        carried,
        padding,
        evidence,
        notes,
        partBytes);
  }

  /** The same with these notes. */
  public ReshardPlan withNotes(List<String> others) {
    return new ReshardPlan(
        checkpoint,
        tag,
        sourceWorldSize,
        targetWorldSize,
        parallelism,
        sources,
        targets,
        models,
        carried,
        padding,
        evidence,
        others,
        partBytes);
  }

  /** Bytes of all target files. */
  public long targetBytes() {
    return targets.stream().mapToLong(TargetFile::bytes).sum();
  }
}
