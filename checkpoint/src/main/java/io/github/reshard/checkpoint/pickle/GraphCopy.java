package io.github.reshard.checkpoint.pickle;

import java.util.IdentityHashMap;

/**
 * A copy of a part of a pickle, as if Python had made the same objects a second time: containers
 * and instances are new, text, numbers, classes and sets are shared.
 */
public final class GraphCopy {
  private final IdentityHashMap<PyObject, PyObject> copies = new IdentityHashMap<>();

  private GraphCopy() {}

  public static PyObject of(PyObject node) {
    return new GraphCopy().copy(node);
  }

  private PyObject copy(PyObject node) {
    PyObject known = copies.get(node);
    if (known != null) {
      return known;
    }
    if (node instanceof PyList list) {
      PyList made = new PyList();
      copies.put(node, made);
      list.items().forEach(item -> made.items().add(copy(item)));
      return made;
    }
    if (node instanceof PyDict dict) {
      PyDict made = new PyDict();
      copies.put(node, made);
      copyEntries(dict.entries(), made.entries());
      return made;
    }
    if (node instanceof PyTuple tuple) {
      PyTuple made = new PyTuple(tuple.items().stream().map(this::copy).toList());
      copies.put(node, made);
      return made;
    }
    if (node instanceof PyPersistentId reference) {
      PyPersistentId made = new PyPersistentId(reference.id());
      copies.put(node, made);
      return made;
    }
    if (node instanceof PyInstance instance) {
      PyInstance made =
          new PyInstance(
              instance.construction(),
              instance.callable(),
              copy(instance.args()),
              instance.kwargs());
      copies.put(node, made);
      instance.listItems().forEach(item -> made.listItems().add(copy(item)));
      copyEntries(instance.dictItems(), made.dictItems());
      if (instance.state() != null) {
        made.setState(copy(instance.state()));
      }
      return made;
    }
    return node;
  }

  private void copyEntries(PyEntries from, PyEntries to) {
    for (PyEntries.Entry entry : from) {
      to.add(entry.key(), copy(entry.value()));
    }
  }
}
