package io.github.reshard.checkpoint.torch;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.RangedFile;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.Arrays;

/** The ranges of a file that are in memory: its end, and a window that moves. */
final class KeptRanges {
  private static final int WINDOW = 64 * 1024;

  private final RangedFile file;
  private byte[] window = new byte[0];
  private long windowAt;
  private byte[] tail;
  private long tailAt;

  /**
   * Reads the end of {@code file}.
   *
   * @param tailBytes how much of it, if it is as large
   */
  KeptRanges(RangedFile file, int tailBytes) throws IOException {
    this.file = file;
    this.tailAt = Math.max(0, file.size() - tailBytes);
    this.tail = new byte[0];
    this.tail = readNow(tailAt, (int) (file.size() - tailAt));
  }

  String path() {
    return file.path();
  }

  long size() {
    return file.size();
  }

  /** The end of the file. */
  byte[] tail() {
    return tail;
  }

  /** Where {@link #tail} begins. */
  long tailAt() {
    return tailAt;
  }

  /** Makes the tail begin at {@code from}, with one read. */
  void extendTail(long from) throws IOException {
    if (from < tailAt) {
      if (tail.length + tailAt - from > TorchFile.MOST_IN_MEMORY) {
        throw new RefusedException(path(), "the directory is larger than 2 GiB");
      }
      byte[] before = readNow(from, (int) (tailAt - from));
      byte[] longer = Arrays.copyOf(before, before.length + tail.length);
      System.arraycopy(tail, 0, longer, before.length, tail.length);
      tail = longer;
      tailAt = from;
    }
  }

  /**
   * Keeps the first {@code bytes} of the file if they are no more than {@code most} and a window.
   */
  void keepHead(long bytes, long most) throws IOException {
    if (bytes <= most + WINDOW && bytes <= TorchFile.MOST_IN_MEMORY) {
      windowAt = 0;
      window = readNow(0, (int) bytes);
    }
  }

  /** {@code length} bytes from {@code at}, read only if no kept range has them. */
  byte[] bytes(long at, int length) throws IOException {
    byte[] kept = kept(at, length);
    return kept != null ? kept : readNow(at, length);
  }

  /** As {@link #bytes}, reading ahead: local headers of small entries lie close together. */
  byte[] windowed(long at, int length) throws IOException {
    byte[] kept = kept(at, length);
    if (kept != null) {
      return kept;
    }
    windowAt = at;
    window = readNow(at, (int) Math.min(Math.max(WINDOW, length), file.size() - at));
    byte[] read = kept(at, length);
    if (read == null) {
      throw new RefusedException(
          path(), "expected a local header at byte %d, found the end of the file".formatted(at));
    }
    return read;
  }

  private byte[] kept(long at, int length) {
    if (at >= tailAt && length <= tail.length - (at - tailAt)) {
      return Arrays.copyOfRange(tail, (int) (at - tailAt), (int) (at - tailAt) + length);
    }
    if (at >= windowAt && length <= window.length - (at - windowAt)) {
      return Arrays.copyOfRange(window, (int) (at - windowAt), (int) (at - windowAt) + length);
    }
    return null;
  }

  private byte[] readNow(long at, int length) throws IOException {
    byte[] bytes = new byte[length];
    try {
      file.readFully(at, ByteBuffer.wrap(bytes));
    } catch (EOFException e) {
      throw new RefusedException(
          path(),
          "expected %d bytes from byte %d, the file ended before; it is being written?"
              .formatted(length, at),
          e);
    }
    return bytes;
  }
}
