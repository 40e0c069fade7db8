package io.github.reshard.checkpoint.storage;

/**
 * A run of bytes of a file.
 *
 * @param position of the first byte
 * @param bytes its length
 */
public record ByteRange(long position, long bytes) {
  /** The position behind the last byte. */
  public long end() {
    return position + bytes;
  }
}
