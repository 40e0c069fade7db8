package io.github.reshard.testing;

import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.EOFException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.IntStream;
import java.util.stream.Stream;

/** The files of a directory, with other bytes in the place of one. */
public final class ReplacedFile implements SourceStore {
  private static final long serialVersionUID = 1L;
  private final LocalSourceStore below = new LocalSourceStore();
  private final String path;
  private final byte[] bytes;

  /**
   * @param path how the file's path ends
   * @param bytes what it holds instead
   */
  public ReplacedFile(String path, byte[] bytes) {
    this.path = path;
    this.bytes = bytes;
  }

  /** What a fuzzer begins with: each of these files, after a byte that says which one it is. */
  public static Stream<byte[]> seeds(List<Path> files) {
    return IntStream.range(0, files.size())
        .mapToObj(
            place -> {
              try {
                byte[] file = Files.readAllBytes(files.get(place));
                byte[] seed = new byte[file.length + 1];
                seed[0] = (byte) place;
                System.arraycopy(file, 0, seed, 1, file.length);
                return seed;
              } catch (IOException e) {
                throw new UncheckedIOException(e);
              }
            });
  }

  @Override
  public Listing list(String directory) throws IOException {
    Listing listing = below.list(directory);
    return new Listing(
        listing.files().stream()
            .map(
                file ->
                    file.path().endsWith(path)
                        ? new FileStat(file.path(), file.name(), bytes.length, "replaced", false)
                        : file)
            .toList(),
        listing.directories());
  }

  @Override
  public String child(String directory, String name) {
    return below.child(directory, name);
  }

  @Override
  public RangedFile open(FileStat file) throws IOException {
    if (!file.path().endsWith(path)) {
      return below.open(file);
    }
    return new RangedFile() {
      @Override
      public String path() {
        return file.path();
      }

      @Override
      public long size() {
        return bytes.length;
      }

      @Override
      public void readFully(long position, ByteBuffer target) throws IOException {
        if (position < 0 || position + target.remaining() > bytes.length) {
          throw new EOFException();
        }
        target.put(bytes, (int) position, target.remaining());
      }

      @Override
      public void close() {}
    };
  }
}
