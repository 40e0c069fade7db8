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

  /**
   * Says that everything was written that this writer had to write. What a store cannot write in
   * place becomes an object of its own here; a file that is closed without it was given up, and
   * what was written may be lost.
   */
  default void complete() throws IOException {}
}
