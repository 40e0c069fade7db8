package io.github.reshard.checkpoint.state;

import java.io.Serializable;

/**
 * How many GPUs hold one copy of the model together.
 *
 * @param pipelineDegree stages, or {@link #UNKNOWN}
 * @param tensorDegree ranks that share each layer, or {@link #UNKNOWN}
 */
public record ModelParallelism(int pipelineDegree, int tensorDegree) implements Serializable {
  /** Where the checkpoint does not say. */
  public static final int UNKNOWN = 0;

  /** For a checkpoint that says nothing. */
  public static final ModelParallelism NOT_SAID = new ModelParallelism(UNKNOWN, UNKNOWN);

  /**
   * The grid of all GPUs, for the user: {@code 8 GPUs = 2 data x 2 tensor x 2 pipeline}.
   *
   * @param dataParallelRanks how many copies of the model there are
   */
  public String grid(int dataParallelRanks) {
    int gpus = dataParallelRanks * Math.max(1, pipelineDegree) * Math.max(1, tensorDegree);
    return (gpus == 1 ? "1 GPU" : gpus + " GPUs")
        + " = "
        + dataParallelRanks
        + " data"
        + (tensorDegree > 1 ? " x " + tensorDegree + " tensor" : "")
        + (pipelineDegree > 1 ? " x " + pipelineDegree + " pipeline" : "");
  }
}
