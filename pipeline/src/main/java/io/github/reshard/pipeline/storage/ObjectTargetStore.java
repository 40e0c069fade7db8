package io.github.reshard.pipeline.storage;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.storage.Leftovers;
import io.github.reshard.checkpoint.storage.PositionalFile;
import io.github.reshard.checkpoint.storage.Publishing;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.pipeline.storage.ObjectStore.Found;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * A checkpoint in a bucket, where nothing can be written in place or renamed. Everything grows
 * under {@code OUTPUT/.reshard-TAG.unpublished/RUN/}:
 *
 * <ul>
 *   <li>{@code parts/FILE.parts/}: the runs of bytes that were written of a file, see {@link
 *       FileParts};
 *   <li>{@code files/FILE}: the whole file, put together from these inside the store;
 *   <li>{@code plan}: what the job keeps for its workers.
 * </ul>
 *
 * <p>Publishing copies the files to their names inside the store and writes {@code latest} last.
 * {@code RUN} is drawn when the job is planned and travels with it: whatever a worker of a run that
 * died still writes lies in a directory of its own and is removed by the next run of the same tag.
 */
final class ObjectTargetStore implements TargetStore {
  private static final long serialVersionUID = 1L;

  /** Runs up to this length share an object, unless the property says otherwise. */
  private static final int DEFAULT_SMALL_BYTES = 256 << 10;

  /** For tests: small files then go the way of large ones. */
  static final String SMALL_PROPERTY = "reshard.smallRunBytes";

  private static final String NO_POINTER = "";

  private final ObjectStore store;
  private final String base;
  private final String tag;
  private final String latest;
  private final Publishing publishing;
  private final int smallBytes = Integer.getInteger(SMALL_PROPERTY, DEFAULT_SMALL_BYTES);
  private final String run;

  /**
   * @param directory the output, a name in the store without a slash at its end; empty for the
   *     bucket itself
   * @param latest the file that names the published tag
   */
  ObjectTargetStore(
      ObjectStore store, String directory, String tag, String latest, Publishing publishing) {
    this.store = store;
    this.base = directory.isEmpty() ? "" : directory + "/";
    this.tag = tag;
    this.latest = latest;
    this.publishing = publishing;
    this.run = publishing.run();
  }

  /**
   * A directory that no file beside it names.
   *
   * @param name of it
   * @param directory what it lies in; empty for the bucket itself
   */
  static ObjectTargetStore withoutPointer(
      ObjectStore store, String directory, String name, boolean overwrite) {
    return new ObjectTargetStore(store, directory, name, NO_POINTER, Publishing.of(overwrite));
  }

  private String staging() {
    return base + Leftovers.name(tag, "unpublished") + "/";
  }

  private String mine() {
    return staging() + run + "/";
  }

  private String parts() {
    return mine() + "parts/";
  }

  private FileParts partsOf(String path) {
    return new FileParts(store, run, path, parts() + path + ".parts/", smallBytes);
  }

  private String files() {
    return mine() + "files/";
  }

  private String plan() {
    return mine() + "plan";
  }

  private String marker() {
    return base + Leftovers.name(tag, "publishing");
  }

  private BucketLock lock() {
    return new BucketLock(store, base + Leftovers.name(tag, "lock"));
  }

  @Override
  public void begin() throws IOException {
    requireReplaceable();
    lock().acquire(store.uri(base + tag), run);
    try {
      // Another run may have published it before this one had the output.
      requireReplaceable();
      store.delete(store.list(staging()));
      // Whoever may not write learns it now.
      store.put(mine() + "begun", new byte[0]);
    } catch (IOException | RuntimeException e) {
      lock().release(run);
      throw e;
    }
  }

  private void requireReplaceable() throws IOException {
    String tagPrefix = base + tag + "/";
    if (!publishing.overwrite()
        && !store.list(tagPrefix).isEmpty()
        && store.find(marker()).isEmpty()) {
      throw new OutputException(
          store.uri(tagPrefix), "the output already holds this tag; --overwrite replaces it.");
    }
  }

  @Override
  public void keep(byte[] content) throws IOException {
    store.put(plan(), content);
  }

  @Override
  public byte[] kept() throws IOException {
    Optional<Found> plan = store.find(plan());
    if (plan.isEmpty()) {
      throw new OutputException(
          store.uri(plan()),
          "is gone. Another run with the same output and tag has begun since, or something deleted"
              + " it; run again.");
    }
    return store.read(plan.get());
  }

  @Override
  public boolean ascending() {
    return true;
  }

  @Override
  public PositionalFile open(String path) {
    return partsOf(path).open();
  }

