package io.github.reshard.checkpoint.torch;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** The fields of zip records. */
final class LittleEndian {
  private static final int FIRST_BYTES = 256;

  private byte[] out;
  private int size;

  LittleEndian() {
    this(FIRST_BYTES);
  }

  /**
   * @param bytes that are expected
   */
  LittleEndian(int bytes) {
    this.out = new byte[bytes];
  }

  private int grow(int bytes) {
    int at = size;
    size = Math.addExact(size, bytes);
    if (size > out.length) {
      out = Arrays.copyOf(out, (int) Math.min(TorchFile.MOST_IN_MEMORY, Math.max(size, 2L * at)));
    }
    return at;
  }

  LittleEndian u16(int value) {
    int at = grow(2);
    out[at] = (byte) value;
    out[at + 1] = (byte) (value >> 8);
    return this;
  }

  LittleEndian u32(long value) {
    int at = grow(4);
    for (int i = 0; i < 4; i++) {
      out[at + i] = (byte) (value >> (8 * i));
    }
    return this;
  }

  LittleEndian u64(long value) {
    return u32(value).u32(value >> 32);
  }

  LittleEndian raw(byte[] bytes) {
    int at = grow(bytes.length);
    System.arraycopy(bytes, 0, out, at, bytes.length);
    return this;
  }

  LittleEndian utf8(String text) {
    return raw(text.getBytes(StandardCharsets.UTF_8));
  }

  LittleEndian fill(int value, int count) {
    int at = grow(count);
    Arrays.fill(out, at, size, (byte) value);
    return this;
  }

  int size() {
    return size;
  }

  byte[] toByteArray() {
    return Arrays.copyOf(out, size);
  }

  static int u16(byte[] in, int at) {
    return (in[at] & 0xff) | (in[at + 1] & 0xff) << 8;
  }

  static long u32(byte[] in, int at) {
    return u16(in, at) | (long) u16(in, at + 2) << 16;
  }

  static long u64(byte[] in, int at) {
    return u32(in, at) | u32(in, at + 4) << 32;
  }
}
