package io.github.reshard.checkpoint.parallel;

import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.LocalTensor;
import java.util.ArrayList;
import java.util.List;

/**
 * The blocks of a local tensor in one form: neighbours on both sides are one block. Fused matrices
 * that a rank has whole are one box of the full tensor.
 */
final class Blocks {
  private Blocks() {}

  static List<LocalTensor.Block> joined(List<LocalTensor.Block> blocks) {
    List<LocalTensor.Block> joined = new ArrayList<>();
    for (LocalTensor.Block block : blocks) {
      int last = joined.size() - 1;
      int along = last < 0 ? -1 : along(joined.get(last), block);
      if (along < 0) {
        joined.add(block);
      } else {
        Box before = joined.get(last).full();
        List<Long> sizes = new ArrayList<>(before.sizes());
        sizes.set(along, sizes.get(along) + block.full().sizes().get(along));
        joined.set(
            last, new LocalTensor.Block(new Box(before.offsets(), sizes), joined.get(last).at()));
      }
    }
    return joined;
  }

  /** The dimension in which {@code next} follows {@code block} on both sides, or -1. */
  private static int along(LocalTensor.Block block, LocalTensor.Block next) {
    int full = along(block.full(), next.full());
    return full >= 0 && full == along(block.local(), next.local()) ? full : -1;
  }

  private static int along(Box box, Box next) {
    int along = -1;
    for (int d = 0; d < box.dimensions(); d++) {
      boolean same =
          box.offsets().get(d).equals(next.offsets().get(d))
              && box.sizes().get(d).equals(next.sizes().get(d));
      if (!same) {
        if (along >= 0 || box.offsets().get(d) + box.sizes().get(d) != next.offsets().get(d)) {
          return -1;
        }
        along = d;
      }
    }
    return along;
  }
}
