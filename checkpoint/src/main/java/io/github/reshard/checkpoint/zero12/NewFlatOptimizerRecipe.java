package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.OptimizerValues;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;

/**
 * An optimizer file of ZeRO-1 or 2 made from one of another stage.
 *
 * @param template the source rank's file
 * @param rank the target rank
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()}
 * @param stage the ZeRO stage that it is for
 * @param reading how the template is read
 */
public record NewFlatOptimizerRecipe(
    int template, int rank, int model, int stage, OptimizerValues.Reading reading)
    implements TorchRecipe {
  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    PartitionedModel partitioned = models.get(model);
    return NewFlatFiles.optimizer(
        template,
        reading.read(template, partitioned.source()),
        FlatLayout.of(partitioned.target()),
        rank,
        stage);
  }

  @Override
  public boolean isOfSameKind() {
    return false;
  }
}
