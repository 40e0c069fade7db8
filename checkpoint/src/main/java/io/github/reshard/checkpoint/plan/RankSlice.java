package io.github.reshard.checkpoint.plan;

import java.io.Serializable;
import java.util.List;

/**
 * A run of elements of one parameter as one source rank holds it: not the bytes, but where they
 * are.
 *
 * @param rank the data-parallel rank, or {@link #WHOLE} for what a model file holds of all ranks
 * @param start the first element of the parameter
 * @param elements its length in elements
 * @param states where each state of these elements lies
 */
public record RankSlice(int rank, long start, long elements, List<StateExtent> states)
    implements Serializable {
  /** The rank of a slice that belongs to no single rank. */
  public static final int WHOLE = -1;

  public RankSlice {
    states = List.copyOf(states);
  }
}
