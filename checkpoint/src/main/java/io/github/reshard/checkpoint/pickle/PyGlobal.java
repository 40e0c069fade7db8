package io.github.reshard.checkpoint.pickle;

/** A class or function, by name only: {@code module.name}. */
public final class PyGlobal implements PyObject {
  private final String module;
  private final String name;

  public PyGlobal(String module, String name) {
    this.module = module;
    this.name = name;
  }

  public String module() {
    return module;
  }

  public String name() {
    return name;
  }

  public boolean is(String module, String name) {
    return this.module.equals(module) && this.name.equals(name);
  }

  @Override
  public String toString() {
    return module + "." + name;
  }
}
