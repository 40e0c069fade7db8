package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.LocalTensor;
import java.util.ArrayList;
import java.util.List;

/**
 * What two holders of a parameter have in common, as elements to move: boxes are intersected here
 * and nowhere else.
 *
 * <p>C order is the order of coordinates, in a box as in the tensor around it. So of the elements
 * that two boxes share, those in a run of the one and in a run of the other are a run again: what a
 * pair of ZeRO partitions of a pair of boxes shares is one window of one nest of rows, whatever the
 * strides.
 */
final class Overlap {
  private Overlap() {}

  /**
   * A run of a local tensor's elements in C order.
   *
   * @param start the first element
   * @param elements how many
   */
  record Run(long start, long elements) {
    long end() {
      return start + elements;
    }
  }

  /**
   * Elements that a run of the source and one of the target share.
   *
   * @param from the index of the source's run
   * @param to the index of the target's run
   * @param source their first element in the source's local tensor
   * @param target their first element in the target's local tensor
   * @param tensor their first element in the full tensor
   * @param elements how many
   * @param rows how they lie, or null if they are one run on each side
   */
  record Shared(
      int from, int to, long source, long target, long tensor, long elements, Rows rows) {}

  /** A run of the elements that two blocks share. */
  private record Window(int run, long begin, long end) {}

  /**
   * All elements that some run of the source shares with some run of the target.
   *
   * @param shape the full tensor's
   * @param source the source's local tensor
   * @param from its runs, in order
   * @param target the target's local tensor
   * @param to its runs, in order
   * @param width the bytes of an element of the target
   */
  static List<Shared> of(
      List<Long> shape,
      LocalTensor source,
      List<Run> from,
      LocalTensor target,
      List<Run> to,
      int width) {
    List<Shared> shared = new ArrayList<>();
    for (LocalTensor.Block s : source.blocks()) {
      for (LocalTensor.Block t : target.blocks()) {
        Box common = intersection(s.full(), t.full());
        if (common.elements() > 0) {
          new Pair(shape, source.shape(), s, target.shape(), t, common)
              .add(from, to, width, shared);
        }
      }
    }
    return shared;
  }

  /** What both hold, which may be nothing. */
  static Box intersection(Box a, Box b) {
    List<Long> offsets = new ArrayList<>();
    List<Long> sizes = new ArrayList<>();
    for (int d = 0; d < a.dimensions(); d++) {
      long begin = Math.max(a.offsets().get(d), b.offsets().get(d));
      long end =
          Math.min(a.offsets().get(d) + a.sizes().get(d), b.offsets().get(d) + b.sizes().get(d));
      offsets.add(begin);
      sizes.add(Math.max(0, end - begin));
    }
    return new Box(offsets, sizes);
  }

  /** How many elements of {@code box} come before element {@code position} of the tensor. */
  static long before(List<Long> shape, Box box, long position) {
    long before = 0;
    long rest = position;
    long around = Box.elements(shape);
    long inner = box.elements();
    if (position >= around) {
      return inner;
    }
    for (int d = 0; d < shape.size(); d++) {
      around /= shape.get(d);
      inner /= box.sizes().get(d);
      long in = rest / around - box.offsets().get(d);
      rest %= around;
      before += Math.max(0, Math.min(in, box.sizes().get(d))) * inner;
      if (in < 0 || in >= box.sizes().get(d)) {
        return before;
      }
    }
    return before;
  }

  /** Two blocks, and the box that they share, where it lies on each side. */
  private static final class Pair {
    private final Side source;
    private final Side target;
    private final Side tensor;
    private final List<Long> sizes;
    private long length = 1;
    private final List<Rows.Step> steps = new ArrayList<>();

    Pair(
        List<Long> shape,
        List<Long> sourceShape,
        LocalTensor.Block s,
        List<Long> targetShape,
        LocalTensor.Block t,
        Box common) {
      source = new Side(sourceShape, moved(common, s));
      target = new Side(targetShape, moved(common, t));
      tensor = new Side(shape, common);
      sizes = common.sizes();
      nest();
    }

    private static Box moved(Box common, LocalTensor.Block block) {
      List<Long> offsets = new ArrayList<>();
      for (int d = 0; d < common.dimensions(); d++) {
        offsets.add(common.offsets().get(d) - block.full().offsets().get(d) + block.at().get(d));
      }
      return new Box(offsets, common.sizes());
    }

    /** From the last dimension to the first; those that are one run on all sides become one. */
    private void nest() {
      long s = 1;
      long t = 1;
      long f = 1;
      for (int d = sizes.size() - 1; d >= 0; d--) {
        long count = sizes.get(d);
        Rows.Step last = steps.isEmpty() ? new Rows.Step(length, 1, 1, 1) : steps.get(0);
        if (count == 1) {
          // Nothing follows.
        } else if (s == last.count() * last.source()
            && t == last.count() * last.target()
            && f == last.count() * last.tensor()) {
          if (steps.isEmpty()) {
            length *= count;
          } else {
            steps.set(
                0,
                new Rows.Step(last.count() * count, last.source(), last.target(), last.tensor()));
          }
        } else {
          steps.add(0, new Rows.Step(count, s, t, f));
        }
        s *= source.shape().get(d);
        t *= target.shape().get(d);
        f *= tensor.shape().get(d);
      }
    }

    void add(List<Run> from, List<Run> to, int width, List<Shared> out) {
      List<Window> sources = windows(source, from);
      List<Window> targets = windows(target, to);
      for (int i = 0, j = 0; i < sources.size() && j < targets.size(); ) {
        Window s = sources.get(i);
        Window t = targets.get(j);
        long begin = Math.max(s.begin(), t.begin());
        long end = Math.min(s.end(), t.end());
        if (begin < end) {
          out.add(
              new Shared(
                  s.run(),
                  t.run(),
                  source.position(begin),
                  target.position(begin),
                  tensor.position(begin),
                  end - begin,
                  begin / length == (end - 1) / length
                      ? null
                      : new Rows(width, length, steps, begin)));
        }
        if (s.end() <= t.end()) {
          i++;
        }
        if (t.end() <= s.end()) {
          j++;
        }
      }
    }

    private static List<Window> windows(Side side, List<Run> runs) {
      List<Window> windows = new ArrayList<>();
      for (int r = 0; r < runs.size(); r++) {
        long begin = before(side.shape(), side.box(), runs.get(r).start());
        long end = before(side.shape(), side.box(), runs.get(r).end());
        if (begin < end) {
          windows.add(new Window(r, begin, end));
        }
      }
      return windows;
    }
  }

  /** A box in a tensor of some shape. */
  private record Side(List<Long> shape, Box box) {
    /** Which element of the tensor is element {@code index} of the box. */
    long position(long index) {
      long position = 0;
      long around = 1;
      long rest = index;
      for (int d = shape.size() - 1; d >= 0; d--) {
        long size = box.sizes().get(d);
        position += (box.offsets().get(d) + rest % size) * around;
        rest /= size;
        around *= shape.get(d);
      }
      return position;
    }
  }
}
