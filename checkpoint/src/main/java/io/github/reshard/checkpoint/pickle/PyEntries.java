package io.github.reshard.checkpoint.pickle;

import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;

/**
 * Key-value pairs in pickled order, of a {@link PyDict} or of a dict subclass ({@link
 * PyInstance#dictItems()}). Lookups by text or number scan: the dicts of a checkpoint that are
 * looked up by key are small.
 */
public final class PyEntries implements Iterable<PyEntries.Entry> {
  /** One key and its value. */
  public record Entry(PyObject key, PyObject value) {}

  private final List<Entry> entries = new ArrayList<>();

  /** Appends; as in a pickle stream, a later entry of an equal key wins when Python loads it. */
  public void add(PyObject key, PyObject value) {
    entries.add(new Entry(key, value));
  }

  /** The value of a {@code str} key, or null. */
  public PyObject get(String key) {
    int i = indexOf(key);
    return i < 0 ? null : entries.get(i).value();
  }

  /** The value of an {@code int} key, or null. */
  public PyObject get(long key) {
    PyObject found = null;
    for (Entry e : entries) {
      if (e.key() instanceof PyInt n && n.isLong() && n.longValue() == key) {
        found = e.value();
      }
    }
    return found;
  }

  public boolean contains(String key) {
    return indexOf(key) >= 0;
  }

  /** Replaces the value of an existing {@code str} key; its key node and place stay. */
  public void replace(String key, PyObject value) {
    int i = indexOf(key);
    if (i < 0) {
      throw new IllegalArgumentException("no key '" + key + "'");
    }
    entries.set(i, new Entry(entries.get(i).key(), value));
  }

  /** The live list. */
  public List<Entry> list() {
    return entries;
  }

  public int size() {
    return entries.size();
  }

  @Override
  public Iterator<Entry> iterator() {
    return entries.iterator();
  }

  private int indexOf(String key) {
    for (int i = entries.size() - 1; i >= 0; i--) {
      if (entries.get(i).key() instanceof PyStr s && s.value().equals(key)) {
        return i;
      }
    }
    return -1;
  }
}
