package io.github.reshard.checkpoint.zero;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.IOException;
import java.util.Set;

/** Reads the metadata of a checkpoint and plans its reshard. */
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
    PlanBuilder plan = new PlanBuilder(store, files, targetWorldSize);
    requireKnownKind(files);
    FlatPlanner.plan(plan);
    files.others().forEach(other -> plan.copyAsIs(other.path(), other.stat()));
    files.beside().forEach(other -> plan.copyAsIs(other.path(), other.stat()));
    return new ReshardPlan(
        files.directory() + "/" + files.tag(),
        files.tag(),
        plan.sourceWorldSize(),
        targetWorldSize,
        plan.sources,
        plan.targets,
        plan.models,
        plan.carried,
        plan.padding,
        plan.notes,
        partBytes);
  }

  private static void requireKnownKind(CheckpointFiles files) {
    String where = files.directory() + "/" + files.tag();
    if (!files.rankModels().isEmpty()) {
      throw new RefusedException(where, "this is a ZeRO-3 checkpoint, which is not supported yet.");
    }
    requireBoth(where, files.models().keySet(), files.optimizers().keySet(), "mp_rank_*");
  }

  private static void requireBoth(
      String where, Set<Integer> models, Set<Integer> optimizers, String modelName) {
    if (models.isEmpty() || optimizers.isEmpty()) {
      throw new RefusedException(
          where,
          "expected %s_model_states.pt and zero_pp_rank_*_optim_states.pt, found %d and %d of them."
              .formatted(modelName, models.size(), optimizers.size()));
    }
    if (!models.equals(optimizers)) {
      throw new RefusedException(
          where,
          "model files are there of the mp ranks %s, optimizer files of %s; they must be the same."
              .formatted(models, optimizers));
    }
  }
}
