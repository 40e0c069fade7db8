package io.github.reshard.checkpoint.pickle;

import java.util.List;

/** A Python {@code tuple}. */
public final class PyTuple implements PyObject {
  private final List<PyObject> items;

  public PyTuple(List<? extends PyObject> items) {
    this.items = List.copyOf(items);
  }

  public static PyTuple of(PyObject... items) {
    return new PyTuple(List.of(items));
  }

  public List<PyObject> items() {
    return items;
  }

  public PyObject get(int index) {
    return items.get(index);
  }

  public int size() {
    return items.size();
  }
}
