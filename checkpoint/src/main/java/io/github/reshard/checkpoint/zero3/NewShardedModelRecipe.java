package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;

/**
 * A model file of ZeRO-3 made from one of another stage.
 *
 * @param template the source's file
 * @param rank the target rank
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()} of the
 *     trainable parameters
 * @param share which of the model-parallel ranks that have them it is of
 * @param frozen the same of the frozen parameters, or {@link ShardedModelRecipe#NONE_FROZEN}
 */
record NewShardedModelRecipe(int template, int rank, int model, int share, int frozen)
    implements TorchRecipe {
  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    return NewShardedFiles.model(
        template,
        ShardedLayout.of(models.get(model).target().ofHolder(share)),
        ShardedModelRecipe.frozen(models, frozen, share, 1),
        rank == 0);
  }

  @Override
  public boolean isOfSameKind() {
    return false;
  }
}
