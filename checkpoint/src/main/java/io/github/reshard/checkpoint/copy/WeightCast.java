package io.github.reshard.checkpoint.copy;

import io.github.reshard.checkpoint.torch.DType;
import java.nio.ByteBuffer;

/**
 * The cast of master weights to the module's type as PyTorch does it: round to nearest, ties to
 * even (PyTorch 2.6, c10/util/BFloat16.h and Half.h). Which bits a NaN has is up to the device that
 * made it, so any NaN equals any other.
 */
public final class WeightCast {
  private WeightCast() {}

  /** Whether the cast from {@code master} to {@code module} can be checked. */
  public static boolean supports(DType master, DType module) {
    return master == module
        || (master == DType.FLOAT32 && (module == DType.BFLOAT16 || module == DType.FLOAT16));
  }

  /**
   * Compares master weights with module weights.
   *
   * @param masters little endian; position and limit are not moved
   * @param weights as many elements, little endian
   * @return the index of the first element that differs, or -1
   */
  public static int firstMismatch(
      ByteBuffer masters, DType master, ByteBuffer weights, DType module) {
    if (master == module) {
      int byteIndex = masters.mismatch(weights);
      return byteIndex < 0 ? -1 : byteIndex / master.bytes();
    }
    int elements = masters.remaining() / master.bytes();
    int m = masters.position();
    int w = weights.position();
    boolean brain = module == DType.BFLOAT16;
    for (int i = 0; i < elements; i++) {
      int bits = masters.getInt(m + 4 * i);
      int expected = brain ? toBfloat16(bits) : toFloat16(bits);
      int found = weights.getShort(w + 2 * i) & 0xffff;
      if (expected != found && !(isNan(bits) && isNan16(found, brain))) {
        return i;
      }
    }
    return -1;
  }

  /**
   * The bits of the float with the bits {@code master}, cast to {@code module}, which is {@link
   * DType#BFLOAT16} or {@link DType#FLOAT16}.
   */
  public static int toBits(int master, DType module) {
    return module == DType.BFLOAT16 ? toBfloat16(master) : toFloat16(master);
  }

  private static boolean isNan(int bits) {
    return (bits & 0x7fffffff) > 0x7f800000;
  }

  private static boolean isNan16(int bits, boolean brain) {
    return (bits & 0x7fff) > (brain ? 0x7f80 : 0x7c00);
  }

  /** The bits of the nearest bfloat16 of the float with these bits. */
  static int toBfloat16(int bits) {
    return isNan(bits) ? 0x7fc0 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
  }

  /** The bits of the nearest IEEE half of the float with these bits. */
  static int toFloat16(int bits) {
    int sign = (bits >>> 16) & 0x8000;
    int magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) {
      return sign | 0x7e00;
    }
    if (magnitude >= 0x477ff000) {
      return sign | 0x7c00;
    }
    if (magnitude >= 0x38800000) {
      int rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
      return sign | ((rounded - 0x38000000) >>> 13);
    }
    // Below the smallest normal half a unit in the last place is 2^-24: adding 0.5 aligns the
    // float's last bit with it,
    // and the addition itself rounds to nearest even.
    float aligned = Float.intBitsToFloat(magnitude) + 0.5f;
    return sign | (Float.floatToRawIntBits(aligned) - 0x3f000000);
  }
}
