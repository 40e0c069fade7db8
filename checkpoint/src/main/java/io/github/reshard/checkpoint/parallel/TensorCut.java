package io.github.reshard.checkpoint.parallel;

import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.LocalTensor;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * How a parameter is cut among tensor-parallel ranks along one dimension: that of one matrix, or of
 * several that are fused, such as query, key and value, each cut by itself. What a rank has of them
 * lies end to end in its local tensor (DeepSpeed 0.19.8, module_inject/layers.py, {@code
 * _partition_logical_tensor}; checkpoint/ds_to_universal.py puts it together again).
 *
 * @param dimension which one: 0 for column parallelism and vocabularies, 1 for row parallelism
 * @param widths for each fused matrix the width of each rank's shard, in elements
 */
public record TensorCut(int dimension, List<List<Long>> widths) {
  /**
   * @throws IllegalArgumentException if the matrices are not cut among equally many ranks
   */
  public TensorCut {
    widths = widths.stream().map(List::copyOf).toList();
    if (widths.stream().map(List::size).distinct().count() != 1) {
      throw new IllegalArgumentException("widths of different numbers of ranks: " + widths);
    }
  }

  /** How many ranks there are. */
  public int ranks() {
    return widths.get(0).size();
  }

  /** How many elements the dimension has. */
  long size() {
    return widths.stream().flatMap(List::stream).mapToLong(Long::longValue).sum();
  }

  /**
   * What each rank has of a parameter of this shape.
   *
   * @throws IllegalArgumentException if the widths are not all of its dimension
   */
  public List<LocalTensor> of(List<Long> shape) {
    if (dimension >= shape.size() || size() != shape.get(dimension)) {
      throw new IllegalArgumentException(
          "the widths %s are not dimension %d of %s".formatted(widths, dimension, shape));
    }
    List<LocalTensor> locals = new ArrayList<>();
    for (int rank = 0; rank < ranks(); rank++) {
      locals.add(local(shape, rank));
    }
    return locals;
  }

  private LocalTensor local(List<Long> shape, int rank) {
    List<LocalTensor.Block> blocks =
        pieces(shape, rank).stream().filter(block -> block.full().elements() > 0).toList();
    long width = widths.stream().mapToLong(matrix -> matrix.get(rank)).sum();
    return new LocalTensor(with(shape, width), Blocks.joined(blocks));
  }

  /** What a rank has of each matrix, which may be nothing. */
  List<LocalTensor.Block> pieces(List<Long> shape, int rank) {
    List<LocalTensor.Block> pieces = new ArrayList<>();
    List<Long> none = Collections.nCopies(shape.size(), 0L);
    long begin = 0;
    long at = 0;
    for (List<Long> matrix : widths) {
      long before = matrix.subList(0, rank).stream().mapToLong(Long::longValue).sum();
      long width = matrix.get(rank);
      Box full = new Box(with(none, begin + before), with(shape, width));
      pieces.add(new LocalTensor.Block(full, with(none, at)));
      begin += matrix.stream().mapToLong(Long::longValue).sum();
      at += width;
    }
    return pieces;
  }

  private List<Long> with(List<Long> of, long value) {
    List<Long> changed = new ArrayList<>(of);
    changed.set(dimension, value);
    return changed;
  }
}
