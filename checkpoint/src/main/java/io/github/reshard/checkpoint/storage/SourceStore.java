package io.github.reshard.checkpoint.storage;

import java.io.IOException;
import java.io.Serializable;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.List;

/** Where a checkpoint is read from. */
public interface SourceStore extends Serializable {
  /** What lies directly in {@code directory}, sorted by name. */
  Listing list(String directory) throws IOException;

  /**
   * Opens a file that was listed.
   *
   * @throws io.github.reshard.checkpoint.RefusedException if it is no longer the file that was
   *     listed
   */
  RangedFile open(FileStat file) throws IOException;

  /**
   * Reads a few bytes of a file that was listed.
   *
   * @param position the first of them
   * @return the bytes, little endian, ready to be read
   * @throws io.github.reshard.checkpoint.RefusedException as {@link #open}
   * @throws java.io.EOFException if the file has not as many
   */
  default ByteBuffer read(FileStat file, long position, long bytes) throws IOException {
    ByteBuffer buffer = ByteBuffer.allocate(Math.toIntExact(bytes)).order(ByteOrder.LITTLE_ENDIAN);
    try (RangedFile open = open(file)) {
      open.readFully(position, buffer);
    }
    return buffer.flip();
  }

  /**
   * Checks that a file is still as it was listed.
   *
   * @throws io.github.reshard.checkpoint.RefusedException if it is not
   */
  default void requireUnchanged(FileStat file) throws IOException {
    open(file).close();
  }

  /**
   * How many files are worth opening and reading at the same time: one for each core where reading
   * is work, more where it is mostly waiting for a distant server.
   */
  default int readsAtOnce() {
    return Runtime.getRuntime().availableProcessors();
  }

  /** {@code directory} and {@code name} joined. */
  String child(String directory, String name);

  /**
   * The content of a directory.
   *
   * @param files plain files, sorted by name
   * @param directories names of sub-directories, sorted
   */
  record Listing(List<FileStat> files, List<String> directories) {}
}
