package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.TensorRecipe;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;

/**
 * A model file of ZeRO-1 or 2 of a tensor-parallel rank, made of that of another number of ranks.
 *
 * @param template the source's file of some tensor-parallel rank
 * @param groups for each param group of {@code param_shapes}, the partitioned group
 * @param frozen index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()} of the
 *     frozen parameters, or {@link TensorRecipe#NONE_FROZEN}
 * @param stage the ZeRO stage that it is for, 1 or 2, or {@link ZeroStage#AS_SAVED}
 */
record RecutFlatModelRecipe(int template, List<GroupRef> groups, int frozen, int stage)
    implements TorchRecipe {
  RecutFlatModelRecipe {
    groups = List.copyOf(groups);
  }

  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    return RecutModelRewrite.rewrite(
        template,
        FlatModelRewrite.groups(groups, models),
        frozen == TensorRecipe.NONE_FROZEN
            ? List.of()
            : models.get(frozen).target().ofHolder(groups.get(0).to()).parameters(),
        targetWorldSize,
        stage);
  }
}
