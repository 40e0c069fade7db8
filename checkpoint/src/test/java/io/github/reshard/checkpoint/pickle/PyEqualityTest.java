package io.github.reshard.checkpoint.pickle;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import java.util.Optional;
import org.junit.jupiter.api.Test;

class PyEqualityTest {
  @Test
  void theFirstDifferenceHasItsPath() {
    assertThat(PyEquality.firstDifference(checkpoint(0.01), checkpoint(0.02)))
        .contains("optimizer_state_dict.param_groups[0].lr: 0.01 vs 0.02");
    assertThat(PyEquality.firstDifference(checkpoint(0.01), checkpoint(0.01))).isEmpty();
  }

  private static PyObject checkpoint(double rate) {
    return dict(
        "step", PyInt.of(3),
        "optimizer_state_dict",
            dict("param_groups", PyList.of(List.of(dict("lr", new PyFloat(rate))))));
  }

  @Test
  void typesDiffer() {
    assertThat(PyEquality.firstDifference(PyInt.of(1), PyBool.TRUE))
        .contains("the root: 1 vs True");
    assertThat(PyEquality.firstDifference(new PyFloat(0.0), new PyFloat(-0.0))).isPresent();
    assertThat(PyEquality.firstDifference(PyTuple.of(), new PyList())).isPresent();
  }

  @Test
  void aSharedListIsNotTwoEqualLists() {
    PyList list = new PyList();
    PyObject shared = PyTuple.of(list, list);
    PyObject apart = PyTuple.of(new PyList(), new PyList());

    assertThat(PyEquality.firstDifference(shared, apart))
        .contains("[1]: the object at [0] vs an object of its own");
    assertThat(PyEquality.firstDifference(apart, shared))
        .contains("[1]: an object of its own vs the object at [0]");
  }

  @Test
  void sharedTextMeansNothing() {
    PyStr text = new PyStr("a");
    assertThat(
            PyEquality.firstDifference(
                PyTuple.of(text, text), PyTuple.of(new PyStr("a"), new PyStr("a"))))
        .isEmpty();
  }

  @Test
  void cyclesEnd() {
    assertThat(PyEquality.firstDifference(loop(1), loop(1))).isEmpty();
    assertThat(PyEquality.firstDifference(loop(1), loop(2)))
        .contains("[0]: the object at the root vs an object of its own");
  }

  /** A list whose only item leads back to it over {@code length} lists. */
  private static PyList loop(int length) {
    PyList first = new PyList();
    PyList last = first;
    for (int i = 1; i < length; i++) {
      PyList next = new PyList();
      last.items().add(next);
      last = next;
    }
    last.items().add(first);
    return first;
  }

  @Test
  void keyOrderMattersUnlessItIsIgnored() {
    PyDict ab = dict("a", PyInt.of(1), "b", PyInt.of(2));
    PyDict ba = dict("b", PyInt.of(2), "a", PyInt.of(1));
    PyDict other = dict("b", PyInt.of(3), "a", PyInt.of(1));

    assertThat(PyEquality.firstDifference(ab, ba)).contains("key 0: 'a' vs 'b'");
    assertThat(ignoringOrder(ab, ba)).isEmpty();
    assertThat(ignoringOrder(ab, other)).contains("b: 2 vs 3");
    assertThat(ignoringOrder(ab, dict("a", PyInt.of(1)))).isPresent();
    assertThat(ignoringOrder(dict("a", PyInt.of(1)), ab)).isPresent();
  }

  private static Optional<String> ignoringOrder(PyObject a, PyObject b) {
    return PyEquality.firstDifference(a, b, (x, y) -> false, PyEquality.KeyOrder.IGNORED_IN_DICTS);
  }

  @Test
  void objectsDifferInClassItemsAndState() {
    PyInstance a = PyInstance.newObject(new PyGlobal("m", "A"), dict("x", PyInt.of(1)));
    PyInstance b = PyInstance.newObject(new PyGlobal("m", "B"), dict("x", PyInt.of(1)));
    PyInstance c = PyInstance.newObject(new PyGlobal("m", "A"), dict("x", PyInt.of(2)));

    assertThat(PyEquality.firstDifference(a, b)).contains("callable: m.A vs m.B");
    assertThat(PyEquality.firstDifference(a, c)).contains("x: 1 vs 2");
    c.setState(null);
    assertThat(PyEquality.firstDifference(a, c)).isPresent();
    b.dictItems().add(new PyStr("k"), PyNone.NONE);
    assertThat(
            PyEquality.firstDifference(
                b, PyInstance.newObject(new PyGlobal("m", "B"), dict("x", PyInt.of(1)))))
        .isPresent();
  }

  @Test
  void aPairMayBeDeclaredEqual() {
    assertThat(
            PyEquality.firstDifference(
                checkpoint(0.01),
                checkpoint(0.02),
                (x, y) -> x instanceof PyFloat && y instanceof PyFloat))
        .isEmpty();
  }

  private static PyDict dict(Object... keysAndValues) {
    PyDict dict = new PyDict();
    for (int i = 0; i < keysAndValues.length; i += 2) {
      dict.entries().add(new PyStr((String) keysAndValues[i]), (PyObject) keysAndValues[i + 1]);
    }
    return dict;
  }
}
