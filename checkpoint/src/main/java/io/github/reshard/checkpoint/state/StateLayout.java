package io.github.reshard.checkpoint.state;

import java.io.Serializable;
import java.util.List;

/**
 * Which elements of one optimizer state each rank holds, and where. Ranks that divide a parameter
 * among them hold runs of one tensor, their {@link LocalTensor}: the parameter itself, or where
 * tensor parallelism cut it first, boxes of it.
 */
public interface StateLayout extends Serializable {
  /** How many local tensors there are of each parameter. */
  default int holders() {
    return 1;
  }

  /** Whose local tensor {@code rank} holds runs of. */
  default int holderOf(int rank) {
    return 0;
  }

  /** What the ranks of {@code holder} have of {@code parameter} together. */
  LocalTensor localTensor(int holder, int parameter);

  /**
   * Which copy of {@code parameter} the local tensor of {@code holder} is, or is a part of: local
   * tensors of one copy make the parameter, each element once. Copies are alike: every local tensor
   * of another copy is one of copy 0, too.
   *
   * @return 0 unless it is there more than once; less than 0 if {@code holder} has nothing of it
   */
  default int copyOf(int holder, int parameter) {
    return 0;
  }

  /**
   * Where the elements of {@code parameter} lie, by holder, {@code parameterStart} and rank; none
   * if it has no elements.
   */
  List<Extent> extentsOf(int parameter);

  /**
   * What {@code rank} holds in {@code bucket}, by {@code bucketStart}; what lies between is
   * padding.
   */
  List<Extent> extentsIn(int rank, int bucket);

  /** Elements that {@code rank} holds in {@code bucket}, padding included. */
  long elementsIn(int rank, int bucket);
}
