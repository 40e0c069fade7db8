package io.github.reshard.checkpoint.pickle;

/** Python's {@code None}. */
public enum PyNone implements PyObject {
  NONE
}
