package io.github.reshard.testing;

import io.github.reshard.checkpoint.torch.DType;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/** What it means that a 16-bit number is an fp32 number cast: no other is nearer, ties are even. */
public final class NearestEven {
  private NearestEven() {}

  /** The first element of {@code weights} that is not that of {@code masters} cast, or -1. */
  public static int firstThatIsNot(DType dtype, byte[] weights, byte[] masters) {
    ByteBuffer w = ByteBuffer.wrap(weights).order(ByteOrder.LITTLE_ENDIAN);
    ByteBuffer m = ByteBuffer.wrap(masters).order(ByteOrder.LITTLE_ENDIAN);
    int elements = weights.length / dtype.bytes();
    if (masters.length != 4 * elements) {
      return 0;
    }
    for (int i = 0; i < elements; i++) {
      float master = m.getFloat(4 * i);
      boolean right =
          dtype == DType.FLOAT32
              ? Float.floatToRawIntBits(master) == w.getInt(4 * i)
              : isNearest(dtype, w.getShort(2 * i) & 0xffff, master);
      if (!right) {
        return i;
      }
    }
    return -1;
  }

  private static boolean isNearest(DType dtype, int bits, double exact) {
    double distance = Math.abs(value(dtype, bits) - exact);
    for (int neighbour : new int[] {bits - 1, bits + 1}) {
      if ((neighbour & 0x8000) == (bits & 0x8000)) {
        double other = Math.abs(value(dtype, neighbour) - exact);
        if (other < distance || (other == distance && bits % 2 != 0)) {
          return false;
        }
      }
    }
    return (bits >>> 15 == 1) == (exact < 0 || 1 / exact < 0);
  }

  private static double value(DType dtype, int bits) {
    if (dtype == DType.BFLOAT16) {
      return Float.intBitsToFloat(bits << 16);
    }
    int exponent = (bits >>> 10) & 0x1f;
    int fraction = bits & 0x3ff;
    double magnitude =
        exponent == 0 ? Math.scalb(fraction, -24) : Math.scalb(1024 + fraction, exponent - 25);
    return bits >>> 15 == 1 ? -magnitude : magnitude;
  }
}
