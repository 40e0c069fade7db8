package io.github.reshard.checkpoint.plan;

import java.io.Serializable;
import java.util.List;
import java.util.function.ToLongFunction;

/**
 * How the elements of a slice lie where they are not one run in the source, the target and the full
 * tensor alike: rows that are, a fixed distance apart, and rows of such rows. A box that is cut out
 * of another one is such a nest, however many rows it has, and a run of its elements is a window of
 * it. All numbers are elements.
 *
 * <p>Rows follow one another in the same order on each of the three sides and do not overlap.
 *
 * @param width the bytes of an element, where it is written
 * @param length the elements of a row
 * @param steps how rows follow one another, the outermost first
 * @param first how many elements of the nest lie before the slice's first one
 */
public record Rows(int width, long length, List<Step> steps, long first) implements Serializable {
  /**
   * The same again, some distance on.
   *
   * @param count how many times
   * @param source the distance in the source
   * @param target the distance in the target
   * @param tensor the distance in the full tensor
   */
  public record Step(long count, long source, long target, long tensor) implements Serializable {}

  public Rows {
    steps = List.copyOf(steps);
  }

  /** Hears of rows. */
  public interface Row {
    /**
     * Elements that are one run on each side.
     *
     * @param source how far behind the slice's first element the row begins in the source
     * @param target how far in the target
     * @param tensor how far in the full tensor
     * @param elements how many
     */
    void row(long source, long target, long tensor, long elements);
  }

  /** How far the element {@code index} of the slice is behind its first one in the source. */
  public long source(long index) {
    return distance(index, Step::source);
  }

  /** How far the element {@code index} of the slice is behind its first one in the target. */
  public long target(long index) {
    return distance(index, Step::target);
  }

  /** How far the element {@code index} of the slice is behind its first one in the full tensor. */
  public long tensor(long index) {
    return distance(index, Step::tensor);
  }

  /** How many elements of the slice begin less than {@code distance} behind its first one. */
  public long beforeTarget(long distance) {
    long rest = distance + position(first, Step::target);
    long inner = length;
    for (Step step : steps) {
      inner *= step.count();
    }
    long before = 0;
    for (Step step : steps) {
      inner /= step.count();
      long whole = Math.min(rest / step.target(), step.count() - 1);
      before += whole * inner;
      rest -= whole * step.target();
      if (rest >= step.target()) { // behind the last of them
        return before + inner - first;
      }
    }
    return before + Math.min(rest, length) - first;
  }

  /** The rows of {@code elements} elements of the slice, in order, those at the ends cut. */
  public void forEach(long from, long elements, Row out) {
    long source = position(first, Step::source);
    long target = position(first, Step::target);
    long tensor = position(first, Step::tensor);
    long end = first + from + elements;
    for (long at = first + from; at < end; ) {
      long in = at % length;
      long run = Math.min(length - in, end - at);
      long s = in - source;
      long t = in - target;
      long f = in - tensor;
      long row = at / length;
      for (int k = steps.size() - 1; k >= 0; k--) {
        Step step = steps.get(k);
        long index = row % step.count();
        row /= step.count();
        s += index * step.source();
        t += index * step.target();
        f += index * step.tensor();
      }
      out.row(s, t, f, run);
      at += run;
    }
  }

  /** The same without the slice's first {@code elements}. */
  Rows behind(long elements) {
    return new Rows(width, length, steps, first + elements);
  }

  private long distance(long index, ToLongFunction<Step> side) {
    return position(first + index, side) - position(first, side);
  }

  /** Where an element of the nest lies, counted from the nest's first one. */
  private long position(long index, ToLongFunction<Step> side) {
    long position = index % length;
    long row = index / length;
    for (int k = steps.size() - 1; k >= 0; k--) {
      Step step = steps.get(k);
      position += row % step.count() * side.applyAsLong(step);
      row /= step.count();
    }
    return position;
  }
}
