package io.github.reshard.checkpoint.pickle;

/** A Python {@code float}, bit for bit. */
public final class PyFloat implements PyObject {
  private final double value;

  public PyFloat(double value) {
    this.value = value;
  }

  public double value() {
    return value;
  }
}
