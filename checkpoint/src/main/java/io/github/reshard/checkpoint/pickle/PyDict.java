package io.github.reshard.checkpoint.pickle;

/** A Python {@code dict}: entries in insertion order. */
public final class PyDict implements PyObject {
  private final PyEntries entries = new PyEntries();

  /** The live entries. */
  public PyEntries entries() {
    return entries;
  }

  /** The value of a {@code str} key, or null. */
  public PyObject get(String key) {
    return entries.get(key);
  }
}
