package io.github.reshard.checkpoint.state;

import java.io.Serializable;

/**
 * How many GPUs hold one copy of the model together. It stays as saved.
 *
 * @param pipelineDegree stages, or {@link #UNKNOWN}
 * @param tensorDegree ranks that share each layer, or {@link #UNKNOWN}
 */
public record ModelParallelism(int pipelineDegree, int tensorDegree) implements Serializable {
  /** Where the checkpoint does not say. */
  public static final int UNKNOWN = 0;

  /** For a checkpoint that says nothing. */
  public static final ModelParallelism NOT_SAID = new ModelParallelism(UNKNOWN, UNKNOWN);
}
