package io.github.reshard.checkpoint.plan;

import java.io.Serializable;
import java.util.List;

/**
 * A run of elements of one parameter as one source rank holds it: not the bytes, but where they
 * are.
 *
 * @param rank the rank, or {@link #WHOLE} or less for what a model file holds of all ranks
 * @param start the first element of the rank's local tensor, which is the parameter unless tensor
 *     parallelism cut it
 * @param elements its length in elements
 * @param states where each state of these elements lies
 */
public record RankSlice(int rank, long start, long elements, List<StateExtent> states)
    implements Serializable {
  /** The rank of a slice that belongs to no single rank. */
  public static final int WHOLE = -1;

  /** The rank of a slice of a local tensor that belongs to no single rank of its holder. */
  static int wholeOf(int holder) {
    return WHOLE - holder;
  }

  public RankSlice {
    states = List.copyOf(states);
  }
}
