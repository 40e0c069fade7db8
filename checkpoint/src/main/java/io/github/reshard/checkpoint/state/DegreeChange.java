package io.github.reshard.checkpoint.state;

import java.io.Serializable;

/**
 * The degrees of parallelism of a source and of its target.
 *
 * @param source as saved
 * @param target of the run that will load
 */
public record DegreeChange(ModelParallelism source, ModelParallelism target)
    implements Serializable {
  /** Of a checkpoint that has nothing but data-parallel ranks. */
  public static final DegreeChange NONE =
      new DegreeChange(ModelParallelism.NONE, ModelParallelism.NONE);

  /** No change; how many ranks share a sequence is up to the script that will load. */
  public static DegreeChange to(ModelParallelism same) {
    return new DegreeChange(
        same,
        same.sequenceDegree() == 1
            ? same
            : new ModelParallelism(
                same.modelRanks(),
                same.pipelineDegree(),
                same.tensorDegree(),
                ModelParallelism.UNKNOWN));
  }

  /** The same source, and another target. */
  public DegreeChange with(ModelParallelism other) {
    return new DegreeChange(source, other);
  }
}
