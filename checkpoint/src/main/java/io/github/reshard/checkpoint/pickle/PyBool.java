package io.github.reshard.checkpoint.pickle;

/** Python's {@code True} and {@code False}. */
public enum PyBool implements PyObject {
  FALSE,
  TRUE;

  /** The node of {@code value}. */
  public static PyBool of(boolean value) {
    return value ? TRUE : FALSE;
  }
}
