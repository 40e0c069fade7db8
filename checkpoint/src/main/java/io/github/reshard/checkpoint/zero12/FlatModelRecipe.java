package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;
import java.util.Optional;

/**
 * A model file of ZeRO-1 or 2.
 *
 * @param template the source's file of the same mp rank
 * @param groups for each param group of {@code param_shapes}, the partitioned group
 * @param stage the ZeRO stage that it is for, 1 or 2, or {@link ZeroStage#AS_SAVED}
 * @param regrouping what changes of the groups, or null
 */
record FlatModelRecipe(int template, List<GroupRef> groups, int stage, Regrouping regrouping)
    implements TorchRecipe {
  FlatModelRecipe {
    groups = List.copyOf(groups);
  }

  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    return FlatModelRewrite.rewrite(
        template,
        FlatModelRewrite.groups(groups, models),
        targetWorldSize,
        stage,
        Optional.ofNullable(regrouping));
  }

  @Override
  public boolean isOfSameKind() {
    return stage == ZeroStage.AS_SAVED && regrouping == null;
  }
}
