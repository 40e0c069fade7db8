package io.github.reshard.checkpoint.pickle;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Deque;
import java.util.HashSet;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.function.BiPredicate;

/**
 * Whether two object graphs mean the same: equal values of equal types in equal order, and the same
 * sharing of mutable objects. Whether two references to an immutable value (text, number, tuple,
 * class) are one object is not meaning.
 */
public final class PyEquality {
  /**
   * What the order of the keys of a plain {@code dict} counts for; in an {@code OrderedDict} it
   * always matters.
   */
  public enum KeyOrder {
    MATTERS,
    IGNORED_IN_DICTS
  }

  /**
   * @param step a text, the key of an entry, or the number of an item: made a text when it is shown
   */
  private record Path(Path parent, Object step) {
    String text() {
      if (step instanceof PyObject key) {
        return stepOf(key);
      }
      return step instanceof Integer item ? "[" + item + "]" : (String) step;
    }
  }

  private record Pair(PyObject a, PyObject b, Path path) {}

  private record Seen(PyObject other, Path path) {}

  private static final class PairKey {
    private final PyObject a;
    private final PyObject b;

    PairKey(PyObject a, PyObject b) {
      this.a = a;
      this.b = b;
    }

    @Override
    public int hashCode() {
      return 31 * System.identityHashCode(a) + System.identityHashCode(b);
    }

    @Override
    @SuppressWarnings("ReferenceEquality") // Nodes are compared as objects here.
    public boolean equals(Object other) {
      return other instanceof PairKey that && that.a == a && that.b == b;
    }
  }

  private final BiPredicate<PyObject, PyObject> same;
  private final KeyOrder keyOrder;
  private final Deque<Pair> todo = new ArrayDeque<>();
  private final IdentityHashMap<PyObject, Seen> ofA = new IdentityHashMap<>();
  private final IdentityHashMap<PyObject, Seen> ofB = new IdentityHashMap<>();
  private final Set<PairKey> compared = new HashSet<>();

  private PyEquality(BiPredicate<PyObject, PyObject> same, KeyOrder keyOrder) {
    this.same = same;
    this.keyOrder = keyOrder;
  }

  /** Where the two first differ, as {@code a.b[0]: 1 vs 2}; empty if they do not. */
  public static Optional<String> firstDifference(PyObject a, PyObject b) {
    return firstDifference(a, b, (x, y) -> false);
  }

  /**
   * As {@link #firstDifference(PyObject, PyObject)}.
   *
   * @param same may declare two nodes equal, with all that is below them
   */
  public static Optional<String> firstDifference(
      PyObject a, PyObject b, BiPredicate<PyObject, PyObject> same) {
    return firstDifference(a, b, same, KeyOrder.MATTERS);
  }

  /** As {@link #firstDifference(PyObject, PyObject, BiPredicate)}. */
  public static Optional<String> firstDifference(
      PyObject a, PyObject b, BiPredicate<PyObject, PyObject> same, KeyOrder keyOrder) {
    return new PyEquality(same, keyOrder).run(a, b);
  }

  private Optional<String> run(PyObject a, PyObject b) {
    todo.push(new Pair(a, b, null));
    while (!todo.isEmpty()) {
      Pair pair = todo.pop();
      Optional<String> difference = compare(pair.a(), pair.b(), pair.path());
      if (difference.isPresent()) {
        return difference;
      }
    }
    return Optional.empty();
  }

  private Optional<String> compare(PyObject a, PyObject b, Path path) {
    if (same.test(a, b)) {
      return Optional.empty();
    }
    if (a.getClass() != b.getClass()) {
      return differ(path, describe(a), describe(b));
    }
    if (isAtom(a)) {
      return atomsEqual(a, b) ? Optional.empty() : differ(path, describe(a), describe(b));
    }
    if (a instanceof PyTuple || a instanceof PyPersistentId) {
      if (!compared.add(new PairKey(a, b))) {
        return Optional.empty();
      }
    } else {
      Seen seenA = ofA.get(a);
      Seen seenB = ofB.get(b);
      if (seenA != null || seenB != null) {
        return seenTogether(seenA, b)
            ? Optional.empty()
            : differ(
                path,
                seenA == null ? "an object of its own" : "the object at " + render(seenA.path()),
                seenB == null ? "an object of its own" : "the object at " + render(seenB.path()));
      }
      ofA.put(a, new Seen(b, path));
      ofB.put(b, new Seen(a, path));
    }
    List<Pair> children = new ArrayList<>();
    Optional<String> difference = compareNodes(a, b, path, children);
    for (int i = children.size() - 1; i >= 0; i--) {
      todo.push(children.get(i));
    }
    return difference;
  }

