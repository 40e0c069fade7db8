package io.github.reshard.checkpoint.state;

import java.io.Serializable;
import java.util.Arrays;
import java.util.List;

/**
 * A trainable parameter of the model.
 *
 * @param name the name in {@code param_shapes}
 * @param shape the full shape, elements per dimension
 * @param group the index of its param group
 */
public record Parameter(String name, List<Long> shape, int group) implements Serializable {
  public Parameter {
    shape = List.copyOf(shape);
  }

  /** How many elements it has. */
  public long elements() {
    long elements = 1;
    for (long dimension : shape) {
      elements = Math.multiplyExact(elements, dimension);
    }
    return elements;
  }

  /** Whether a tensor of {@code dimensions} has this parameter's shape. */
  public boolean hasShape(long[] dimensions) {
    return shape.equals(Arrays.stream(dimensions).boxed().toList());
  }
}
