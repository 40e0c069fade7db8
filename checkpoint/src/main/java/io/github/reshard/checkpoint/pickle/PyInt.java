package io.github.reshard.checkpoint.pickle;

import java.math.BigInteger;

/** A Python {@code int} of any size. */
public final class PyInt implements PyObject {
  private final long small;

  /**
   * Null if the value fits into {@link #small}: a checkpoint holds sizes by the hundred thousand.
   */
  private final BigInteger large;

  private PyInt(long small, BigInteger large) {
    this.small = small;
    this.large = large;
  }

  public static PyInt of(long value) {
    return new PyInt(value, null);
  }

  public static PyInt of(BigInteger value) {
    return value.bitLength() < Long.SIZE ? of(value.longValue()) : new PyInt(0, value);
  }

  /** Whether {@link #longValue} is the value. */
  public boolean isLong() {
    return large == null;
  }

  /**
   * The value, without an object for it.
   *
   * @throws ArithmeticException if it does not fit, see {@link #isLong}
   */
  public long longValue() {
    return large == null ? small : large.longValueExact();
  }

  public BigInteger value() {
    return large == null ? BigInteger.valueOf(small) : large;
  }
}
