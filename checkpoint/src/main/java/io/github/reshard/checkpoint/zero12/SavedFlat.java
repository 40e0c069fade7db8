package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.ModelPart;
import java.util.List;

/**
 * What was read of a model-parallel rank of ZeRO-1 or 2.
 *
 * @param shards one for each data-parallel rank
 * @param sets its sets of parameters
 */
public record SavedFlat(List<Shard> shards, FlatSets sets) implements ModelPart.Origin {
  public SavedFlat {
    shards = List.copyOf(shards);
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
