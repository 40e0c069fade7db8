package io.github.reshard.pipeline.storage;

import com.google.cloud.storage.Blob;
import com.google.cloud.storage.BlobId;
import com.google.cloud.storage.Storage;
import com.google.cloud.storage.StorageException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.IOException;
import java.nio.file.NoSuchFileException;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;

/**
 * A checkpoint in a bucket of Google Cloud Storage. A file's version is its object's generation,
 * and every read names it: what was overwritten is never read by mistake, it is gone.
 */
final class GcsSourceStore implements SourceStore {
  private static final long serialVersionUID = 1L;

  private final String endpoint;

  GcsSourceStore(String endpoint) {
    this.endpoint = endpoint;
  }

  @Override
  public Listing list(String directory) throws IOException {
    ObjectName at = ObjectName.parse(directory);
    String prefix = at.name().isEmpty() ? "" : at.name() + "/";
    List<FileStat> files = new ArrayList<>();
    List<String> directories = new ArrayList<>();
    try {
      for (Blob blob :
          GcsClient.at(endpoint)
              .list(
                  at.bucket(),
                  Storage.BlobListOption.prefix(prefix),
                  Storage.BlobListOption.currentDirectory())
              .iterateAll()) {
        String name = blob.getName().substring(prefix.length());
        if (blob.isDirectory()) {
          directories.add(name.substring(0, name.length() - 1));
        } else if (!name.isEmpty()) {
          // An empty name is the mark that consoles leave for an empty directory.
          files.add(stat(at.bucket(), name, blob));
        }
      }
    } catch (StorageException e) {
      throw refusal(directory, at.bucket(), e);
    }
    if (files.isEmpty() && directories.isEmpty()) {
      throw new NoSuchFileException(directory);
    }
    files.sort(Comparator.comparing(FileStat::name));
    directories.sort(Comparator.naturalOrder());
    return new Listing(List.copyOf(files), List.copyOf(directories));
  }

  private static FileStat stat(String bucket, String name, Blob blob) {
    Map<String, String> metadata = blob.getMetadata();
    String mode = metadata == null ? null : metadata.get(ObjectStore.POSIX_MODE);
    return new FileStat(
        new ObjectName("gs", bucket, blob.getName()).toString(),
        name,
        blob.getSize(),
        String.valueOf(blob.getGeneration()),
        mode != null && isExecutable(mode),
        blob.getCreateTimeOffsetDateTime() == null
            ? Instant.EPOCH
            : blob.getCreateTimeOffsetDateTime().toInstant());
  }

  /** Whether the mode, in octal digits, lets its owner execute. */
  private static boolean isExecutable(String mode) {
    return mode.matches("[0-7]*[1357][0-7]{2}");
  }

  @Override
  public RangedFile open(FileStat file) {
    ObjectName at = ObjectName.parse(file.path());
    BlobId id = BlobId.of(at.bucket(), at.name(), Long.parseLong(file.version()));
    return new ReadAheadFile(
        file.path(), file.bytes(), (position, bytes) -> read(file, id, position, bytes));
  }

  private byte[] read(FileStat file, BlobId id, long position, int bytes) throws IOException {
    try {
      return GcsRange.read(GcsClient.at(endpoint), id, position, bytes);
    } catch (StorageException e) {
      if (e.getCode() == 404 || e.getCode() == 412) {
        throw new RefusedException(
            file.path(),
            "changed or was removed while it was being read: planned with generation %s, which is gone. Run again when nothing writes to it."
                .formatted(file.version()),
            e);
      }
      throw refusal(file.path(), id.getBucket(), e);
    }
  }

  private static RuntimeException refusal(String where, String bucket, StorageException e)
      throws IOException {
    String what = GcsClient.explain(e, bucket, true);
    if (GcsClient.isFinal(e)) {
      throw new RefusedException(where, what, e);
    }
    throw new IOException(where + ": " + what, e);
  }

  @Override
  public int readsAtOnce() {
    return InParallel.AT_ONCE;
  }

  @Override
  public String child(String directory, String name) {
    return ObjectName.child(directory, name);
  }
}
