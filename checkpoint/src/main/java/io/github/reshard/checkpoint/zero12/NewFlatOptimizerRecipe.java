package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.format.OptimizerValues;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;
import java.util.Optional;

/**
 * An optimizer file of ZeRO-1 or 2 made from one of another stage.
 *
 * @param template the source rank's file
 * @param rank the target rank
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()}
 * @param share which of the model-parallel ranks that have the parameters it is of
 * @param stage the ZeRO stage that it is for
 * @param reading how the template is read
 */
record NewFlatOptimizerRecipe(
    int template, int rank, int model, int share, int stage, OptimizerValues.Reading reading)
    implements TorchRecipe {
  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    PartitionedModel partitioned = models.get(model);
    return NewFlatFiles.optimizer(
        template,
        reading.read(template, partitioned.states()),
        FlatLayout.of(partitioned.target().ofHolder(share)),
        rank,
        stage);
  }

  @Override
  public boolean isOfSameKind() {
    return false;
  }

  @Override
  public Optional<OptimizerValues.Reading> optimizer() {
    return Optional.of(new FlatValues());
  }
}
