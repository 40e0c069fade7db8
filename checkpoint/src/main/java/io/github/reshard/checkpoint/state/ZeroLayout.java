package io.github.reshard.checkpoint.state;

import java.util.List;

/**
 * How the parameters of one model-parallel rank lie in the partitions of its data-parallel ranks: a
 * pure function of shapes, groups, config and world size, so that one class describes source and
 * target alike.
 */
public interface ZeroLayout extends StateLayout {
  /** The number of data-parallel ranks. */
  int worldSize();

  /** All parameters; an {@link Extent} names one by its index here. */
  List<Parameter> parameters();

  /** How many flat partitions each rank holds. */
  int buckets();

  /** The param group that {@code bucket} belongs to. */
  int groupOf(int bucket);

  /** Whether {@code rank} holds a partition of {@code bucket}. */
  boolean holds(int rank, int bucket);

  /**
   * Where the elements of {@code parameter} lie, by {@code parameterStart}, without gap or overlap.
   */
  @Override
  List<Extent> extentsOf(int parameter);

  /**
   * What {@code rank}'s partition of {@code bucket} holds, by {@code bucketStart}; what lies
   * between is padding.
   */
  @Override
  List<Extent> extentsIn(int rank, int bucket);

  /** Elements of {@code rank}'s partition of {@code bucket}, padding included. */
  @Override
  long elementsIn(int rank, int bucket);

  /** Whether what is counted as ranks are such, and not pieces that no rank holds. */
  default boolean isOfRanks() {
    return true;
  }

  /** How the local tensors of {@code holder} are partitioned among its data-parallel ranks. */
  default ZeroLayout ofHolder(int holder) {
    return this;
  }

  @Override
  default LocalTensor localTensor(int holder, int parameter) {
    return LocalTensor.whole(parameters().get(parameter).shape());
  }
}
