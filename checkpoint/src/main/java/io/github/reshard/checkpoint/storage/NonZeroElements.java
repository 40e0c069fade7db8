package io.github.reshard.checkpoint.storage;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.HashSet;
import java.util.Set;

/** What tells trained elements from those that are all zero, or all of one value. */
public final class NonZeroElements {
  private static final int BLOCK_BYTES = 1 << 20;

  private NonZeroElements() {}

  /**
   * How many different elements other than zero a range of a file holds.
   *
   * @param from its first byte
   * @param end the byte behind it
   * @param width bytes of an element
   * @param enough where counting ends
   * @return at most {@code enough}
   */
  public static int different(
      SourceStore store, FileStat file, long from, long end, int width, int enough)
      throws IOException {
    ByteBuffer zero = ByteBuffer.allocate(width);
    Set<ByteBuffer> values = new HashSet<>();
    try (RangedFile open = store.open(file)) {
      for (long at = from; at < end; ) {
        int length = (int) Math.min(BLOCK_BYTES, end - at) / width * width;
        if (length == 0) {
          break;
        }
        ByteBuffer block = ByteBuffer.allocate(length);
        open.readFully(at, block);
        for (int i = 0; i < length; i += width) {
          ByteBuffer value = block.slice(i, width);
          if (!value.equals(zero)) {
            values.add(value);
          }
          if (values.size() >= enough) {
            return enough;
          }
        }
        at += length;
      }
    }
    return values.size();
  }
}
