package io.github.reshard.pipeline.storage;

import io.github.reshard.checkpoint.storage.JobDirectory;
import io.github.reshard.pipeline.storage.ObjectStore.Found;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/** A {@link JobDirectory} in a bucket. */
final class BucketJobDirectory implements JobDirectory {
  private static final long serialVersionUID = 1L;

  private final ObjectStore store;
  private final String base;

  /**
   * @param directory the output, a name in the store without a slash at its end; empty for the
   *     bucket itself
   */
  BucketJobDirectory(ObjectStore store, String directory) {
    this.store = store;
    this.base = (directory.isEmpty() ? "" : directory + "/") + NAME + "/";
  }

  private BucketLock lock() {
    return new BucketLock(store, base + LOCK);
  }

  @Override
  public void acquire(String run) throws IOException {
    lock().takeForJob(store.uri(base), run);
  }

  @Override
  public void clear() throws IOException {
    store.delete(files());
  }

  /** All of it but the lock. */
  private List<Found> files() throws IOException {
    List<Found> files = new ArrayList<>(store.list(base));
    files.removeIf(file -> file.name().startsWith(base + LOCK));
    return files;
  }

  @Override
  public boolean renew(String run) throws IOException {
    return lock().adopt(run);
  }

  @Override
  public void put(String name, byte[] content) throws IOException {
    store.put(base + name, content);
  }

  @Override
  public Optional<byte[]> get(String name) throws IOException {
    Optional<Found> found = store.find(base + name);
    return found.isEmpty() ? Optional.empty() : Optional.of(store.read(found.get()));
  }

  @Override
  public List<String> names() throws IOException {
    return files().stream().map(file -> file.name().substring(base.length())).toList();
  }

  @Override
  public void delete(String name) throws IOException {
    Optional<Found> found = store.find(base + name);
    if (found.isPresent()) {
      store.delete(List.of(found.get()));
    }
  }

  @Override
  public void release(String run) throws IOException {
    if (lock().isOf(run)) {
      store.delete(files());
      lock().release(run);
    }
  }
}
