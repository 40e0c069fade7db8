package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.format.OptimizerValues;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;
import java.util.Optional;

/**
 * An optimizer file of ZeRO-3 of a tensor-parallel rank, made of that of another number of ranks.
 *
 * @param template the source rank's file
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()}
 * @param from the tensor-parallel rank of the template
 * @param to the one that it is for
 * @param dsIds the {@code ds_id} of each sub-group of the target; empty if the source has none
 */
record RecutShardedOptimizerRecipe(int template, int model, int from, int to, List<String> dsIds)
    implements TorchRecipe {
  RecutShardedOptimizerRecipe {
    dsIds = List.copyOf(dsIds);
  }

  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    PartitionedModel partitioned = models.get(model);
    return ShardedOptimizerRewrite.rewrite(
        template,
        ShardedLayout.of(partitioned.source().ofHolder(from)),
        ShardedLayout.of(partitioned.target().ofHolder(to)),
        dsIds);
  }

  @Override
  public Optional<OptimizerValues.Reading> optimizer() {
    return Optional.of(new ShardedValues());
  }
}
