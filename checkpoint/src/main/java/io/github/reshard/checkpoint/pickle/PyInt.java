package io.github.reshard.checkpoint.pickle;

import java.math.BigInteger;

/** A Python {@code int} of any size. */
public final class PyInt implements PyObject {
  private final BigInteger value;

  private PyInt(BigInteger value) {
    this.value = value;
  }

  public static PyInt of(long value) {
    return new PyInt(BigInteger.valueOf(value));
  }

  public static PyInt of(BigInteger value) {
    return new PyInt(value);
  }

  public BigInteger value() {
    return value;
  }
}
