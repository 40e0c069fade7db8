package io.github.reshard.checkpoint.torch;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyPersistentId;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import java.util.Optional;

/**
 * A view on the persistent id of a storage, {@code ('storage', type, key, location, numel)} ({@code
 * torch/serialization.py}, {@code _save}).
 */
public final class StorageNode {
  private static final String WHERE = "a storage in data.pkl";

  private final PyPersistentId node;
  private final PyGlobal type;
  private final PyStr key;
  private final PyStr location;
  private final long elements;
  private final DType dtype;

  private StorageNode(PyPersistentId node, PyTuple id) {
    this.node = node;
    if (id.size() != 5
        || !(id.get(1) instanceof PyGlobal type)
        || !(id.get(2) instanceof PyStr key)
        || !(id.get(3) instanceof PyStr location)
        || !(id.get(4) instanceof PyInt numel)) {
      throw new RefusedException(
          WHERE, "expected ('storage', type, key, location, numel), found something else");
    }
    this.type = type;
    this.key = key;
    this.location = location;
    this.elements = TensorNode.size(numel, WHERE, "number of elements");
    this.dtype = dtypeOf(type);
    if (elements > Long.MAX_VALUE / dtype.bytes()) {
      throw new RefusedException(
          WHERE,
          "expected a storage of less than 2^63 bytes, found %d elements".formatted(elements));
    }
  }

  /**
   * The view, if {@code node} is the persistent id of a storage.
   *
   * @throws RefusedException if it is one, but malformed or of an unknown type
   */
  public static Optional<StorageNode> of(PyObject node) {
    if (node instanceof PyPersistentId persistent
        && persistent.id() instanceof PyTuple id
        && id.size() > 0
        && id.get(0) instanceof PyStr tag
        && tag.value().equals("storage")) {
      return Optional.of(new StorageNode(persistent, id));
    }
    return Optional.empty();
  }

  /**
   * A new persistent id.
   *
   * @param type such as {@code torch.FloatStorage}
   * @param location where the tensor was, such as {@code cpu}
   * @param numel the length in elements of {@code type}
   */
  public static PyPersistentId create(PyGlobal type, PyStr key, PyStr location, long numel) {
    return new PyPersistentId(
        PyTuple.of(new PyStr("storage"), type, key, location, PyInt.of(numel)));
  }

  /**
   * As {@link #create(PyGlobal, PyStr, PyStr, long)}, keeping the nodes of this one for all else.
   */
  public PyPersistentId with(PyStr newKey, long numel) {
    PyTuple id = (PyTuple) node.id();
    return new PyPersistentId(PyTuple.of(id.get(0), type, newKey, location, PyInt.of(numel)));
  }

  public PyPersistentId node() {
    return node;
  }

  public PyGlobal type() {
    return type;
  }

  public PyStr keyNode() {
    return key;
  }

  /** The entry of its bytes is {@code data/KEY}. */
  public String key() {
    return key.value();
  }

  public PyStr location() {
    return location;
  }

  /** Length in elements of {@link #dtype()}. */
  public long elements() {
    return elements;
  }

  /** Length in bytes. */
  public long bytes() {
    return elements * dtype.bytes();
  }

  /** The element type that the class names; {@link DType#UINT8} for an {@code UntypedStorage}. */
  public DType dtype() {
    return dtype;
  }

  private static DType dtypeOf(PyGlobal type) {
    if (type.is("torch.storage", "UntypedStorage") || type.is("torch", "UntypedStorage")) {
      return DType.UINT8;
    }
    return DType.ofStorageClass(type.name())
        .filter(any -> type.module().equals("torch") || type.module().equals("torch.cuda"))
        .orElseThrow(
            () ->
                new RefusedException(
                    WHERE,
                    "expected a torch storage class, found %s: not supported".formatted(type)));
  }
}
