package io.github.reshard.checkpoint.format;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.StorageNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** The storages of a rewritten graph. */
public final class StorageList {
  private StorageList() {}

  /**
   * Numbers the storages of {@code root} anew and lists them.
   *
   * @param moved the storages that were replaced, by temporary key; all others are the template's
   */
  public static Rewritten of(
      TorchFile template, PyObject root, Map<String, Rewritten.Storage> moved) {
    List<Rewritten.Storage> storages = new ArrayList<>();
    StorageKeys.renumber(template.path(), root)
        .forEach(
            (key, old) -> {
              Rewritten.Storage replaced = moved.get(old.key());
              if (replaced != null) {
                storages.add(new Rewritten.Storage(key, replaced.bytes(), replaced.content()));
              } else {
                requireThere(template, old);
                storages.add(
                    new Rewritten.Storage(
                        key, old.bytes(), new Rewritten.Content.Carried(old.key())));
              }
            });
    return new Rewritten(root, storages);
  }

  /**
   * Checks that a storage is there.
   *
   * @throws RefusedException if the file has not as much of a storage as its pickle says
   */
  public static void requireThere(TorchFile template, StorageNode storage) {
    long found = template.storage(storage.key()).map(TorchFile.Entry::bytes).orElse(0L);
    if (found != storage.bytes()) {
      throw new RefusedException(
          template.path(),
          "the pickle refers to storage '%s' of %d bytes, the file has %d bytes of it"
              .formatted(storage.key(), storage.bytes(), found));
    }
  }
}
