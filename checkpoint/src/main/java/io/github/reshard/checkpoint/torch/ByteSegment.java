package io.github.reshard.checkpoint.torch;

/**
 * Some bytes of a file.
 *
 * @param offset where they start in the file, in bytes
 * @param bytes the bytes; not copied
 */
@SuppressWarnings("ArrayRecordComponent") // Handed straight to a writer, never compared.
public record ByteSegment(long offset, byte[] bytes) {
  /** The offset of the byte after the last. */
  public long end() {
    return offset + bytes.length;
  }
}
