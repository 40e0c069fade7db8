package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.SavedRank;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.TorchRecipe;
import java.io.IOException;
import java.util.List;
import java.util.Optional;
import java.util.function.UnaryOperator;

/**
 * What was read of a model-parallel rank of ZeRO-1 or 2.
 *
 * @param shards one for each data-parallel rank
 * @param sets its sets of parameters
 */
public record SavedFlat(List<Shard> shards, FlatSets sets) implements SavedRank {
  public SavedFlat {
    shards = List.copyOf(shards);
  }

  @Override
  public void edit(PlanDraft draft, ModelPart part, UnaryOperator<TorchRecipe> form, Naming naming)
      throws IOException {
    new EditedFlat(draft, ZeroStage.AS_SAVED, Optional.empty(), form).add(part, this, naming);
  }

  /** The ZeRO stage, 1 for BF16_Optimizer. */
  int stage() {
    return shards.get(0).states().stage();
  }

  /** Whether it is of the stage that is wanted, which may be {@link ZeroStage#AS_SAVED}. */
  boolean is(int wanted) {
    return wanted == ZeroStage.AS_SAVED || wanted == stage();
  }
}
