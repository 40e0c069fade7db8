package io.github.reshard.checkpoint.state;

import java.util.ArrayList;
import java.util.List;

/**
 * Where a state lies that is not cut: each rank holds the whole of every parameter that its
 * partition touches, end to end in the order of the partition and without padding. Ranks that share
 * a parameter hold a copy each, and a rank whose partition is all padding holds nothing.
 *
 * <p>So DeepSpeed keeps Muon's momentum in ZeRO-1 and 2, because the update needs whole matrices
 * (DeepSpeed 0.18.9, 0.19.6 and 0.19.8, runtime/zero/stage_1_and_2.py, {@code get_flat_partition}).
 *
 * @param partitions how the master weights are partitioned
 */
public record WholeParameters(ZeroLayout partitions) implements StateLayout {
  @Override
  public LocalTensor localTensor(int holder, int parameter) {
    return partitions.localTensor(holder, parameter);
  }

  @Override
  public List<Extent> extentsIn(int rank, int bucket) {
    List<Extent> whole = new ArrayList<>();
    long at = 0;
    for (Extent touched : partitions.extentsIn(rank, bucket)) {
      long elements = partitions.parameters().get(touched.parameter()).elements();
      whole.add(new Extent(touched.parameter(), 0, rank, bucket, at, elements));
      at += elements;
    }
    return whole;
  }

  /** A copy for each rank that touches {@code parameter}, by rank. */
  @Override
  public List<Extent> extentsOf(int parameter) {
    List<Extent> copies = new ArrayList<>();
    for (Extent part : partitions.extentsOf(parameter)) {
      for (Extent whole : extentsIn(part.rank(), part.bucket())) {
        if (whole.parameter() == parameter) {
          copies.add(whole);
        }
      }
    }
    return copies;
  }

  @Override
  public long elementsIn(int rank, int bucket) {
    return extentsIn(rank, bucket).stream().mapToLong(Extent::elements).sum();
  }
}
