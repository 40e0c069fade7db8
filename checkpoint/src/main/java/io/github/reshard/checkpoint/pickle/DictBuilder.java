package io.github.reshard.checkpoint.pickle;

/** A new Python dict, entry by entry. */
public final class DictBuilder {
  private static final PyGlobal ORDERED_DICT = new PyGlobal("collections", "OrderedDict");

  private final PyDict dict = new PyDict();

  /** An empty {@code collections.OrderedDict}; its entries are its items. */
  public static PyInstance orderedDict() {
    return PyInstance.reduce(ORDERED_DICT, PyTuple.of());
  }

  /** Adds an entry. */
  public DictBuilder put(String key, PyObject value) {
    dict.entries().add(new PyStr(key), value);
    return this;
  }

  /** Adds the entry that another dict has, or {@code value} if it has none. */
  public DictBuilder take(PyEntries from, String key, PyObject value) {
    for (PyEntries.Entry entry : from) {
      if (entry.key() instanceof PyStr name && name.value().equals(key)) {
        dict.entries().add(name, entry.value());
        return this;
      }
    }
    return put(key, value);
  }

  /** Adds an entry as it stands in another dict. */
  public DictBuilder add(PyEntries.Entry entry) {
    dict.entries().list().add(entry);
    return this;
  }

  /** The dict. */
  public PyDict dict() {
    return dict;
  }
}
