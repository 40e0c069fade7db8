package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.format.OptimizerValues;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;
import java.util.Optional;

/**
 * An optimizer file of ZeRO-3 made from one of another stage.
 *
 * @param template the source rank's file
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()}
 * @param share which of the model-parallel ranks that have the parameters it is of
 * @param dsIds the {@code ds_id} of each sub-group
 * @param reading how the template is read
 */
record NewShardedOptimizerRecipe(
    int template, int model, int share, List<String> dsIds, OptimizerValues.Reading reading)
    implements TorchRecipe {
  NewShardedOptimizerRecipe {
    dsIds = List.copyOf(dsIds);
  }

  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    PartitionedModel partitioned = models.get(model);
    return NewShardedFiles.optimizer(
        template,
        reading.read(template, partitioned.states()),
        ShardedLayout.of(partitioned.target().ofHolder(share)),
        dsIds);
  }

  @Override
  public boolean isOfSameKind() {
    return false;
  }

  @Override
  public Optional<OptimizerValues.Reading> optimizer() {
    return Optional.of(new ShardedValues());
  }
}
