package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.deepspeed.OptimizerValues;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;

/**
 * An optimizer file of ZeRO-3 made from one of another stage.
 *
 * @param template the source rank's file
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()}
 * @param dsIds the {@code ds_id} of each sub-group
 * @param reading how the template is read
 */
record NewShardedOptimizerRecipe(
    int template, int model, List<String> dsIds, OptimizerValues.Reading reading)
    implements TorchRecipe {
  NewShardedOptimizerRecipe {
    dsIds = List.copyOf(dsIds);
  }

  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    PartitionedModel partitioned = models.get(model);
    return NewShardedFiles.optimizer(
        template,
        reading.read(template, partitioned.source()),
        ShardedLayout.of(partitioned.target()),
        dsIds);
  }

  @Override
  public boolean isOfSameKind() {
    return false;
  }
}
