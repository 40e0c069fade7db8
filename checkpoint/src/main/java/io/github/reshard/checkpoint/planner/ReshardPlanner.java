package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.TensorChange;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.IOException;

/** Reads the metadata of a checkpoint of {@code save_checkpoint} and plans its reshard. */
public final class ReshardPlanner {
  private ReshardPlanner() {}

  /**
   * Plans the reshard of {@code files} to {@code targetWorldSize} data-parallel ranks.
   *
   * @param partBytes the size of a part of a target file
   * @throws RefusedException if the checkpoint is not whole, contradicts itself, or holds what is
   *     not understood
   */
  public static ReshardPlan plan(
      SourceStore store, CheckpointFiles files, int targetWorldSize, long partBytes)
      throws IOException {
    return plan(store, files, targetWorldSize, ZeroStage.AS_SAVED, partBytes);
  }

  /**
   * Plans the reshard of {@code files} to {@code targetWorldSize} data-parallel ranks of a run at
   * another ZeRO stage.
   *
   * @param targetStage 1, 2 or 3, or {@link ZeroStage#AS_SAVED}
   * @param partBytes the size of a part of a target file
   * @throws RefusedException as the other one, or if that stage does not support what the
   *     checkpoint has
   */
  public static ReshardPlan plan(
      SourceStore store,
      CheckpointFiles files,
      int targetWorldSize,
      int targetStage,
      long partBytes)
      throws IOException {
    return plan(store, files, targetWorldSize, targetStage, TargetDegrees.AS_SAVED, partBytes);
  }

  /**
   * Plans the reshard of {@code files} to a run at other degrees of parallelism as well.
   *
   * @param targetWorldSize data-parallel ranks
   * @param targetStage 1, 2 or 3, or {@link ZeroStage#AS_SAVED}
   * @param degrees the other degrees
   * @param partBytes the size of a part of a target file
   * @throws RefusedException as the others, or if what the checkpoint has cannot be divided so
   */
  public static ReshardPlan plan(
      SourceStore store,
      CheckpointFiles files,
      int targetWorldSize,
      int targetStage,
      TargetDegrees degrees,
      long partBytes)
      throws IOException {
    return plan(
        Formats.zero(store, files, degrees), targetWorldSize, targetStage, degrees, partBytes);
  }

  /**
   * Plans the reshard of what was found.
   *
   * @param found is read for experts and pipelines of {@code degrees}
   * @throws RefusedException as the others
   */
  public static ReshardPlan plan(
      Found found, int targetWorldSize, int targetStage, TargetDegrees degrees, long partBytes)
      throws IOException {
    requirePossible(found.files(), targetStage, degrees);
    TrainingState state = found.reader().read(targetWorldSize);
    if (degrees.tensor().isPresent()) {
      state = TensorChange.of(state, degrees.tensor().get().request(found.store(), found.files()));
    }
    return found.writer().apply(targetStage).plan(state, new Target(targetWorldSize, partBytes));
  }

  private static void requirePossible(
      CheckpointFiles files, int targetStage, TargetDegrees degrees) {
    String where = files.directory() + "/" + files.tag();
    if (degrees.tensor().isPresent() && degrees.experts().isPresent()) {
      throw new RefusedException(
          where,
          "the tensor-parallel size and that of experts do not change together. Leave one of"
              + " --targetTensorParallelSize and --targetExpertParallelSize out.");
    }
    if (degrees.experts().isPresent() && (Formats.isSharded(files) || targetStage == 3)) {
      throw new RefusedException(
          where,
          "ZeRO-3 has no experts that ranks could divide. Leave --targetExpertParallelSize out.");
    }
    if (degrees.pipeline().isPresent()
        && (Formats.isSharded(files) || targetStage != ZeroStage.AS_SAVED)) {
      throw new RefusedException(
          where,
          "the stages of a pipeline and the ZeRO stage do not change together, and pipelines are"
              + " only of ZeRO-1. Leave --targetPipelineParallelSize or --targetStage out.");
    }
  }
}
