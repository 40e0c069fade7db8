package io.github.reshard.checkpoint.pickle;

/** A Python {@code str}. Two nodes of equal text are two objects: pickles keep that apart. */
public final class PyStr implements PyObject {
  private final String value;

  public PyStr(String value) {
    this.value = value;
  }

  public String value() {
    return value;
  }
}
