package io.github.reshard.checkpoint.pickle;

/** Python {@code bytes} or, when {@link #mutable()}, a {@code bytearray}. */
public final class PyBytes implements PyObject {
  private final byte[] value;
  private final boolean mutable;

  public PyBytes(byte[] value, boolean mutable) {
    this.value = value.clone();
    this.mutable = mutable;
  }

  public byte[] value() {
    return value.clone();
  }

  public boolean mutable() {
    return mutable;
  }
}
