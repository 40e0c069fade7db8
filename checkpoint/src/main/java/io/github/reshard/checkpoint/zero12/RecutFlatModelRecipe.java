package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.List;

/**
 * A model file of ZeRO-1 or 2 of a tensor-parallel rank, made of that of another number of ranks.
 *
 * @param template the source's file of some tensor-parallel rank
 * @param groups for each param group of {@code param_shapes}, the partitioned group
 */
record RecutFlatModelRecipe(int template, List<GroupRef> groups) implements TorchRecipe {
  RecutFlatModelRecipe {
    groups = List.copyOf(groups);
  }

  @Override
  public Rewritten rewrite(TorchFile template, List<PartitionedModel> models, int targetWorldSize) {
    return RecutModelRewrite.rewrite(
        template,
        groups.stream()
            .map(
                ref ->
                    new FlatModelRewrite.Group(ref.source(models), ref.target(models), ref.group()))
            .toList(),
        targetWorldSize);
  }
}
