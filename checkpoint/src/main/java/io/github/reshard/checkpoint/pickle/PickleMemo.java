package io.github.reshard.checkpoint.pickle;

import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;

/**
 * What a pickle has memoized so far. CPython numbers its memo from 0 on without gaps, so an array
 * holds it; numbers far beyond that, which a stream may use as well, are in a map, so that memory
 * stays linear in the length of the input.
 */
final class PickleMemo {
  private PyObject[] dense = new PyObject[64];
  private final Map<Long, PyObject> far = new HashMap<>();
  private int size;

  /** How many numbers are in use. */
  int size() {
    return size;
  }

  /** What the number stands for, or null. */
  PyObject get(long index) {
    if (index >= 0 && index < dense.length && dense[(int) index] != null) {
      return dense[(int) index];
    }
    return far.isEmpty() ? null : far.get(index);
  }

  /** Lets the number stand for {@code node} from now on. */
  void put(long index, PyObject node) {
    if (get(index) == null) {
      size++;
    }
    if (index >= 0 && index < 2L * (size + 64)) {
      if (index >= dense.length) {
        dense = Arrays.copyOf(dense, (int) Math.max(index + 1, dense.length + dense.length / 2));
      }
      dense[(int) index] = node;
    } else {
      far.put(index, node);
    }
  }
}
