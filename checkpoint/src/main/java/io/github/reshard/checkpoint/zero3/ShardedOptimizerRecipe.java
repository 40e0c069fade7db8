package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.format.OptimizerValues;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;
import java.util.Optional;

/**
 * An optimizer file of ZeRO-3, with this rank's sub-groups.
 *
 * @param template the source rank's file
 * @param rank the target rank
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()}
 * @param dsIds the {@code ds_id} of each sub-group of the target; empty if the source has none
 */
public record ShardedOptimizerRecipe(int template, int rank, int model, List<String> dsIds)
    implements TorchRecipe {
  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    PartitionedModel partitioned = models.get(model);
    return ShardedOptimizerRewrite.rewrite(
        template,
        ShardedLayout.of(partitioned.source()),
        ShardedLayout.of(partitioned.target()),
        dsIds);
  }

  @Override
  public Optional<OptimizerValues.Reading> optimizer() {
    return Optional.of(new ShardedValues());
  }
}
