package io.github.reshard.checkpoint.copy;

import io.github.reshard.checkpoint.plan.Rows;
import java.util.Arrays;

/** Some rows of a slice, counted in elements from its first one; used again for the next ones. */
final class RowTable {
  /** Enough that a call's cost vanishes, few enough to stay small. */
  static final int MOST = 1 << 14;

  private long[] source = new long[256];
  private long[] target = new long[256];
  private long[] tensor = new long[256];
  private long[] elements = new long[256];
  private int count;

  /** How many elements from {@code from} on may be asked for at once, at least one. */
  static long most(Rows rows) {
    return rows.length() > Long.MAX_VALUE / MOST ? Long.MAX_VALUE : rows.length() * (MOST - 1);
  }

  void fill(Rows rows, long from, long wanted) {
    count = 0;
    rows.forEach(
        from,
        wanted,
        (s, t, f, length) -> {
          if (count == source.length) {
            source = Arrays.copyOf(source, 2 * count);
            target = Arrays.copyOf(target, 2 * count);
            tensor = Arrays.copyOf(tensor, 2 * count);
            elements = Arrays.copyOf(elements, 2 * count);
          }
          source[count] = s;
          target[count] = t;
          tensor[count] = f;
          elements[count++] = length;
        });
  }

  int count() {
    return count;
  }

  long source(int row) {
    return source[row];
  }

  long target(int row) {
    return target[row];
  }

  long tensor(int row) {
    return tensor[row];
  }

  int elements(int row) {
    return (int) elements[row];
  }
}
