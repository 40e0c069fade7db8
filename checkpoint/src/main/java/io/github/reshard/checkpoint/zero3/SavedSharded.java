package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.deepspeed.SavedRank;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.TorchRecipe;
import java.io.IOException;
import java.util.List;
import java.util.Set;
import java.util.function.UnaryOperator;

/**
 * What was read of a model-parallel rank of ZeRO-3.
 *
 * @param layout of its trained parameters
 * @param subGroupSize {@code sub_group_size} of the run
 * @param names the module's parameters in its order, tied ones too, as far as they are known
 * @param tied the names that stand for another parameter
 * @param models the model file of each data-parallel rank; none beside shards that a user saved
 */
public record SavedSharded(
    ShardedLayout layout,
    long subGroupSize,
    List<String> names,
    Set<String> tied,
    List<ReadFile> models)
    implements SavedRank {
  public SavedSharded {
    names = List.copyOf(names);
    tied = Set.copyOf(tied);
    models = List.copyOf(models);
  }

  @Override
  public void edit(PlanDraft draft, ModelPart part, UnaryOperator<TorchRecipe> form, Naming naming)
      throws IOException {
    new EditedSharded(draft, form).add(part, this, naming);
  }
}
