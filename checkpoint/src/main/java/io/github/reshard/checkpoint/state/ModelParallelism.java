package io.github.reshard.checkpoint.state;

import java.io.Serializable;

/**
 * How GPUs hold one copy of the model together.
 *
 * @param modelRanks model-parallel ranks: tensor-parallel ones of all stages of a pipeline
 * @param pipelineDegree stages, or {@link #UNKNOWN}
 * @param tensorDegree ranks that share each layer, or {@link #UNKNOWN}
 * @param sequenceDegree ranks that share each sequence, and are data-parallel ones for ZeRO, since
 *     each has the whole model; or {@link #UNKNOWN}, if there are such and their number is up to
 *     the script
 */
public record ModelParallelism(
    int modelRanks, int pipelineDegree, int tensorDegree, int sequenceDegree)
    implements Serializable {
  /** Where the checkpoint does not say. */
  public static final int UNKNOWN = 0;

  /** Of a run that has nothing but data-parallel ranks. */
  public static final ModelParallelism NONE = of(1, 1);

  /** Of these degrees. */
  public static ModelParallelism of(int pipelineDegree, int tensorDegree) {
    return new ModelParallelism(pipelineDegree * tensorDegree, pipelineDegree, tensorDegree, 1);
  }

  /** Of so many model-parallel ranks of which it is not known what they share. */
  public static ModelParallelism ofRanks(int modelRanks) {
    return new ModelParallelism(modelRanks, UNKNOWN, UNKNOWN, 1);
  }

  /** Whether a GPU is more than a data-parallel rank. */
  public boolean isMore() {
    return modelRanks > 1 || sequenceDegree != 1;
  }

  /**
   * The grid of all GPUs, for the user: {@code 8 GPUs = 2 data x 2 tensor x 2 pipeline}.
   *
   * @param zeroRanks among how many ranks ZeRO partitions each model-parallel rank's parameters
   */
  public String grid(int zeroRanks) {
    int gpus = zeroRanks * modelRanks;
    StringBuilder grid = new StringBuilder(gpus == 1 ? "1 GPU" : gpus + " GPUs").append(" = ");
    boolean shares = sequenceDegree > 1 && zeroRanks % sequenceDegree == 0;
    grid.append(shares ? zeroRanks / sequenceDegree : zeroRanks);
    grid.append(sequenceDegree == UNKNOWN ? " ranks of ZeRO, data x sequence" : " data");
    if (shares) {
      grid.append(" x ").append(sequenceDegree).append(" sequence, of which ZeRO counts ");
      grid.append(zeroRanks);
    }
    if (tensorDegree > 1) {
      grid.append(" x ").append(tensorDegree).append(" tensor");
    }
    if (pipelineDegree > 1) {
      grid.append(" x ").append(pipelineDegree).append(" pipeline");
    }
    if (tensorDegree == UNKNOWN && modelRanks > 1) {
      grid.append(" x ").append(modelRanks).append(" model-parallel");
    }
    return grid.toString();
  }
}
