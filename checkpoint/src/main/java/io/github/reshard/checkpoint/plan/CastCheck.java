package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.torch.DType;
import java.io.Serializable;

/**
 * The claim that the copied master weights, cast to the module's type, are the module's weights bit
 * for bit; or that two ranks hold the same elements of a state.
 *
 * @param parameter whose weights
 * @param start the first element of the parameter
 * @param master the type of the copied elements
 * @param module the type of the module's elements
 * @param weights where the module's weight of element {@code start} lies in the source, or the
 *     first rank's copy of that element
 * @param copies whose copies of which state are compared, or null for master weights
 */
public record CastCheck(
    String parameter, long start, DType master, DType module, Address weights, Copies copies)
    implements Serializable {

  /** A claim about master weights. */
  public CastCheck(String parameter, long start, DType master, DType module, Address weights) {
    this(parameter, start, master, module, weights, null);
  }

  /**
   * Two copies of a state of the same elements.
   *
   * @param state the state
   * @param rank the data-parallel rank of the copy that is read
   * @param firstRank the rank of the copy that it must be equal to
   */
  public record Copies(String state, int rank, int firstRank) implements Serializable {}

  /** The claim about what begins {@code elements} further on. */
  CastCheck plus(long elements) {
    return plus(elements, elements);
  }

  /**
   * The claim about what begins further on.
   *
   * @param read how many elements further in the source
   * @param full how many elements further in the parameter
   */
  CastCheck plus(long read, long full) {
    return new CastCheck(
        parameter, start + full, master, module, weights.plus(read * module.bytes()), copies);
  }
}
