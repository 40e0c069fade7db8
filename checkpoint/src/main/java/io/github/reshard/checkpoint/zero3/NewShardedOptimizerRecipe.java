package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;

/**
 * An optimizer file of ZeRO-3 made from one of ZeRO-1 or 2.
 *
 * @param template the source rank's file
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()}
 * @param dsIds the {@code ds_id} of each sub-group
 */
record NewShardedOptimizerRecipe(int template, int model, List<String> dsIds)
    implements TorchRecipe {
  NewShardedOptimizerRecipe {
    dsIds = List.copyOf(dsIds);
  }

  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    return StageRewrite.shardedOptimizer(
        template, ShardedLayout.of(models.get(model).target()), dsIds);
  }

  @Override
  public boolean isOfSameKind() {
    return false;
  }
}
