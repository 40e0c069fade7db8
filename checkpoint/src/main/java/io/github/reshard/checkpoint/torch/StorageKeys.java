package io.github.reshard.checkpoint.torch;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyPersistentId;
import io.github.reshard.checkpoint.pickle.PySet;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import java.util.ArrayList;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Consumer;

/**
 * The keys of storages in a pickle. {@code torch.save} numbers storages as the pickler meets them
 * (PyTorch 2.6, torch/serialization.py, {@code _save.persistent_id}), so a changed graph is
 * numbered anew.
 */
public final class StorageKeys {
  private StorageKeys() {}

  /**
   * Gives a tensor a storage of its own.
   *
   * @param tensor edited in place
   * @param temporaryKey names the storage until {@link #renumber}; equal keys are one storage
   * @param elements of the storage
   */
  public static void move(TensorNode tensor, String temporaryKey, long elements) {
    tensor.setStorage(named(tensor.storage(), temporaryKey, elements));
  }

  /** A reference as {@code storage}'s to another storage. */
  public static PyPersistentId named(StorageNode storage, String temporaryKey, long elements) {
    return storage.with(new PyStr(temporaryKey), elements);
  }

  /**
   * Numbers all storages of {@code root} in the order in which they are pickled; what each new key
   * was before.
   *
   * @param file for messages
   */
  public static Map<String, StorageNode> renumber(String file, PyObject root) {
    Map<String, PyStr> keys = new LinkedHashMap<>();
    Map<String, StorageNode> old = new LinkedHashMap<>();
    inPickledOrder(
        root,
        node -> {
          if (node instanceof PyPersistentId reference) {
            StorageNode storage =
                RefusedException.inFile(file, () -> StorageNode.of(reference))
                    .orElseThrow(
                        () ->
                            new RefusedException(
                                file, "the pickle has a persistent id that is not a storage"));
            PyStr key =
                keys.computeIfAbsent(storage.key(), k -> new PyStr(Integer.toString(keys.size())));
            old.put(key.value(), storage);
            reference.setId(storage.with(key, storage.elements()).id());
          }
        });
    return old;
  }

  /**
   * Every tensor of {@code root}, once, in pickled order.
   *
   * @param file for messages
   */
  public static List<TensorNode> tensors(String file, PyObject root) {
    List<TensorNode> tensors = new ArrayList<>();
    inPickledOrder(
        root,
        node -> RefusedException.inFile(file, () -> TensorNode.of(node)).ifPresent(tensors::add));
    return tensors;
  }

  /** Every reference of {@code root} to a storage, once, in pickled order. */
  public static List<PyPersistentId> references(PyObject root) {
    List<PyPersistentId> references = new ArrayList<>();
    inPickledOrder(
        root,
        node -> {
          if (node instanceof PyPersistentId reference && StorageNode.of(reference).isPresent()) {
            references.add(reference);
          }
        });
    return references;
  }

  /**
   * Visits every tensor, storage and container once, an object before its content, in the order in
   * which CPython pickles them.
   */
  private static void inPickledOrder(PyObject root, Consumer<PyObject> visitor) {
    Set<PyObject> seen = Collections.newSetFromMap(new IdentityHashMap<>());
    List<PyObject> stack = new ArrayList<>();
    stack.add(root);
    List<PyObject> children = new ArrayList<>();
    while (!stack.isEmpty()) {
      PyObject node = stack.remove(stack.size() - 1);
      if (!seen.add(node)) {
        continue;
      }
      visitor.accept(node);
      children.clear();
      addChildren(node, children);
      for (int i = children.size() - 1; i >= 0; i--) {
        if (hasContent(children.get(i))) {
          stack.add(children.get(i));
        }
      }
    }
  }

  /** Most nodes are texts and numbers: they are not remembered, because they lead nowhere. */
  private static boolean hasContent(PyObject node) {
    return node instanceof PyInstance
        || node instanceof PyPersistentId
        || (node instanceof PyTuple tuple && tuple.size() > 0)
        || node instanceof PyDict
        || node instanceof PyList
        || node instanceof PySet;
  }

  /** What an object refers to, in the order in which it is pickled. */
  static void addChildren(PyObject node, List<PyObject> into) {
    if (node instanceof PyTuple tuple) {
      into.addAll(tuple.items());
    } else if (node instanceof PyList list) {
      into.addAll(list.items());
    } else if (node instanceof PyDict dict) {
      addEntries(dict.entries(), into);
    } else if (node instanceof PySet set) {
      into.addAll(set.items());
    } else if (node instanceof PyInstance instance) {
      into.add(instance.callable());
      into.add(instance.args());
      if (instance.kwargs() != null) {
        into.add(instance.kwargs());
      }
      if (instance.hasItems()) {
        into.addAll(instance.listItems());
        addEntries(instance.dictItems(), into);
      }
      if (instance.state() != null) {
        into.add(instance.state());
      }
    } else if (node instanceof PyPersistentId reference) {
      into.add(reference.id());
    }
  }

  private static void addEntries(PyEntries entries, List<PyObject> into) {
    for (PyEntries.Entry entry : entries) {
      into.add(entry.key());
      into.add(entry.value());
    }
  }
}
