package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;

/**
 * The model file of ZeRO-1 or 2 made from the one of another stage.
 *
 * @param template the source's file
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()} of the
 *     trainable parameters
 * @param share which of the model-parallel ranks that have them it is of
 * @param frozen the same of the frozen parameters, or {@link #NONE_FROZEN}
 * @param stage the ZeRO stage that it is for
 */
record NewFlatModelRecipe(int template, int model, int share, int frozen, int stage)
    implements TorchRecipe {
  /** The {@code frozen} of a file without frozen parameters. */
  public static final int NONE_FROZEN = -1;

  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    return NewFlatFiles.model(
        template,
        FlatLayout.of(models.get(model).target().ofHolder(share)),
        frozen == NONE_FROZEN
            ? List.of()
            : models.get(frozen).target().ofHolder(share).parameters(),
        stage);
  }

  @Override
  public boolean isOfSameKind() {
    return false;
  }
}
