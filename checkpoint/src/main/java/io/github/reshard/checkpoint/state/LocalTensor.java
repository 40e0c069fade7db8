package io.github.reshard.checkpoint.state;

import java.io.Serializable;
import java.util.ArrayList;
import java.util.List;

/**
 * What one holder calls a parameter: a tensor of its own shape that is made of boxes of the full
 * one. A tensor-parallel rank has a box of a matrix; of a fused one, such as query, key and value,
 * it has several, one behind the other. Who holds a parameter whole has one box, all of it.
 *
 * <p>A ZeRO partition is no box: it holds a run of a local tensor, its elements in C order. So what
 * a rank of any layout holds of a parameter is a run of boxes, and that is the form in which
 * layouts answer: an {@link Extent} is the run, its local tensor says what it is a run of.
 *
 * @param shape its own shape
 * @param blocks the boxes that it is made of; elements in none of them are padding
 */
public record LocalTensor(List<Long> shape, List<Block> blocks) implements Serializable {
  /**
   * A box of the full tensor.
   *
   * @param full where it is in the full tensor
   * @param at its first element in the local tensor, by dimension
   */
  public record Block(Box full, List<Long> at) implements Serializable {
    public Block {
      at = List.copyOf(at);
    }

    /** Where it is in the local tensor. */
    public Box local() {
      return new Box(at, full.sizes());
    }
  }

  public LocalTensor {
    shape = List.copyOf(shape);
    blocks = List.copyOf(blocks);
    for (Block block : blocks) {
      if (!block.local().fits(shape)) {
        throw new IllegalArgumentException("%s is not within %s".formatted(block, shape));
      }
    }
  }

  /** A parameter of this shape that is held whole. */
  public static LocalTensor whole(List<Long> shape) {
    Box all = Box.whole(shape);
    return new LocalTensor(shape, List.of(new Block(all, all.offsets())));
  }

  /**
   * A run of its elements in C order.
   *
   * @param start the first one
   * @param elements how many
   */
  public record Run(long start, long elements) implements Serializable {
    /** What of it lies in the elements from {@code begin} on; nothing may be left. */
    public Run within(long begin, long length) {
      long from = Math.max(start, begin);
      return new Run(from, Math.max(0, Math.min(start + elements, begin + length) - from));
    }
  }

  /**
   * The elements that are in no block, in order: rows behind the end of a vocabulary.
   *
   * @throws IllegalArgumentException if they are no rows
   */
  public List<Run> padding() {
    long inBlocks = blocks.stream().mapToLong(block -> block.full().elements()).sum();
    if (inBlocks == elements()) {
      return List.of();
    }
    long row = elements() / shape.get(0);
    List<Run> runs = new ArrayList<>();
    long at = 0;
    for (Block block : blocks) {
      Box rows = block.local();
      if (rows.elements() != rows.sizes().get(0) * row || rows.offsets().get(0) * row < at) {
        throw new IllegalArgumentException("the padding of " + this + " is no rows");
      }
      long begin = rows.offsets().get(0) * row;
      if (begin > at) {
        runs.add(new Run(at, begin - at));
      }
      at = begin + rows.elements();
    }
    if (at < elements()) {
      runs.add(new Run(at, elements() - at));
    }
    return runs;
  }

  /** How many elements it has, padding included. */
  public long elements() {
    return Box.elements(shape);
  }
}