  @SuppressWarnings("ReferenceEquality") // Nodes are compared as objects here.
  private static boolean seenTogether(Seen seenA, PyObject b) {
    return seenA != null && seenA.other() == b;
  }

  private Optional<String> compareNodes(PyObject a, PyObject b, Path path, List<Pair> children) {
    if (a instanceof PyBytes x && b instanceof PyBytes y) {
      return Arrays.equals(x.value(), y.value()) && x.mutable() == y.mutable()
          ? Optional.empty()
          : differ(path, describe(a), describe(b));
    }
    if (a instanceof PyTuple x && b instanceof PyTuple y) {
      return compareItems(x.items(), y.items(), path, children);
    }
    if (a instanceof PyList x && b instanceof PyList y) {
      return compareItems(x.items(), y.items(), path, children);
    }
    if (a instanceof PySet x && b instanceof PySet y) {
      if (x.frozen() != y.frozen()) {
        return differ(path, describe(a), describe(b));
      }
      return compareItems(x.items(), y.items(), path, children);
    }
    if (a instanceof PyDict x && b instanceof PyDict y) {
      List<PyEntries.Entry> other =
          keyOrder == KeyOrder.MATTERS
              ? y.entries().list()
              : inOrderOf(x.entries().list(), y.entries().list());
      return compareEntries(x.entries().list(), other, path, children);
    }
    if (a instanceof PyPersistentId x && b instanceof PyPersistentId y) {
      children.add(new Pair(x.id(), y.id(), new Path(path, ".id")));
      return Optional.empty();
    }
    PyInstance x = (PyInstance) a;
    PyInstance y = (PyInstance) b;
    if (x.construction() != y.construction() || (x.state() == null) != (y.state() == null)) {
      return differ(path, describe(a), describe(b));
    }
    children.add(new Pair(x.callable(), y.callable(), new Path(path, ".callable")));
    children.add(new Pair(x.args(), y.args(), new Path(path, ".args")));
    if (x.kwargs() != null && y.kwargs() != null) {
      children.add(new Pair(x.kwargs(), y.kwargs(), new Path(path, ".kwargs")));
    }
    Optional<String> difference = Optional.empty();
    if (x.hasItems() || y.hasItems()) {
      difference = compareItems(x.listItems(), y.listItems(), path, children);
    }
    if (difference.isEmpty() && (x.hasItems() || y.hasItems())) {
      difference = compareEntries(x.dictItems().list(), y.dictItems().list(), path, children);
    }
    if (x.state() != null) {
      Path below = x.state() instanceof PyDict ? path : new Path(path, ".state");
      children.add(new Pair(x.state(), y.state(), below));
    }
    return difference;
  }

  private static Optional<String> compareItems(
      List<PyObject> a, List<PyObject> b, Path path, List<Pair> children) {
    if (a.size() != b.size()) {
      return differ(path, a.size() + " items", b.size() + " items");
    }
    for (int i = 0; i < a.size(); i++) {
      children.add(new Pair(a.get(i), b.get(i), new Path(path, i)));
    }
    return Optional.empty();
  }

  private static Optional<String> compareEntries(
      List<PyEntries.Entry> a, List<PyEntries.Entry> b, Path path, List<Pair> children) {
    for (int i = 0; i < Math.min(a.size(), b.size()); i++) {
      PyObject keyA = a.get(i).key();
      PyObject keyB = b.get(i).key();
      if (isAtom(keyA)
          && isAtom(keyB)
          && !(keyA.getClass() == keyB.getClass() && atomsEqual(keyA, keyB))) {
        return differ(new Path(path, ".key " + i), describe(keyA), describe(keyB));
      }
      Path step = new Path(path, keyA);
      if (!isAtom(keyA) || !isAtom(keyB)) {
        children.add(new Pair(keyA, keyB, new Path(path, ".key " + i)));
      }
      children.add(new Pair(a.get(i).value(), b.get(i).value(), step));
    }
    return a.size() == b.size()
        ? Optional.empty()
        : differ(path, keys(a, b.size()), keys(b, a.size()));
  }

  private static String keys(List<PyEntries.Entry> entries, int common) {
    return entries.size() <= common
        ? entries.size() + " entries"
        : "%d entries (%s)".formatted(entries.size(), describe(entries.get(common).key()));
  }

