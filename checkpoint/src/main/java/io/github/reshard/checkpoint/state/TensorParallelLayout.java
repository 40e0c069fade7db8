package io.github.reshard.checkpoint.state;

import java.util.ArrayList;
import java.util.List;

/**
 * Parameters that tensor parallelism cuts before ZeRO does: each tensor-parallel rank has a local
 * tensor of every parameter, which its data-parallel ranks partition as if it were the parameter.
 * Ranks are counted with the data-parallel one as the fastest: rank {@code t * dp + d}.
 */
public final class TensorParallelLayout implements ZeroLayout {
  private static final long serialVersionUID = 1L;

  private final List<Parameter> parameters;
  private final List<List<LocalTensor>> locals;
  private final List<ZeroLayout> layouts;
  private final int dataParallelRanks;

  /**
   * @param parameters the parameters with their full shapes
   * @param locals for each tensor-parallel rank its local tensor of each parameter
   * @param layouts for each tensor-parallel rank, how its local tensors are partitioned; all of as
   *     many ranks and buckets
   * @throws IllegalArgumentException if the boxes of a parameter are neither all of it, each
   *     element once, nor all of it on each rank
   */
  public TensorParallelLayout(
      List<Parameter> parameters,
      List<List<LocalTensor>> locals,
      List<? extends ZeroLayout> layouts) {
    this.parameters = List.copyOf(parameters);
    this.locals = locals.stream().map(List::copyOf).toList();
    this.layouts = List.copyOf(layouts);
    this.dataParallelRanks = layouts.get(0).worldSize();
    for (int t = 0; t < layouts.size(); t++) {
      for (int p = 0; p < parameters.size(); p++) {
        if (!layouts.get(t).parameters().get(p).shape().equals(locals.get(t).get(p).shape())) {
          throw new IllegalArgumentException(
              "%s of rank %d is laid out as %s and is %s"
                  .formatted(
                      parameters.get(p).name(),
                      t,
                      layouts.get(t).parameters().get(p).shape(),
                      locals.get(t).get(p).shape()));
        }
      }
    }
    for (int p = 0; p < parameters.size(); p++) {
      requireTiled(p);
    }
  }

  private void requireTiled(int parameter) {
    List<Long> shape = parameters.get(parameter).shape();
    List<Box> boxes = new ArrayList<>();
    for (List<LocalTensor> ofRank : locals) {
      List<Box> own = ofRank.get(parameter).blocks().stream().map(LocalTensor.Block::full).toList();
      boxes.addAll(own);
      if (isReplicated(parameter)) {
        break; // the others are alike
      }
    }
    if (!Box.tile(shape, boxes)) {
      throw new IllegalArgumentException(
          "%s are not all of %s %s once".formatted(boxes, parameters.get(parameter).name(), shape));
    }
  }

  @Override
  public int holders() {
    return layouts.size();
  }

  @Override
  public int holderOf(int rank) {
    return rank / dataParallelRanks;
  }

  @Override
  public LocalTensor localTensor(int holder, int parameter) {
    return locals.get(holder).get(parameter);
  }

  @Override
  public int copyOf(int holder, int parameter) {
    return isReplicated(parameter) ? holder : 0;
  }

  /** Whether each tensor-parallel rank has all of {@code parameter}. */
  private boolean isReplicated(int parameter) {
    LocalTensor whole = LocalTensor.whole(parameters.get(parameter).shape());
    return layouts.size() > 1
        && locals.stream().allMatch(ofRank -> ofRank.get(parameter).equals(whole));
  }

  /** How the local tensors of tensor-parallel rank {@code holder} are partitioned. */
  @Override
  public ZeroLayout ofHolder(int holder) {
    return layouts.get(holder);
  }

  @Override
  public int worldSize() {
    return layouts.size() * dataParallelRanks;
  }

  @Override
  public List<Parameter> parameters() {
    return parameters;
  }

  @Override
  public int buckets() {
    return layouts.get(0).buckets();
  }

  @Override
  public int groupOf(int bucket) {
    return layouts.get(0).groupOf(bucket);
  }

  @Override
  public boolean holds(int rank, int bucket) {
    return layouts.get(holderOf(rank)).holds(rank % dataParallelRanks, bucket);
  }

  @Override
  public long elementsIn(int rank, int bucket) {
    return layouts.get(holderOf(rank)).elementsIn(rank % dataParallelRanks, bucket);
  }

  @Override
  public List<Extent> extentsOf(int parameter) {
    List<Extent> extents = new ArrayList<>();
    for (int t = 0; t < layouts.size(); t++) {
      for (Extent extent : layouts.get(t).extentsOf(parameter)) {
        extents.add(of(t, extent));
      }
    }
    return extents;
  }

  @Override
  public List<Extent> extentsIn(int rank, int bucket) {
    int holder = holderOf(rank);
    return layouts.get(holder).extentsIn(rank % dataParallelRanks, bucket).stream()
        .map(extent -> of(holder, extent))
        .toList();
  }

  private Extent of(int holder, Extent extent) {
    return new Extent(
        extent.parameter(),
        extent.parameterStart(),
        holder * dataParallelRanks + extent.rank(),
        extent.bucket(),
        extent.bucketStart(),
        extent.elements());
  }
}
