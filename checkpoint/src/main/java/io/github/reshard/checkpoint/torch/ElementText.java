package io.github.reshard.checkpoint.torch;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/** The value of an element as a person reads it. */
public final class ElementText {
  private ElementText() {}

  /**
   * The element at {@code position} of {@code bytes}; types without a plain notation as hexadecimal
   * digits, most significant first.
   */
  public static String of(DType dtype, ByteBuffer bytes, int position) {
    ByteBuffer in = bytes.duplicate().order(ByteOrder.LITTLE_ENDIAN);
    return switch (dtype) {
      case FLOAT32 -> Float.toString(in.getFloat(position));
      case FLOAT64 -> Double.toString(in.getDouble(position));
      case BFLOAT16 -> Float.toString(Float.intBitsToFloat(in.getShort(position) << 16));
      case FLOAT16 -> Float.toString(half(in.getShort(position)));
      case INT64 -> Long.toString(in.getLong(position));
      case INT32 -> Integer.toString(in.getInt(position));
      case INT16 -> Short.toString(in.getShort(position));
      case INT8 -> Byte.toString(in.get(position));
      case UINT8 -> Integer.toString(in.get(position) & 0xff);
      case BOOL -> in.get(position) == 0 ? "False" : "True";
      default -> hex(in, position, dtype.bytes());
    };
  }

  private static float half(short bits) {
    int exponent = (bits >>> 10) & 0x1f;
    int fraction = bits & 0x3ff;
    float magnitude =
        exponent == 0x1f
            ? (fraction == 0 ? Float.POSITIVE_INFINITY : Float.NaN)
            : exponent == 0 ? fraction * 0x1p-24f : Math.scalb(1 + fraction / 1024f, exponent - 15);
    return bits < 0 ? -magnitude : magnitude;
  }

  private static String hex(ByteBuffer in, int position, int bytes) {
    StringBuilder digits = new StringBuilder("0x");
    for (int i = bytes - 1; i >= 0; i--) {
      digits.append("%02x".formatted(in.get(position + i) & 0xff));
    }
    return digits.toString();
  }
}
