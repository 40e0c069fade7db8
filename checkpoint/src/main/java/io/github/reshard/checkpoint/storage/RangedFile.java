package io.github.reshard.checkpoint.storage;

import java.io.Closeable;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.List;

/** A file that is read by byte ranges, from any thread. */
public interface RangedFile extends Closeable {
  /** The path, as messages show it. */
  String path();

  /** The length in bytes. */
  long size();

  /**
   * Fills the remaining bytes of {@code target} with the bytes from {@code position} on.
   *
   * @throws java.io.EOFException if the file ends before {@code target} is full
   */
  void readFully(long position, ByteBuffer target) throws IOException;

  /**
   * Says what will be read next, in this order, so that a distant store can read ahead and knows
   * where to stop. Replaces what was said before; reading something else stays possible.
   */
  default void expect(List<ByteRange> ranges) {}
}
