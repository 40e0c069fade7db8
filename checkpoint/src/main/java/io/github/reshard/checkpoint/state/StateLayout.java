package io.github.reshard.checkpoint.state;

import java.io.Serializable;
import java.util.List;

/** Which elements of one optimizer state each rank holds, and where. */
public interface StateLayout extends Serializable {
  /**
   * Where the elements of {@code parameter} lie, by {@code parameterStart} and then by rank; none
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
