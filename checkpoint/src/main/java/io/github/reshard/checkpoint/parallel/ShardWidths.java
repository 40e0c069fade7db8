package io.github.reshard.checkpoint.parallel;

import java.util.ArrayList;
import java.util.List;
import java.util.OptionalInt;
import java.util.Set;

/**
 * How wide the shard of each tensor-parallel rank is where AutoTP cuts a dimension (DeepSpeed
 * 0.19.8, module_inject/tp_shard.py, {@code get_shard_size}): attention is cut between key-value
 * heads, everything else as evenly as can be.
 */
public final class ShardWidths {
  private static final Set<String> LAST_LAYERS = Set.of("lm_head", "embed_out");
  private static final List<String> NOT_ATTENTION =
      List.of("mlp", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3");

  private ShardWidths() {}

  /** The widths with a {@code tp_grain_size} of 1. */
  public static List<Long> of(long size, int ranks, OptionalInt heads, String layer) {
    return of(size, ranks, heads, layer, 1);
  }

  /**
   * The widths by rank; their sum is {@code size}. Some are 0 if there are fewer heads than ranks.
   *
   * @param size the whole dimension, in elements
   * @param ranks tensor-parallel ranks
   * @param heads the key-value heads that the model's configuration says; none if it says none
   * @param layer the name of the layer, without {@code .weight} or {@code .bias}
   * @param grain {@code tp_grain_size}: what is not cut by head is cut between multiples of it, and
   *     the last rank has what is left
   */
  public static List<Long> of(long size, int ranks, OptionalInt heads, String layer, int grain) {
    boolean byHead =
        heads.isPresent() && size % heads.getAsInt() == 0 && maybeCutByHead(layer) && size > 0;
    long unit = byHead ? size / heads.getAsInt() : size >= grain ? grain : 1;
    long units = size / unit;
    List<Long> widths = new ArrayList<>();
    for (int rank = 0; rank < ranks; rank++) {
      long own = units / ranks + (rank < units % ranks ? 1 : 0);
      widths.add(own * unit + (rank == ranks - 1 ? size % unit : 0));
    }
    return widths;
  }

  /** Whether a layer of this name is cut between heads, if its size is a multiple of theirs. */
  static boolean maybeCutByHead(String layer) {
    return !LAST_LAYERS.contains(layer) && NOT_ATTENTION.stream().noneMatch(layer::contains);
  }
}
