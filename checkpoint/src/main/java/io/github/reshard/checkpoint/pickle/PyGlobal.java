package io.github.reshard.checkpoint.pickle;

/** A class or function, by name only: {@code module.name}. */
public final class PyGlobal implements PyObject {
  private final PyStr module;
  private final PyStr name;

  public PyGlobal(String module, String name) {
    this(new PyStr(module), new PyStr(name));
  }

  /** From protocol 4 on the two strings are objects of the graph, which others may share. */
  PyGlobal(PyStr module, PyStr name) {
    this.module = module;
    this.name = name;
  }

  public String module() {
    return module.value();
  }

  public String name() {
    return name.value();
  }

  PyStr moduleNode() {
    return module;
  }

  PyStr nameNode() {
    return name;
  }

  public boolean is(String module, String name) {
    return module().equals(module) && name().equals(name);
  }

  @Override
  public String toString() {
    return module() + "." + name();
  }
}
