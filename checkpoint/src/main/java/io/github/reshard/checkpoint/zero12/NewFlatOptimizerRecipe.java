package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.zero3.ShardedLayout;
import io.github.reshard.checkpoint.zero3.StageRewrite;
import java.util.List;

/**
 * An optimizer file of ZeRO-1 or 2 made from one of ZeRO-3.
 *
 * @param template the source rank's file
 * @param rank the target rank
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()}
 * @param stage the ZeRO stage that it is for
 */
public record NewFlatOptimizerRecipe(int template, int rank, int model, int stage)
    implements TorchRecipe {
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
