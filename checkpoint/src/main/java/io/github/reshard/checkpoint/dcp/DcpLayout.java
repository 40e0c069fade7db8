package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ZeroLayout;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;
import java.util.OptionalLong;

/**
 * How parameters lie in the chunks of a distributed checkpoint. Who saved a chunk does not matter:
 * the first chunk of each parameter is rank 0's here, the second rank 1's, and every parameter is a
 * bucket of its own.
 *
 * <p>FSDP2 cuts along the first dimension unless it is told otherwise, so that every chunk is a run
 * of the parameter's elements, as a ZeRO partition is. If one of them is not, all are boxes.
 */
public final class DcpLayout implements ZeroLayout {
  private static final long serialVersionUID = 1L;

  private final List<Parameter> parameters;
  private final List<List<Box>> boxes;
  private final boolean runs;

  /**
   * @param parameters all of them, in full shape
   * @param boxes for each the boxes of its chunks, which hold each element once
   */
  public DcpLayout(List<Parameter> parameters, List<List<Box>> boxes) {
    this.parameters = List.copyOf(parameters);
    this.boxes = boxes.stream().map(List::copyOf).toList();
    boolean all = true;
    for (int p = 0; p < parameters.size(); p++) {
      for (Box box : boxes.get(p)) {
        all &= start(parameters.get(p).shape(), box).isPresent();
      }
    }
    this.runs = all;
  }

  /** The first element of a box that is a run of the elements of a tensor of {@code shape}. */
  public static OptionalLong start(List<Long> shape, Box box) {
    long start = 0;
    boolean several = false;
    for (int d = 0; d < shape.size(); d++) {
      start = start * shape.get(d) + box.offsets().get(d);
      if (several && !box.sizes().get(d).equals(shape.get(d))) {
        return OptionalLong.empty();
      }
      several |= box.sizes().get(d) > 1;
    }
    return OptionalLong.of(start);
  }

  /** Whether every chunk is a run of the elements of its parameter. */
  public boolean isOfRuns() {
    return runs;
  }

  /** They are chunks. */
  @Override
  public boolean isOfRanks() {
    return false;
  }

  @Override
  public List<Parameter> parameters() {
    return parameters;
  }

  @Override
  public int worldSize() {
    return Math.max(1, boxes.stream().mapToInt(List::size).max().orElse(1));
  }

  @Override
  public int holders() {
    return runs ? 1 : worldSize();
  }

  @Override
  public int holderOf(int rank) {
    return runs ? 0 : rank;
  }

  @Override
  public LocalTensor localTensor(int holder, int parameter) {
    if (runs) {
      return LocalTensor.whole(parameters.get(parameter).shape());
    }
    if (holder >= boxes.get(parameter).size()) {
      return new LocalTensor(List.of(0L), List.of());
    }
    Box box = boxes.get(parameter).get(holder);
    List<Long> origin = Collections.nCopies(box.dimensions(), 0L);
    return new LocalTensor(box.sizes(), List.of(new LocalTensor.Block(box, origin)));
  }

  @Override
  public int buckets() {
    return parameters.size();
  }

  @Override
  public int groupOf(int bucket) {
    return parameters.get(bucket).group();
  }

  @Override
  public boolean holds(int rank, int bucket) {
    return rank < boxes.get(bucket).size();
  }

  @Override
  public long elementsIn(int rank, int bucket) {
    return holds(rank, bucket) ? boxes.get(bucket).get(rank).elements() : 0;
  }

  @Override
  public List<Extent> extentsOf(int parameter) {
    List<Extent> extents = new ArrayList<>();
    for (int chunk = 0; chunk < boxes.get(parameter).size(); chunk++) {
      extents.add(extent(parameter, chunk));
    }
    if (runs) {
      extents.sort(Comparator.comparingLong(Extent::parameterStart));
    }
    return extents;
  }

  private Extent extent(int parameter, int chunk) {
    Box box = boxes.get(parameter).get(chunk);
    long start = runs ? start(parameters.get(parameter).shape(), box).orElseThrow() : 0;
    return new Extent(parameter, start, chunk, parameter, 0, box.elements());
  }

  @Override
  public List<Extent> extentsIn(int rank, int bucket) {
    return holds(rank, bucket) ? List.of(extent(bucket, rank)) : List.of();
  }
}
