package io.github.reshard.checkpoint.openstate;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.DictBuilder;
import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PySet;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * Python's plain values in JSON, and back to the same values: None, bool, int, float, str, list and
 * a dict with texts as keys are what JSON has. All else is an object of one key that begins with
 * {@code !}: {@code {"!tuple": [...]}}, {@code !set}, {@code !frozenset}, {@code !dict} and {@code
 * !ordered_dict} (pairs of key and value), {@code !float} (inf, -inf, nan, -0.0), {@code !size} (a
 * torch.Size), {@code !dtype}, and {@code !loss_scaler} with the class of DeepSpeed's loss scaler
 * and its attributes. No other class is taken from a file: a name in JSON never becomes a name that
 * somebody's {@code torch.load} would call.
 */
final class PlainValues {
  private static final String SCALERS = "deepspeed.runtime.fp16.loss_scaler";
  private static final Set<String> SCALER_CLASSES = Set.of("LossScaler", "DynamicLossScaler");
  private static final String MARK = "!";
  private static final String TUPLE = "!tuple";
  private static final String SET = "!set";
  private static final String FROZEN_SET = "!frozenset";
  private static final String DICT = "!dict";
  private static final String ORDERED_DICT = "!ordered_dict";
  private static final String FLOAT = "!float";
  private static final String SIZE = "!size";
  private static final String DTYPE = "!dtype";
  private static final String SCALER = "!loss_scaler";
  private static final int DEEPEST = 20;

  private PlainValues() {}

  /** JSON's null is a value as well, so that what there is none of needs a class of its own. */
  record Said(Object json) {}

  /** The value in JSON, if it has a place there. */
  static Optional<Said> json(PyObject value) {
    try {
      return Optional.of(new Said(said(value, 0)));
    } catch (NotPlain e) {
      return Optional.empty();
    }
  }

  private static final class NotPlain extends Exception {
    private static final long serialVersionUID = 1L;
  }

  private static Object said(PyObject value, int depth) throws NotPlain {
    if (depth > DEEPEST) {
      throw new NotPlain(); // or it holds itself
    }
    if (value == PyNone.NONE) {
      return null;
    }
    if (value instanceof PyBool) {
      return value == PyBool.TRUE;
    }
    if (value instanceof PyInt number) {
      return new BigDecimal(number.value());
    }
    if (value instanceof PyFloat number) {
      return said(number.value());
    }
    if (value instanceof PyStr text) {
      return text.value();
    }
    if (value instanceof PyList list) {
      return all(list.items(), depth);
    }
    if (value instanceof PyTuple tuple) {
      return Map.of(TUPLE, all(tuple.items(), depth));
    }
    if (value instanceof PySet set) {
      return Map.of(set.frozen() ? FROZEN_SET : SET, all(set.items(), depth));
    }
    if (value instanceof PyDict dict) {
      return dict(dict.entries(), depth);
    }
    return instance(value, depth);
  }

  private static Object said(double number) {
    if (Double.isFinite(number) && Double.doubleToRawLongBits(number) != Long.MIN_VALUE) {
      // The shortest text that is this number, as Python writes it, but never an integer's.
      BigDecimal decimal = new BigDecimal(Double.toString(number));
      return decimal.scale() <= 0 ? decimal.setScale(1) : decimal;
    }
    String text = Double.isNaN(number) ? "nan" : number == 0 ? "-0.0" : number > 0 ? "inf" : "-inf";
    return Map.of(FLOAT, text);
  }

  private static List<Object> all(List<PyObject> items, int depth) throws NotPlain {
    List<Object> list = new ArrayList<>();
    for (PyObject item : items) {
      list.add(said(item, depth + 1));
    }
    return list;
  }

  private static Object dict(PyEntries entries, int depth) throws NotPlain {
    Map<String, Object> map = new LinkedHashMap<>();
    for (PyEntries.Entry entry : entries) {
      if (!(entry.key() instanceof PyStr key)
          || key.value().startsWith(MARK)
          || map.containsKey(key.value())) {
        return Map.of(DICT, pairs(entries, depth));
      }
      map.put(key.value(), said(entry.value(), depth + 1));
    }
    return map;
  }

  private static List<Object> pairs(PyEntries entries, int depth) throws NotPlain {
    List<Object> pairs = new ArrayList<>();
    for (PyEntries.Entry entry : entries) {
      pairs.add(all(List.of(entry.key(), entry.value()), depth));
    }
    return pairs;
  }

  private static Object instance(PyObject value, int depth) throws NotPlain {
    if (value instanceof PyGlobal global
        && global.module().equals("torch")
        && DType.ofTorchName(global.name()).isPresent()) {
      return Map.of(DTYPE, global.name());
    }
    if (!(value instanceof PyInstance made)) {
      throw new NotPlain();
    }
    boolean bare = made.listItems().isEmpty() && made.kwargs() == null;
    if (bare && made.isOf("collections", "OrderedDict") && hasNoArgs(made)) {
      return Map.of(ORDERED_DICT, pairs(made.dictItems(), depth));
    }
    if (bare && made.isOf("torch", "Size") && made.args() instanceof PyTuple args) {
      if (args.size() == 1 && args.get(0) instanceof PyTuple sizes) {
        return Map.of(SIZE, all(sizes.items(), depth));
      }
    }
    for (String builtins : List.of("__builtin__", "builtins")) {
      for (String kind : List.of("set", "frozenset")) {
        if (bare
            && made.isOf(builtins, kind)
            && made.args() instanceof PyTuple args
            && args.size() == 1
            && args.get(0) instanceof PyList items) {
          return Map.of(MARK + kind, all(items.items(), depth));
        }
      }
    }
    boolean scaler =
        made.callable() instanceof PyGlobal of
            && of.module().equals(SCALERS)
            && SCALER_CLASSES.contains(of.name());
    if (bare
        && scaler
        && made.construction() == PyInstance.Construction.NEWOBJ
        && hasNoArgs(made)
        && made.dictItems().size() == 0
        && made.state() instanceof PyDict state) {
      return Map.of(
          SCALER, List.of(((PyGlobal) made.callable()).name(), dict(state.entries(), depth + 1)));
    }
    throw new NotPlain();
  }

