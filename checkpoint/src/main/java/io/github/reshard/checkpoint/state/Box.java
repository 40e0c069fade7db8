package io.github.reshard.checkpoint.state;

import java.io.Serializable;
import java.util.Collections;
import java.util.List;

/**
 * A box of a tensor: in each dimension the elements from an offset on. A tensor without dimensions
 * has one box, of its one element.
 *
 * @param offsets the first element, by dimension
 * @param sizes how many elements, by dimension
 */
public record Box(List<Long> offsets, List<Long> sizes) implements Serializable {
  public Box {
    offsets = List.copyOf(offsets);
    sizes = List.copyOf(sizes);
    if (offsets.size() != sizes.size()) {
      throw new IllegalArgumentException("offsets %s, sizes %s".formatted(offsets, sizes));
    }
    for (int d = 0; d < sizes.size(); d++) {
      if (offsets.get(d) < 0 || sizes.get(d) < 0) {
        throw new IllegalArgumentException("offsets %s, sizes %s".formatted(offsets, sizes));
      }
    }
  }

  /** All of a tensor of this shape. */
  public static Box whole(List<Long> shape) {
    return new Box(Collections.nCopies(shape.size(), 0L), shape);
  }

  /** How many dimensions the tensor has. */
  public int dimensions() {
    return sizes.size();
  }

  /** How many elements it holds. */
  public long elements() {
    return elements(sizes);
  }

  /** Elements of a tensor of this shape. */
  public static long elements(List<Long> shape) {
    long elements = 1;
    for (long size : shape) {
      elements = Math.multiplyExact(elements, size);
    }
    return elements;
  }

  /** Whether it lies in a tensor of this shape. */
  public boolean fits(List<Long> shape) {
    if (shape.size() != dimensions()) {
      return false;
    }
    for (int d = 0; d < dimensions(); d++) {
      if (offsets.get(d) + sizes.get(d) > shape.get(d)) {
        return false;
      }
    }
    return true;
  }

  /** Whether these boxes together are all of a tensor of this shape, each element once. */
  public static boolean tile(List<Long> shape, List<Box> boxes) {
    long elements = 0;
    for (int i = 0; i < boxes.size(); i++) {
      Box box = boxes.get(i);
      if (!box.fits(shape)) {
        return false;
      }
      for (Box other : boxes.subList(0, i)) {
        if (box.meets(other)) {
          return false;
        }
      }
      elements += box.elements();
    }
    return elements == elements(shape);
  }

  /** Whether an element is in both. */
  public boolean meets(Box other) {
    for (int d = 0; d < dimensions(); d++) {
      if (offsets.get(d) + sizes.get(d) <= other.offsets.get(d)
          || other.offsets.get(d) + other.sizes.get(d) <= offsets.get(d)) {
        return false;
      }
    }
    return elements() > 0 && other.elements() > 0;
  }
}
