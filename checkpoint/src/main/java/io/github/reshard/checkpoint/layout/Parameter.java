package io.github.reshard.checkpoint.layout;

import java.io.Serializable;
import java.util.Arrays;

/**
 * A trainable parameter of the model.
 *
 * @param name the name in {@code param_shapes}
 * @param shape the full shape, elements per dimension
 * @param group the index of its param group
 */
public record Parameter(String name, long[] shape, int group) implements Serializable {
  /** How many elements it has. */
  public long elements() {
    long product = 1;
    for (long dimension : shape) {
      product = Math.multiplyExact(product, dimension);
    }
    return product;
  }

  @Override
  public boolean equals(Object other) {
    return other instanceof Parameter that
        && name.equals(that.name)
        && group == that.group
        && Arrays.equals(shape, that.shape);
  }

  @Override
  public int hashCode() {
    return name.hashCode() * 31 + Arrays.hashCode(shape);
  }

  @Override
  public String toString() {
    return name + Arrays.toString(shape);
  }
}