  private static boolean hasNoArgs(PyInstance made) {
    return made.args() instanceof PyTuple args && args.size() == 0;
  }

  /**
   * The value that JSON says.
   *
   * @param where it says so, for messages
   * @throws RefusedException if it is none of the above
   */
  static PyObject value(String where, Object json) {
    if (json == null) {
      return PyNone.NONE;
    }
    if (json instanceof Boolean truth) {
      return PyBool.of(truth);
    }
    if (json instanceof BigDecimal number) {
      return number(where, number);
    }
    if (json instanceof String text) {
      return new PyStr(text);
    }
    if (json instanceof List<?> list) {
      return PyList.of(values(where, list));
    }
    Map<?, ?> map = (Map<?, ?>) json;
    if (map.size() == 1 && ((String) map.keySet().iterator().next()).startsWith(MARK)) {
      Map.Entry<?, ?> only = map.entrySet().iterator().next();
      return marked(where, (String) only.getKey(), only.getValue());
    }
    DictBuilder dict = new DictBuilder();
    map.forEach((key, item) -> dict.put((String) key, value(where + "." + key, item)));
    return dict.dict();
  }

  private static PyObject number(String where, BigDecimal number) {
    if (number.scale() == 0 && number.precision() <= 60) {
      return PyInt.of(number.toBigInteger());
    }
    double value = number.doubleValue();
    if (number.scale() == 0 || Double.isInfinite(value)) {
      throw new RefusedException(where, "the number %s is too large.".formatted(number));
    }
    return new PyFloat(value); // 1e8 has no fraction either, but json.load makes it a float
  }

  private static List<PyObject> values(String where, List<?> list) {
    List<PyObject> values = new ArrayList<>();
    for (int i = 0; i < list.size(); i++) {
      values.add(value(where + "[" + i + "]", list.get(i)));
    }
    return values;
  }

  private static PyObject marked(String where, String mark, Object content) {
    return switch (mark) {
      case TUPLE -> new PyTuple(values(where, list(where, content)));
      case SET, FROZEN_SET ->
          // As protocol 2 has it, which the files that are made of this are of.
          PyInstance.reduce(
              new PyGlobal("__builtin__", mark.substring(MARK.length())),
              PyTuple.of(PyList.of(values(where, list(where, content)))));
      case DICT -> {
        PyDict dict = new PyDict();
        addPairs(where, content, dict.entries());
        yield dict;
      }
      case ORDERED_DICT -> {
        PyInstance dict = DictBuilder.orderedDict();
        addPairs(where, content, dict.dictItems());
        yield dict;
      }
      case FLOAT ->
          switch (content instanceof String text ? text : "") {
            case "inf" -> new PyFloat(Double.POSITIVE_INFINITY);
            case "-inf" -> new PyFloat(Double.NEGATIVE_INFINITY);
            case "nan" -> new PyFloat(Double.NaN);
            case "-0.0" -> new PyFloat(-0.0);
            default -> throw refused(where, mark, content);
          };
      case SIZE -> {
        List<PyObject> sizes = values(where, list(where, content));
        if (!sizes.stream()
            .allMatch(n -> n instanceof PyInt size && size.value().bitLength() < Long.SIZE)) {
          throw refused(where, mark, content);
        }
        yield TensorNode.size(
            sizes.stream().mapToLong(n -> ((PyInt) n).value().longValueExact()).toArray());
      }
      case DTYPE -> {
        if (!(content instanceof String name) || DType.ofTorchName(name).isEmpty()) {
          throw refused(where, mark, content);
        }
        yield new PyGlobal("torch", name);
      }
      case SCALER -> {
        List<?> parts = list(where, content);
        if (parts.size() != 2
            || !(parts.get(0) instanceof String name)
            || !SCALER_CLASSES.contains(name)
            || !(value(where, parts.get(1)) instanceof PyDict state)) {
          throw refused(where, mark, content);
        }
        yield PyInstance.newObject(new PyGlobal(SCALERS, name), state);
      }
      default -> throw refused(where, mark, content);
    };
  }

  private static void addPairs(String where, Object content, PyEntries into) {
    for (Object pair : list(where, content)) {
      List<PyObject> both = values(where, list(where, pair));
      if (both.size() != 2 || !isKey(both.get(0))) {
        throw refused(where, "pair", pair);
      }
      into.add(both.get(0), both.get(1));
    }
  }

  /** A list is no key in Python. */
  private static boolean isKey(PyObject key) {
    return !(key instanceof PyList || key instanceof PyDict || key instanceof PySet);
  }

  private static List<?> list(String where, Object content) {
    if (content instanceof List<?> list) {
      return list;
    }
    throw refused(where, "list", content);
  }

  private static RefusedException refused(String where, String what, Object content) {
    return new RefusedException(
        where,
        "expected a value as docs/open-state.md has it, found %s: %s."
            .formatted(what, String.valueOf(content)));
  }

  /** The value of an option; a list is a tuple if {@code tuple}. */
  static PyObject option(String where, Object json, boolean tuple) {
    PyObject value = value(where, json);
    return tuple && value instanceof PyList list ? new PyTuple(list.items()) : value;
  }
}
