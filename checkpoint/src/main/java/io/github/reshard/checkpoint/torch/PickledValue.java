package io.github.reshard.checkpoint.torch;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/**
 * A value in a pickle with the way to it, so that what is missing or of the wrong kind is refused
 * by name.
 *
 * @param file the file, for messages
 * @param path the way from the root, such as {@code optimizer_state_dict.param_groups[0]}
 * @param node the value
 */
public record PickledValue(String file, String path, PyObject node) {
  public static PickledValue root(String file, PyObject root) {
    return new PickledValue(file, "", root);
  }

  /** Where this is, for a message. */
  public String where() {
    return path.isEmpty() ? file : file + ", " + path;
  }

  public RefusedException refused(String problem) {
    return new RefusedException(where(), problem);
  }

  /** The entries of a dict or of a dict subclass. */
  public PyEntries entries() {
    if (node instanceof PyDict dict) {
      return dict.entries();
    }
    if (node instanceof PyInstance instance && instance.isOf("collections", "OrderedDict")) {
      return instance.dictItems();
    }
    throw refused("expected a dict, found " + describe());
  }

  public boolean isDict() {
    return node instanceof PyDict
        || (node instanceof PyInstance instance && instance.isOf("collections", "OrderedDict"));
  }

  /** The value of a key that must be there. */
  public PickledValue get(String key) {
    return find(key)
        .orElseThrow(() -> refused("expected the key '" + key + "', found only " + keys() + "."));
  }

  /** The value of a key that may be there. */
  public Optional<PickledValue> find(String key) {
    PyObject value = entries().get(key);
    return value == null ? Optional.empty() : Optional.of(child(key, value));
  }

  /** As {@link #find}, without those that are {@code None}. */
  public Optional<PickledValue> findPresent(String key) {
    return find(key).filter(v -> v.node != PyNone.NONE);
  }

  private PickledValue child(String key, PyObject value) {
    return new PickledValue(file, path.isEmpty() ? key : path + "." + key, value);
  }

  private String keys() {
    List<String> keys = new ArrayList<>();
    for (PyEntries.Entry entry : entries()) {
      keys.add(keyText(entry.key()));
    }
    return keys.toString();
  }

  private static String keyText(PyObject key) {
    return key instanceof PyStr s
        ? s.value()
        : key instanceof PyInt i ? i.value().toString() : key.getClass().getSimpleName();
  }

  /** A key and its value, with the way to it. */
  public record Entry(String key, PickledValue value) {}

  /** All entries in pickled order; a key that is not text appears as its text. */
  public List<Entry> children() {
    List<Entry> children = new ArrayList<>();
    for (PyEntries.Entry entry : entries()) {
      String key = keyText(entry.key());
      children.add(new Entry(key, child(key, entry.value())));
    }
    return children;
  }

  public boolean isList() {
    return node instanceof PyList || node instanceof PyTuple;
  }

  public boolean isText() {
    return node instanceof PyStr;
  }

  /** The items of a list or tuple. */
  public List<PickledValue> items() {
    List<PyObject> items;
    if (node instanceof PyList list) {
      items = list.items();
    } else if (node instanceof PyTuple tuple) {
      items = tuple.items();
    } else {
      throw refused("expected a list, found " + describe());
    }
    List<PickledValue> values = new ArrayList<>(items.size());
    for (int i = 0; i < items.size(); i++) {
      values.add(new PickledValue(file, path + "[" + i + "]", items.get(i)));
    }
    return values;
  }

  public long asLong() {
    if (node instanceof PyInt i && i.isLong()) {
      return i.longValue();
    }
    throw refused("expected a whole number, found " + describe());
  }

  public int asInt() {
    long value = asLong();
    if (value < Integer.MIN_VALUE || value > Integer.MAX_VALUE) {
      throw refused("expected a number of 32 bits, found " + value);
    }
    return (int) value;
  }

  /** A whole number that may be written as a float, as JSON's {@code 1e8} is. */
  public Optional<Long> asWhole() {
    if (node instanceof PyFloat f
        && f.value() == Math.rint(f.value())
        && Math.abs(f.value()) < 1e18) {
      return Optional.of((long) f.value());
    }
    return node instanceof PyInt i && i.isLong() ? Optional.of(i.longValue()) : Optional.empty();
  }

  public String asString() {
    if (node instanceof PyStr s) {
      return s.value();
    }
    throw refused("expected text, found " + describe());
  }

  public boolean isTrue() {
    return node == PyBool.TRUE;
  }

  public Optional<TensorNode> asTensor() {
    try {
      return TensorNode.of(node);
    } catch (RefusedException e) {
      throw new RefusedException(where(), e.getMessage(), e);
    }
  }

  public TensorNode tensor() {
    return asTensor().orElseThrow(() -> refused("expected a tensor, found " + describe()));
  }

  /** A {@code torch.Size}, in elements per dimension. */
  public List<Long> asSize() {
    if (node instanceof PyInstance size
        && size.isOf("torch", "Size")
        && size.args() instanceof PyTuple args
        && args.size() == 1
        && args.get(0) instanceof PyTuple) {
      return new PickledValue(file, path, args.get(0)).asSize();
    }
    List<Long> dimensions = new ArrayList<>();
    // Eight bytes an element are the most that PyTorch's real types take.
    long most = Long.MAX_VALUE / 16;
    for (PickledValue item : items()) {
      long dimension = item.asLong();
      if (dimension < 0) {
        throw item.refused("expected a dimension of at least 0, found " + dimension);
      }
      dimensions.add(dimension);
      most = dimension == 0 ? most : most / dimension;
      if (most == 0) {
        throw item.refused("expected the shape of a tensor, found one of more than 2^59 elements");
      }
    }
    return dimensions;
  }

  /** What kind of value this is, in Python's words. */
  public String describe() {
    if (node instanceof PyInstance instance) {
      return "an object of " + instance.callable();
    }
    if (node instanceof PyInt i) {
      return "the number " + i.value();
    }
    if (node instanceof PyFloat f) {
      return "the number " + f.value();
    }
    if (node instanceof PyStr s) {
      return "the text '" + s.value() + "'";
    }
    if (node instanceof PyBool b) {
      return b == PyBool.TRUE ? "True" : "False";
    }
    if (node == PyNone.NONE) {
      return "None";
    }
    return node.getClass()
        .getSimpleName()
        .replaceFirst("^Py", "a ")
        .toLowerCase(java.util.Locale.ROOT);
  }
}
