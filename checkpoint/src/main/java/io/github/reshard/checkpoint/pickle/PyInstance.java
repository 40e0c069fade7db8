package io.github.reshard.checkpoint.pickle;

import java.util.ArrayList;
import java.util.List;

/**
 * An object that a callable made, with what was done to it afterwards, in the order in which
 * CPython's {@code save_reduce} writes it: construction, list items ({@code APPENDS}), dict items
 * ({@code SETITEMS}), state ({@code BUILD}).
 */
public final class PyInstance implements PyObject {
  /** How the object comes to be. */
  public enum Construction {
    /** {@code callable(*args)}. */
    REDUCE,
    /** {@code cls.__new__(cls, *args)}. */
    NEWOBJ,
    /** {@code cls.__new__(cls, *args, **kwargs)}. */
    NEWOBJ_EX
  }

  private final Construction construction;
  private final PyObject callable;
  private PyObject args;
  private final PyObject kwargs;

  /** Null while nobody asked for it: a tensor has neither list items nor dict items. */
  private List<PyObject> listItems;

  /** As {@link #listItems}. */
  private PyEntries dictItems;

  private PyObject state;
  private boolean memoized = true;

  public PyInstance(Construction construction, PyObject callable, PyObject args, PyObject kwargs) {
    this.construction = construction;
    this.callable = callable;
    this.args = args;
    this.kwargs = kwargs;
  }

  /** As read from a stream, not yet followed by a memo opcode. */
  static PyInstance read(
      Construction construction, PyObject callable, PyTuple args, PyObject kwargs) {
    PyInstance made = new PyInstance(construction, callable, args, kwargs);
    made.memoized = false;
    return made;
  }

  /** {@code callable(*args)}. */
  public static PyInstance reduce(PyObject callable, PyTuple args) {
    return new PyInstance(Construction.REDUCE, callable, args, null);
  }

  /** {@code cls.__new__(cls)} with {@code state}. */
  public static PyInstance newObject(PyObject cls, PyObject state) {
    PyInstance made = new PyInstance(Construction.NEWOBJ, cls, PyTuple.of(), null);
    made.state = state;
    return made;
  }

  public Construction construction() {
    return construction;
  }

  /** Usually a {@link PyGlobal}. */
  public PyObject callable() {
    return callable;
  }

  /** Whether the callable is {@code module.name}. */
  public boolean isOf(String module, String name) {
    return callable instanceof PyGlobal g && g.is(module, name);
  }

  /** A {@link PyTuple} in every well-formed pickle. */
  public PyObject args() {
    return args;
  }

  public void setArgs(PyObject args) {
    this.args = args;
  }

  /** Null unless {@link Construction#NEWOBJ_EX}. */
  public PyObject kwargs() {
    return kwargs;
  }

  /** The live list of appended items. */
  public List<PyObject> listItems() {
    if (listItems == null) {
      listItems = new ArrayList<>();
    }
    return listItems;
  }

  /** The live entries of a dict subclass such as {@code OrderedDict}. */
  public PyEntries dictItems() {
    if (dictItems == null) {
      dictItems = new PyEntries();
    }
    return dictItems;
  }

  /** Whether there are list items or dict items. */
  public boolean hasItems() {
    return (listItems != null && !listItems.isEmpty())
        || (dictItems != null && dictItems.size() > 0);
  }

  /** What {@code BUILD} was given, or null. */
  public PyObject state() {
    return state;
  }

  public void setState(PyObject state) {
    this.state = state;
  }

  /**
   * Whether CPython memoizes the object. It does, except for the {@code getattr} call that stands
   * for a nested class in protocols before 4.
   */
  boolean memoized() {
    return memoized;
  }

  void setMemoized() {
    memoized = true;
  }
}
