package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.zero3.ShardedModelRecipe;
import io.github.reshard.checkpoint.zero3.StageRewrite;
import java.util.List;

/**
 * The model file of ZeRO-1 or 2 made from rank 0's of ZeRO-3.
 *
 * @param template the source's file
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()} of the
 *     trainable parameters
 * @param frozen the same of the frozen parameters, or {@link ShardedModelRecipe#NONE_FROZEN}
 * @param stage the ZeRO stage that it is for
 */
public record NewFlatModelRecipe(int template, int model, int frozen, int stage)
    implements TorchRecipe {
  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    return StageRewrite.flatModel(
        template,
        FlatLayout.of(models.get(model).target()),
        ShardedModelRecipe.frozen(models, frozen, 1),
        stage);
  }

  @Override
  public boolean isOfSameKind() {
    return false;
  }
}
