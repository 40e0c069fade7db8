package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ZeroLayout;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;

/**
 * ZeRO-3: each parameter is cut into one piece a rank, all of the same length, the last ones padded
 * (DeepSpeed 0.19.6, runtime/zero/partition_parameters.py, {@code _partition_param}). The pieces of
 * consecutive parameters of a param group make a sub-group, which is closed when its pieces reach
 * {@code sub_group_size} (runtime/zero/stage3.py, {@code _create_fp16_sub_groups}), so that its
 * boundaries depend on the number of ranks. Every piece brings its own padding; there is none
 * between or after them.
 */
public final class ShardedLayout implements ZeroLayout {
  private static final long serialVersionUID = 1L;

  private final int worldSize;
  private final List<Parameter> parameters;
  private final long[] elements;
  private final long[] bucketStart;
  private final int[] bucketOf;
  private final int[] firstOfBucket;
  private final int[] groupOfBucket;
  private final long[] bucketElements;

  /**
   * @param worldSize data-parallel ranks
   * @param parameters the trainable parameters, group after group, each group in its own order
   * @param subGroupSize {@code sub_group_size}, in elements of a rank
   */
  public ShardedLayout(int worldSize, List<Parameter> parameters, long subGroupSize) {
    this.worldSize = worldSize;
    this.parameters = List.copyOf(parameters);
    int n = parameters.size();
    this.elements = new long[n];
    this.bucketStart = new long[n];
    this.bucketOf = new int[n];
    List<Integer> firsts = new ArrayList<>();
    List<Long> sizes = new ArrayList<>();
    int from = 0;
    while (from < n) {
      int group = parameters.get(from).group();
      int to = from;
      long whole = 0;
      while (to < n && parameters.get(to).group() == group) {
        elements[to] = parameters.get(to).elements();
        whole = Math.addExact(whole, piece(to));
        to++;
      }
      if (from > 0 && parameters.get(from - 1).group() > group) {
        throw new IllegalArgumentException("the parameters are not group after group");
      }
      long size = 0;
      boolean open = false;
      for (int p = from; p < to; p++) {
        if (!open) {
          firsts.add(p);
          size = 0;
          open = true;
        }
        bucketOf[p] = firsts.size() - 1;
        bucketStart[p] = size;
        size += piece(p);
        if (p == to - 1 || (subGroupSize < whole && size >= subGroupSize)) {
          sizes.add(size);
          open = false;
        }
      }
      from = to;
    }
    int buckets = firsts.size();
    this.firstOfBucket = new int[buckets + 1];
    this.groupOfBucket = new int[buckets];
    this.bucketElements = new long[buckets];
    for (int b = 0; b < buckets; b++) {
      firstOfBucket[b] = firsts.get(b);
      groupOfBucket[b] = parameters.get(firsts.get(b)).group();
      bucketElements[b] = sizes.get(b);
    }
    firstOfBucket[buckets] = n;
  }

  /**
   * A layout that is known to be of this kind.
   *
   * @throws IllegalArgumentException if it is not
   */
  public static ShardedLayout of(ZeroLayout layout) {
    if (layout instanceof ShardedLayout of) {
      return of;
    }
    throw new IllegalArgumentException("a file of ZeRO-3 cannot hold " + layout);
  }

  @Override
  public int worldSize() {
    return worldSize;
  }

  @Override
  public List<Parameter> parameters() {
    return parameters;
  }

  @Override
  public int buckets() {
    return groupOfBucket.length;
  }

  @Override
  public int groupOf(int bucket) {
    return groupOfBucket[bucket];
  }

  @Override
  public boolean holds(int rank, int bucket) {
    return rank < worldSize;
  }

  /** Elements of the partition of {@code bucket}, padding included, on every rank that has one. */
  public long bucketElements(int bucket) {
    return bucketElements[bucket];
  }

  @Override
  public long elementsIn(int rank, int bucket) {
    return holds(rank, bucket) ? bucketElements(bucket) : 0;
  }

  /** The index of the first parameter of {@code bucket}; that after the last for all of them. */
  public int firstOf(int bucket) {
    return firstOfBucket[bucket];
  }

  /** The sub-groups of {@code group}, in order. */
  public List<Integer> bucketsOf(int group) {
    List<Integer> buckets = new ArrayList<>();
    for (int b = 0; b < groupOfBucket.length; b++) {
      if (groupOfBucket[b] == group) {
        buckets.add(b);
      }
    }
    return buckets;
  }

  /** Whether both have the same parameters in the same sub-groups, whatever their length. */
  public boolean hasBoundariesOf(ShardedLayout other) {
    return Arrays.equals(firstOfBucket, other.firstOfBucket);
  }

  /** Elements of one rank's piece of {@code parameter}, padding included. */
  public long piece(int parameter) {
    return -Math.floorDiv(-elements[parameter], (long) worldSize);
  }

  @Override
  public List<Extent> extentsOf(int parameter) {
    List<Extent> extents = new ArrayList<>();
    long piece = piece(parameter);
    long start = 0;
    for (int rank = 0; start < elements[parameter]; rank++) {
      extents.add(extent(parameter, rank, start, piece));
      start += piece;
    }
    return extents;
  }

  @Override
  public List<Extent> extentsIn(int rank, int bucket) {
    List<Extent> extents = new ArrayList<>();
    for (int p = firstOfBucket[bucket]; p < firstOfBucket[bucket + 1]; p++) {
      long piece = piece(p);
      long start = rank * piece;
      if (start < elements[p]) {
        extents.add(extent(p, rank, start, piece));
      }
    }
    return extents;
  }

  private Extent extent(int parameter, int rank, long start, long piece) {
    return new Extent(
        parameter,
        start,
        rank,
        bucketOf[parameter],
        bucketStart[parameter],
        Math.min(piece, elements[parameter] - start));
  }

  @Override
  public boolean equals(Object other) {
    return other instanceof ShardedLayout that
        && worldSize == that.worldSize
        && parameters.equals(that.parameters)
        && Arrays.equals(firstOfBucket, that.firstOfBucket);
  }

  @Override
  public int hashCode() {
    return Objects.hash(worldSize, parameters, Arrays.hashCode(firstOfBucket));
  }
}
