package io.github.reshard.checkpoint.storage;

import java.io.Closeable;
import java.io.IOException;
import java.nio.ByteBuffer;

/** A file that is written by byte ranges, by several writers at once. */
public interface PositionalFile extends Closeable {
  /**
   * Writes all remaining bytes of {@code source} at {@code position}; writing the same again
   * changes nothing.
   */
  void write(long position, ByteBuffer source) throws IOException;
}
