package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.OptimizerValues;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;
import java.util.Optional;

/**
 * An optimizer file of ZeRO-1 or 2, with this rank's partitions.
 *
 * @param template the source rank's file
 * @param rank the target rank
 * @param groups for each param group of the file, the partitioned group
 * @param stage the ZeRO stage that it is for, 1 or 2, or {@link ZeroStage#AS_SAVED}
 * @param regrouping what changes of the groups, or null
 */
record FlatOptimizerRecipe(
    int template, int rank, List<GroupRef> groups, int stage, Regrouping regrouping)
    implements TorchRecipe {
  FlatOptimizerRecipe(int template, int rank, List<GroupRef> groups, int stage) {
    this(template, rank, groups, stage, null);
  }

  FlatOptimizerRecipe {
    groups = List.copyOf(groups);
  }

  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    return FlatOptimizerRewrite.rewrite(
        template,
        groups.stream()
            .map(
                ref ->
                    FlatOptimizerRewrite.Group.of(ref.in(models), ref.target(models), ref.group()))
            .toList(),
        rank,
        stage,
        Optional.ofNullable(regrouping));
  }

  @Override
  public boolean isOfSameKind() {
    return stage == ZeroStage.AS_SAVED && regrouping == null;
  }

  @Override
  public Optional<OptimizerValues.Reading> optimizer() {
    return Optional.of(new FlatValues());
  }
}
