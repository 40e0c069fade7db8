package io.github.reshard.checkpoint.zero12;

import java.util.ArrayList;
import java.util.List;

/**
 * The order of parameters in a flat group under {@code round_robin_gradients} (DeepSpeed 0.19.6,
 * runtime/zero/stage_1_and_2.py, {@code _round_robin_reorder}): position i of the original order
 * goes to pile i modulo the number of ranks, and the piles follow one another.
 */
public final class RoundRobin {
  private RoundRobin() {}

  /** For each place in the flat buffer, the index in the original order. */
  public static List<Integer> flatOrder(int parameters, int ranks) {
    List<Integer> order = new ArrayList<>(parameters);
    for (int pile = 0; pile < Math.min(ranks, parameters); pile++) {
      for (int i = pile; i < parameters; i += ranks) {
        order.add(i);
      }
    }
    return order;
  }

  /** The original order of {@code flat}, which is in the flat order of {@code ranks} ranks. */
  public static <T> List<T> undo(List<T> flat, int ranks) {
    List<Integer> order = flatOrder(flat.size(), ranks);
    List<T> original = new ArrayList<>(flat);
    for (int place = 0; place < flat.size(); place++) {
      original.set(order.get(place), flat.get(place));
    }
    return original;
  }
}