  @Override
  public void finish(String path, long bytes, boolean executable) throws IOException {
    Map<String, String> metadata = new HashMap<>();
    metadata.put(ObjectStore.RUN, run);
    if (executable) {
      metadata.put(ObjectStore.POSIX_MODE, "755");
    }
    if (!isWhole(path, bytes)) {
      try {
        partsOf(path).join(bytes, files() + path, metadata);
      } catch (IOException | RuntimeException e) {
        // Another worker may have finished the same file and removed its parts meanwhile.
        if (!isWhole(path, bytes)) {
          throw e;
        }
      }
    }
    try {
      partsOf(path).delete();
    } catch (IOException | OutputException e) {
      // The file is whole. Publishing removes its parts again, and says so if it cannot either.
      return;
    }
  }

  private boolean isWhole(String path, long bytes) throws IOException {
    Optional<Found> whole = store.find(files() + path);
    return whole.isPresent() && whole.get().bytes() == bytes;
  }

  @Override
  public boolean publish(List<String> paths, String manifest, byte[] content) throws IOException {
    Map<String, Found> staged = new HashMap<>();
    store.list(files()).forEach(object -> staged.put(object.name(), object));
    Set<String> finals = new HashSet<>();
    List<Copy> copies = new ArrayList<>();
    for (String path : paths) {
      String name = base + path;
      finals.add(name);
      if (path.equals(manifest)) {
        continue;
      }
      Found from = staged.get(files() + path);
      if (from != null) {
        copies.add(new Copy(from, name));
      } else {
        requirePublished(path, name);
      }
    }
    if (copies.isEmpty()) {
      // All is done, unless a zombie of this run took `latest` away to do it again, and died.
      if (hasPointer() && store.find(base + latest).isEmpty()) {
        point();
      }
      return true;
    }
    lock().requireHeld(store.uri(base + tag), run);
    store.put(marker(), new byte[0]);
    Optional<Found> pointer = hasPointer() ? store.find(base + latest) : Optional.empty();
    if (pointer.isPresent()
        && new String(store.read(pointer.get()), StandardCharsets.UTF_8).strip().equals(tag)) {
      store.delete(List.of(pointer.get()));
    }
    List<Found> old = new ArrayList<>(store.list(base + tag + "/"));
    old.removeIf(object -> finals.contains(object.name()));
    store.delete(old);
    // No commit mark of an earlier output may stand beside files of this one.
    store.delete(
        store.list(base + tag + "/").stream().filter(object -> isCommit(object.name())).toList());
    List<Copy> commits = copies.stream().filter(copy -> isCommit(copy.to())).toList();
    copies.removeAll(commits);
    InParallel.forEach(copies, copy -> store.copy(copy.from(), copy.to()));
    InParallel.forEach(commits, copy -> store.copy(copy.from(), copy.to()));
    store.put(base + manifest, content);
    // None is there if it named this tag, also if a run died since it took it away.
    if (hasPointer() && (publishing.leads() || store.find(base + latest).isEmpty())) {
      point();
    }
    return clear();
  }

  @Override
  public Optional<byte[]> published(String path) throws IOException {
    Optional<Found> found = store.find(base + path);
    return found.isEmpty() ? Optional.empty() : Optional.of(store.read(found.get()));
  }

  private boolean hasPointer() {
    return !latest.equals(NO_POINTER);
  }

  private void point() throws IOException {
    store.put(base + latest, tag.getBytes(StandardCharsets.UTF_8));
  }

  /** Removes what is left now that the output is whole: a failure changes nothing about that. */
  private boolean clear() {
    boolean cleared = true;
    // The files go last: while they are there, publishing can be done again.
    for (String prefix : List.of(marker(), parts(), mine())) {
      cleared = cleared && removed(() -> store.delete(store.list(prefix)));
    }
    return removed(() -> lock().release(run)) && cleared;
  }

  /** Some objects that are not needed any more. */
  private interface Removal {
    void run() throws IOException;
  }

  private static boolean removed(Removal removal) {
    try {
      removal.run();
      return true;
    } catch (IOException | OutputException e) {
      return false;
    }
  }

  @Override
  public void abandon() throws IOException {
    if (store.find(marker()).isEmpty()) {
      store.delete(store.list(mine()));
    }
    lock().release(run);
  }

  /** Whether a reader takes the other files for whole where this one is. */
  private boolean isCommit(String name) {
    return name.endsWith("/" + COMMIT) || (!hasPointer() && name.endsWith(".json"));
  }

  private record Copy(Found from, String to) {}

  /** What is not staged any more was published by an earlier attempt of this very run. */
  private void requirePublished(String path, String name) throws IOException {
    Optional<Found> published = store.find(name);
    String by = published.map(f -> f.metadata().getOrDefault(ObjectStore.RUN, run)).orElse("");
    if (!by.equals(run)) {
      throw new OutputException(
          store.uri(files() + path),
          "is gone, so the tag was not published. Another run with the same output and tag has"
              + " begun since; let one finish, then run again.");
    }
  }
}
