package io.github.reshard.pipeline.storage;

import io.github.reshard.checkpoint.storage.Leftovers;
import io.github.reshard.pipeline.storage.ObjectStore.Found;
import java.io.IOException;
import java.util.List;
import java.util.Optional;

/**
 * Removes a published checkpoint from a bucket, where its objects go one by one: a marker beside it
 * says so until all are gone, so that a crash in between is undone by whoever cleans up.
 */
final class BucketRemoval {
  private BucketRemoval() {}

  /**
   * @param base what the names of the output's objects begin with
   * @param name of the directory in the output
   */
  static void remove(ObjectStore store, String base, String name) throws IOException {
    String marker = base + Leftovers.name(name, "removing");
    store.put(marker, new byte[0]);
    Optional<Found> put = store.find(marker);
    if (put.isPresent()) {
      goOn(store, base, name, put.get());
      store.delete(List.of(put.get()));
    }
  }

  /**
   * Removes what was there when the removal began, by the store's clock; what was published since
   * under the same name stays.
   *
   * @return what was removed
   */
  static List<Found> goOn(ObjectStore store, String base, String name, Found marker)
      throws IOException {
    List<Found> old =
        store.list(base + name + "/").stream()
            .filter(object -> object.writtenMillis() <= marker.writtenMillis())
            .toList();
    store.delete(old);
    return old;
  }
}
