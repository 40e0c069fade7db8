package io.github.reshard.checkpoint.torch;

import java.io.ByteArrayOutputStream;

/** The fields of zip records. */
final class LittleEndian {
  private final ByteArrayOutputStream out = new ByteArrayOutputStream();

  LittleEndian u16(int value) {
    out.write(value);
    out.write(value >> 8);
    return this;
  }

  LittleEndian u32(long value) {
    return u16((int) value).u16((int) (value >> 16));
  }

  LittleEndian u64(long value) {
    return u32(value).u32(value >> 32);
  }

  LittleEndian raw(byte[] bytes) {
    out.writeBytes(bytes);
    return this;
  }

  LittleEndian fill(int value, int count) {
    for (int i = 0; i < count; i++) {
      out.write(value);
    }
    return this;
  }

  int size() {
    return out.size();
  }

  byte[] toByteArray() {
    return out.toByteArray();
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
