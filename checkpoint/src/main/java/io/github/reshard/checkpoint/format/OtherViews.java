package io.github.reshard.checkpoint.format;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyPersistentId;
import io.github.reshard.checkpoint.torch.PathTo;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.StorageNode;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.Collection;
import java.util.Collections;
import java.util.HashSet;
import java.util.IdentityHashMap;
import java.util.Map;
import java.util.Set;

/**
 * Tensors that show elements of a storage whose content is laid out anew. {@code torch.save} stores
 * a storage once however many tensors view it (PyTorch 2.6, torch/serialization.py, {@code
 * _save.persistent_id}), so a {@code state_dict} hook or the user's own state may hold any view of
 * what DeepSpeed partitions: strided, transposed, expanded, across parameters, from within padding.
 */
public final class OtherViews {
  private OtherViews() {}

  /**
   * Gives whatever still lies in one of {@code storages} a storage of its own, with just the
   * elements that it spans.
   *
   * @param root edited in place
   * @param storages keys of the template's storages whose content is laid out anew
   * @param moved what replaces the template's storages, by temporary key; added to
   * @throws RefusedException if a tensor reaches beyond its storage, or the file lacks that
   */
  public static void keep(
      TorchFile template,
      PyObject root,
      Set<String> storages,
      Map<String, Rewritten.Storage> moved) {
    // A tensor lies in a storage that something refers to, and mostly nothing does any more.
    if (StorageKeys.references(root).stream()
        .noneMatch(reference -> storages.contains(StorageNode.of(reference).orElseThrow().key()))) {
      return;
    }
    for (TensorNode tensor : StorageKeys.tensors(template.path(), root)) {
      StorageNode storage = tensor.storage();
      if (storages.contains(storage.key())) {
        keep(template, tensor, storage, moved);
      }
    }
    for (PyPersistentId reference : StorageKeys.references(root)) {
      StorageNode storage = StorageNode.of(reference).orElseThrow();
      if (storages.contains(storage.key())) {
        // A storage that is pickled by itself, as Tensor.storage() gives it.
        String key = "whole of " + storage.key();
        StorageList.requireThere(template, storage);
        reference.setId(StorageKeys.named(storage, key, storage.elements()).id());
        put(moved, key, storage.bytes(), storage.key(), 0);
      }
    }
  }

  private static void keep(
      TorchFile template,
      TensorNode tensor,
      StorageNode storage,
      Map<String, Rewritten.Storage> moved) {
    if (tensor.numel() == 0) {
      String key = "nothing of " + storage.key();
      StorageKeys.move(tensor, key, 0);
      tensor.setStorageOffset(0);
      put(moved, key, 0, storage.key(), 0);
      return;
    }
    tensor.requireInBounds(template.path() + ", a view of storage '" + storage.key() + "'");
    StorageList.requireThere(template, storage);
    long first = tensor.storageOffset();
    long width = tensor.dtype().bytes();
    long bytes = (tensor.lastElement() + 1 - first) * width;
    long unit = storage.dtype().bytes();
    if (bytes % unit != 0) {
      throw new RefusedException(
          template.path(),
          "a tensor of %s lies in storage '%s' of %s, of which it would take a part of an element."
              .formatted(tensor.dtype().torchName(), storage.key(), storage.dtype().torchName()));
    }
    String key = "%d bytes from %d of %s".formatted(bytes, first * width, storage.key());
    StorageKeys.move(tensor, key, bytes / unit);
    tensor.setStorageOffset(0);
    put(moved, key, bytes, storage.key(), first * width);
  }

  private static void put(
      Map<String, Rewritten.Storage> moved, String key, long bytes, String source, long from) {
    moved.put(key, new Rewritten.Storage(key, bytes, new Rewritten.Content.Copied(source, from)));
  }

  /**
   * Checks that no other tensor of an optimizer file shows elements of its partitions: what belongs
   * to one rank's partition belongs to no rank at another size.
   *
   * @param root of the file
   * @param partitions all tensors of the file that are partitions
   * @throws RefusedException if another one does
   */
  @SuppressWarnings("ReferenceEquality") // Nodes are compared as objects here.
  public static void requireNone(PickledValue root, Collection<PickledValue> partitions) {
    Set<String> keys = new HashSet<>();
    Set<PyObject> own = Collections.newSetFromMap(new IdentityHashMap<>());
    for (PickledValue partition : partitions) {
      StorageNode storage = partition.tensor().storage();
      keys.add(storage.key());
      own.add(storage.node());
    }
    for (PyPersistentId reference : StorageKeys.references(root.node())) {
      StorageNode storage = StorageNode.of(reference).orElseThrow();
      if (keys.contains(storage.key()) && !own.contains(reference)) {
        PyObject holder =
            StorageKeys.tensors(root.file(), root.node()).stream()
                .filter(tensor -> tensor.storage().node() == reference)
                .findFirst()
                .<PyObject>map(TensorNode::node)
                .orElse(reference);
        throw root.refused(
            "%s shows elements of storage '%s', which has partitions of this rank: what is of one rank's partition is of no rank at another size. Save the checkpoint without it, or with a clone() of it."
                .formatted(PathTo.node(root, holder), storage.key()));
      }
    }
  }
}
