package io.github.reshard.pipeline.storage;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.storage.PositionalFile;
import io.github.reshard.checkpoint.storage.TargetStore;
import java.io.IOException;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;

/**
 * A directory of a bucket that is the output as a whole: files and no tag, so that no file could
 * say which of two sets of files is the right one. The directory takes the tag's place. Nothing is
 * there before all is proven; then the files appear one after the other, those without which a
 * reader does not begin last: {@code config.json}, indices, {@code optimizer.json}, the manifest.
 */
final class ExportedObjects implements TargetStore {
  private static final long serialVersionUID = 1L;

  private final ObjectStore store;
  private final String directory;
  private final String name;
  private final Set<String> replaceable;
  private final ObjectTargetStore objects;

  /**
   * @param directory the output, a name in the store
   * @param replaceable the names of files that may be replaced
   * @throws OutputException if it is the bucket itself
   */
  ExportedObjects(ObjectStore store, String directory, Set<String> replaceable, boolean overwrite) {
    if (directory.isEmpty()) {
      throw new OutputException(store.uri(""), "is a bucket; name a directory in it.");
    }
    int slash = directory.lastIndexOf('/');
    this.store = store;
    this.directory = directory;
    this.name = directory.substring(slash + 1);
    this.replaceable = Set.copyOf(replaceable);
    this.objects =
        ObjectTargetStore.withoutPointer(
            store, slash < 0 ? "" : directory.substring(0, slash), name, overwrite);
  }

  private String within(String path) {
    return name + "/" + path;
  }

  @Override
  public void begin() throws IOException {
    Set<String> foreign = new TreeSet<>();
    store
        .list(directory + "/")
        .forEach(
            object -> {
              String path = object.name().substring(directory.length() + 1);
              if (!replaceable.contains(path)) {
                foreign.add(path);
              }
            });
    if (!foreign.isEmpty()) {
      throw new OutputException(
          store.uri(directory),
          "holds what --overwrite would not put back: %s. Move it away, or name another --output."
              .formatted(foreign));
    }
    objects.begin();
  }

  @Override
  public void keep(byte[] content) throws IOException {
    objects.keep(content);
  }

  @Override
  public byte[] kept() throws IOException {
    return objects.kept();
  }

  @Override
  public PositionalFile open(String path) throws IOException {
    return objects.open(within(path));
  }

  @Override
  public boolean ascending() {
    return objects.ascending();
  }

  @Override
  public void finish(String path, long bytes, boolean executable) throws IOException {
    objects.finish(within(path), bytes, executable);
  }

  @Override
  public boolean publish(List<String> paths, String manifest, byte[] content) throws IOException {
    return objects.publish(paths.stream().map(this::within).toList(), within(manifest), content);
  }

  @Override
  public void abandon() throws IOException {
    objects.abandon();
  }
}