  /** The entries of {@code b} in the order in which {@code a} has their keys, others last. */
  private static List<PyEntries.Entry> inOrderOf(List<PyEntries.Entry> a, List<PyEntries.Entry> b) {
    // They mostly are in the same order, or in another from some place on.
    int same = 0;
    while (same < Math.min(a.size(), b.size())
        && haveEqualAtoms(a.get(same).key(), b.get(same).key())) {
      same++;
    }
    if (same == b.size()) {
      return b;
    }
    List<PyEntries.Entry> rest = new ArrayList<>(b.subList(same, b.size()));
    List<PyEntries.Entry> ordered = new ArrayList<>(b.subList(0, same));
    for (PyEntries.Entry entry : a.subList(same, a.size())) {
      for (int i = 0; i < rest.size(); i++) {
        if (haveEqualAtoms(entry.key(), rest.get(i).key())) {
          ordered.add(rest.remove(i));
          break;
        }
      }
    }
    ordered.addAll(rest);
    return ordered;
  }

  private static boolean haveEqualAtoms(PyObject a, PyObject b) {
    return isAtom(b) && a.getClass() == b.getClass() && atomsEqual(a, b);
  }

  private static boolean isAtom(PyObject node) {
    return node instanceof PyNone
        || node instanceof PyBool
        || node instanceof PyInt
        || node instanceof PyFloat
        || node instanceof PyStr
        || node instanceof PyGlobal
        || (node instanceof PyBytes b && !b.mutable());
  }

  private static boolean atomsEqual(PyObject a, PyObject b) {
    if (a instanceof PyInt x && b instanceof PyInt y) {
      return (x.isLong() && y.isLong())
          ? x.longValue() == y.longValue()
          : x.value().equals(y.value());
    }
    if (a instanceof PyFloat x && b instanceof PyFloat y) {
      return Double.doubleToRawLongBits(x.value()) == Double.doubleToRawLongBits(y.value());
    }
    if (a instanceof PyStr x && b instanceof PyStr y) {
      return x.value().equals(y.value());
    }
    if (a instanceof PyBytes x && b instanceof PyBytes y) {
      return !y.mutable() && Arrays.equals(x.value(), y.value());
    }
    if (a instanceof PyGlobal x && b instanceof PyGlobal y) {
      return x.is(y.module(), y.name());
    }
    return a.equals(b); // None, True and False are enum constants.
  }

  private static Optional<String> differ(Path path, String a, String b) {
    return Optional.of(render(path) + ": " + a + " vs " + b);
  }

  private static String stepOf(PyObject key) {
    if (key instanceof PyStr s) {
      return s.value().matches("[\\p{L}_][\\p{L}\\p{N}_]*")
          ? "." + s.value()
          : "['" + s.value() + "']";
    }
    return "[" + describe(key) + "]";
  }

  private static String render(Path path) {
    List<String> steps = new ArrayList<>();
    for (Path at = path; at != null; at = at.parent()) {
      steps.add(at.text());
    }
    Collections.reverse(steps);
    String text = String.join("", steps);
    return text.isEmpty() ? "the root" : text.startsWith(".") ? text.substring(1) : text;
  }

  /** The node in a few words, for messages. */
  static String describe(PyObject node) {
    if (node instanceof PyNone) {
      return "None";
    }
    if (node instanceof PyBool b) {
      return b == PyBool.TRUE ? "True" : "False";
    }
    if (node instanceof PyInt i) {
      return i.value().bitLength() < 512 ? i.value().toString() : "an int of many digits";
    }
    if (node instanceof PyFloat f) {
      return Double.toString(f.value());
    }
    if (node instanceof PyStr s) {
      String text = s.value();
      return "'" + (text.length() <= 80 ? text : text.substring(0, 80) + "...") + "'";
    }
    if (node instanceof PyBytes b) {
      return "%s of %d bytes".formatted(b.mutable() ? "a bytearray" : "bytes", b.value().length);
    }
    if (node instanceof PyTuple t) {
      return "a tuple of " + t.size();
    }
    if (node instanceof PyList l) {
      return "a list of " + l.size();
    }
    if (node instanceof PyDict d) {
      return "a dict of " + d.entries().size();
    }
    if (node instanceof PySet s) {
      return "a %s of %d".formatted(s.frozen() ? "frozenset" : "set", s.items().size());
    }
    if (node instanceof PyGlobal g) {
      return g.toString();
    }
    if (node instanceof PyPersistentId) {
      return "a persistent id";
    }
    PyInstance instance = (PyInstance) node;
    return "an object of "
        + (instance.callable() instanceof PyGlobal g ? g.toString() : "a nested class")
        + (instance.state() == null ? "" : " with state");
  }
}
