package io.github.reshard.checkpoint.pickle;

import java.util.ArrayList;
import java.util.List;

/**
 * A {@code set} or {@code frozenset} of protocol 4 (protocol 2 pickles them as a {@link
 * PyInstance}).
 */
public final class PySet implements PyObject {
  private final List<PyObject> items = new ArrayList<>();
  private final boolean frozen;

  public PySet(boolean frozen) {
    this.frozen = frozen;
  }

  /** The live list of items in pickled order. */
  public List<PyObject> items() {
    return items;
  }

  public boolean frozen() {
    return frozen;
  }
}
