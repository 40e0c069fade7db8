package io.github.reshard.checkpoint.pickle;

import java.util.ArrayList;
import java.util.List;

/** A Python {@code list}. Mutable, as it is in Python: a list may contain itself. */
public final class PyList implements PyObject {
  private final List<PyObject> items = new ArrayList<>();

  public static PyList of(List<? extends PyObject> items) {
    PyList list = new PyList();
    list.items.addAll(items);
    return list;
  }

  /** The live list of items. */
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
