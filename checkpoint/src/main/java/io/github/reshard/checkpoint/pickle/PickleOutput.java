package io.github.reshard.checkpoint.pickle;

import io.github.reshard.checkpoint.RefusedException;
import java.util.Arrays;

/**
 * The bytes of a pickle while it grows: opcodes, their arguments and, from protocol 4 on, frames.
 */
final class PickleOutput {
  private static final int FRAME_HEADER = 9;
  private static final int FRAME_TARGET = 64 * 1024;
  private static final int FRAME_MINIMUM = 4;
  private static final int MOST_BYTES = Integer.MAX_VALUE - 16;

  private byte[] out = new byte[1024];
  private int length;
  private boolean framing;
  private int frameStart = -1;

  /** From here on everything but large payloads stands in frames. */
  void startFraming() {
    framing = true;
  }

  /** Called between two objects: a frame that is long enough ends there. */
  void closeFullFrame() {
    if (framing && frameStart >= 0 && length - frameStart - FRAME_HEADER >= FRAME_TARGET) {
      closeFrame();
    }
  }

  byte[] toByteArray() {
    return Arrays.copyOf(out, length);
  }

  void writeInt(PyInt value) {
    if (value.isLong() && value.longValue() == (int) value.longValue()) {
      int small = (int) value.longValue();
      if (small >>> 16 != 0) {
        op(Opcode.BININT);
        littleEndian(small, 4);
      } else if (small >>> 8 != 0) {
        op(Opcode.BININT2);
        littleEndian(small, 2);
      } else {
        opWithByte(Opcode.BININT1, small);
      }
      return;
    }
    byte[] bigEndian = value.value().toByteArray();
    byte[] littleEndian = new byte[bigEndian.length];
    for (int i = 0; i < bigEndian.length; i++) {
      littleEndian[i] = bigEndian[bigEndian.length - 1 - i];
    }
    if (littleEndian.length < 256) {
      opWithByte(Opcode.LONG1, littleEndian.length);
    } else {
      op(Opcode.LONG4);
      littleEndian(littleEndian.length, 4);
    }
    raw(littleEndian);
  }

  void writeFloat(double value) {
    op(Opcode.BINFLOAT);
    littleEndian(Long.reverseBytes(Double.doubleToRawLongBits(value)), 8);
  }

  /** An opcode about a memo entry, the short one where a byte holds its index. */
  void withIndex(Opcode shortOp, Opcode longOp, int index) {
    if (index < 256) {
      opWithByte(shortOp, index);
    } else {
      op(longOp);
      littleEndian(index, 4);
    }
  }

  /** {@code _Pickler_write_bytes}: large payloads stand outside of frames. */
  void payload(Opcode op, int lengthBytes, byte[] payload) {
    boolean wasFraming = framing;
    if (payload.length >= FRAME_TARGET) {
      closeFrame();
      framing = false;
    }
    op(op);
    littleEndian(payload.length, lengthBytes);
    raw(payload);
    framing = wasFraming;
  }

  void closeFrame() {
    if (frameStart < 0) {
      return;
    }
    int size = length - frameStart - FRAME_HEADER;
    if (size >= FRAME_MINIMUM) {
      int end = length;
      length = frameStart;
      frameStart = -1;
      boolean wasFraming = framing;
      framing = false;
      op(Opcode.FRAME);
      littleEndian(size, 8);
      framing = wasFraming;
      length = end;
    } else {
      System.arraycopy(out, frameStart + FRAME_HEADER, out, frameStart, size);
      length -= FRAME_HEADER;
      frameStart = -1;
    }
  }

  void op(Opcode op) {
    reserve(1);
    out[length++] = (byte) op.code;
  }

  void opWithByte(Opcode op, int argument) {
    op(op);
    littleEndian(argument, 1);
  }

  void littleEndian(long value, int bytes) {
    reserve(bytes);
    for (int i = 0; i < bytes; i++) {
      out[length++] = (byte) (value >> (8 * i));
    }
  }

  void raw(byte[] bytes) {
    reserve(bytes.length);
    System.arraycopy(bytes, 0, out, length, bytes.length);
    length += bytes.length;
  }

  private void reserve(int more) {
    boolean opensFrame = framing && frameStart < 0;
    long needed = (long) length + more + (opensFrame ? FRAME_HEADER : 0);
    if (needed > MOST_BYTES) {
      throw new RefusedException("pickle", "the pickle is larger than 2 GiB");
    }
    if (needed > out.length) {
      out = Arrays.copyOf(out, (int) Math.min(MOST_BYTES, Math.max(needed, 2L * out.length)));
    }
    if (opensFrame) {
      frameStart = length;
      length += FRAME_HEADER;
    }
  }
}
