package io.github.reshard.checkpoint.zero;

import io.github.reshard.checkpoint.layout.FlatLayout;
import io.github.reshard.checkpoint.layout.ShardedLayout;
import io.github.reshard.checkpoint.plan.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;

/**
 * An optimizer file of ZeRO-1 or 2 made from one of ZeRO-3.
 *
 * @param template the source rank's file
 * @param rank the target rank
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()}
 * @param stage the ZeRO stage that it is for
 */
record NewFlatOptimizerRecipe(int template, int rank, int model, int stage) implements TorchRecipe {
  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    PartitionedModel partitioned = models.get(model);
    return StageRewrite.flatOptimizer(
        template,
        ShardedLayout.of(partitioned.source()),
        FlatLayout.of(partitioned.target()),
        rank,
        stage);
  }

  @Override
  public boolean isOfSameKind() {
    return false;
  }
}
