package io.github.reshard.checkpoint.zero;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** The storages of a rewritten graph. */
final class StorageList {
  private StorageList() {}

  /**
   * Numbers the storages of {@code root} anew and lists them.
   *
   * @param moved the storages that were replaced, by temporary key; all others are the template's
   */
  static Rewritten of(TorchFile template, PyObject root, Map<String, Rewritten.Storage> moved) {
    List<Rewritten.Storage> storages = new ArrayList<>();
    StorageKeys.renumber(template.path(), root)
        .forEach(
            (key, oldKey) -> {
              Rewritten.Storage replaced = moved.get(oldKey);
              if (replaced != null) {
                storages.add(new Rewritten.Storage(key, replaced.bytes(), replaced.content()));
              } else {
                TorchFile.Entry entry =
                    template
                        .storage(oldKey)
                        .orElseThrow(
                            () ->
                                new RefusedException(
                                    template.path(),
                                    "the pickle refers to storage '%s', which the file does not have"
                                        .formatted(oldKey)));
                storages.add(
                    new Rewritten.Storage(
                        key, entry.bytes(), new Rewritten.Content.Carried(oldKey)));
              }
            });
    return new Rewritten(root, storages);
  }
}
