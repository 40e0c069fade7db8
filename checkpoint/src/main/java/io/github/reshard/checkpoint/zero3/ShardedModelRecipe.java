package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;

/**
 * A model file of ZeRO-3, of which every data-parallel rank has one.
 *
 * @param template the source rank's file
 * @param rank the target rank
 * @param model index into {@link io.github.reshard.checkpoint.plan.ReshardPlan#models()} of the
 *     trainable parameters
 * @param frozen the same of the frozen parameters, or {@link #NONE_FROZEN}
 * @param sharesParameters whether the template is of the rank that it is for, and so keeps {@code
 *     shared_params}
 */
public record ShardedModelRecipe(
    int template, int rank, int model, int frozen, boolean sharesParameters)
    implements TorchRecipe {
  /** The {@code frozen} of a file without frozen parameters. */
  public static final int NONE_FROZEN = -1;

  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    PartitionedModel partitioned = models.get(model);
    return ShardedModelRewrite.rewrite(
        template,
        ShardedLayout.of(partitioned.source()),
        ShardedLayout.of(partitioned.target()),
        frozen(models, frozen, 0, targetWorldSize),
        sharesParameters);
  }

  /** The layout of the frozen parameters of a target's share, of which there may be none. */
  static ShardedLayout frozen(List<PartitionedModel> models, int frozen, int share, int worldSize) {
    return frozen == NONE_FROZEN
        ? new ShardedLayout(worldSize, List.of(), 0)
        : ShardedLayout.of(models.get(frozen).target().ofHolder(share));
  }
}
