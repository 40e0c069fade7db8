package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;

/**
 * A model file of ZeRO-3 of a tensor-parallel rank, made of that of another number of ranks.
 *
 * @param template the source rank's file
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()}
 * @param frozen the same of the frozen parameters, or {@link ShardedModelRecipe#NONE_FROZEN}
 * @param from the tensor-parallel rank of the template
 * @param to the one that it is for
 * @param sharesParameters whether to keep {@code shared_params}
 */
record RecutShardedModelRecipe(
    int template, int model, int frozen, int from, int to, boolean sharesParameters)
    implements TorchRecipe {
  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    PartitionedModel partitioned = models.get(model);
    ShardedLayout target = ShardedLayout.of(partitioned.target().ofHolder(to));
    return ShardedModelRewrite.rewrite(
        template,
        ShardedLayout.of(partitioned.source().ofHolder(from)),
        target,
        ShardedModelRecipe.frozen(models, frozen, to, targetWorldSize),
        sharesParameters);
  }
}
