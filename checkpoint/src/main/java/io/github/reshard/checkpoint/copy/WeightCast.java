package io.github.reshard.checkpoint.copy;

import io.github.reshard.checkpoint.plan.Conversion;
import io.github.reshard.checkpoint.torch.DType;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.IntBuffer;
import java.nio.LongBuffer;
import java.nio.ShortBuffer;

/**
 * The cast of master weights to the module's type as PyTorch does it: round to nearest, ties to
 * even (PyTorch 2.6, c10/util/BFloat16.h and Half.h). Which bits a NaN has is up to the device that
 * made it, so any NaN equals any other.
 */
public final class WeightCast {
  /** Pairs of elements that are compared at once: what they take stays in the first-level cache. */
  private static final int PAIRS = 1024;

  private static final long LOW_BITS = 0x0000_ffff_0000_ffffL;
  private static final long MAGNITUDE = 0x7fff_ffff_7fff_ffffL;
  private static final long SIGNS = ~MAGNITUDE;

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
    boolean brain = module == DType.BFLOAT16;
    LongBuffer masterBuffer = masters.slice().order(ByteOrder.LITTLE_ENDIAN).asLongBuffer();
    IntBuffer weightBuffer = weights.slice().order(ByteOrder.LITTLE_ENDIAN).asIntBuffer();
    int elements = masters.remaining() / master.bytes();
    long[] masterPairs = new long[PAIRS];
    int[] weightPairs = new int[PAIRS];
    int done = 0;
    while (elements - done >= 2) {
      int pairs = Math.min(PAIRS, (elements - done) / 2);
      masterBuffer.get(masterPairs, 0, pairs);
      weightBuffer.get(weightPairs, 0, pairs);
      boolean equal =
          brain
              ? equalBfloat16(masterPairs, weightPairs, pairs)
              : equalFloat16(masterPairs, weightPairs, pairs);
      if (!equal) {
        int mismatch = firstMismatch(masters, weights, done, done + 2 * pairs, brain);
        if (mismatch >= 0) {
          return mismatch;
        }
      }
      done += 2 * pairs;
    }
    return firstMismatch(masters, weights, done, elements, brain);
  }

  /** One by one, and NaNs equal each other. */
  private static int firstMismatch(
      ByteBuffer masters, ByteBuffer weights, int from, int to, boolean brain) {
    int m = masters.position();
    int w = weights.position();
    for (int i = from; i < to; i++) {
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
   * Whether all pairs are equal and none holds an infinity or a NaN. Two elements at a time in one
   * register, without a branch: the carry of one into the other happens only where the one is a
   * NaN.
   */
  private static boolean equalBfloat16(long[] masters, int[] weights, int pairs) {
    long different = 0;
    for (int i = 0; i < pairs; i++) {
      long pair = masters[i];
      long odd = (pair >>> 16) & 0x0000_0001_0000_0001L;
      long rounded = ((pair + 0x0000_7fff_0000_7fffL + odd) >>> 16) & LOW_BITS;
      int packed = (int) rounded | (int) (rounded >>> 16);
      long special = ((pair & MAGNITUDE) + 0x0080_0000_0080_0000L) & ~MAGNITUDE;
      different |= (packed ^ weights[i]) | special;
    }
    return different == 0;
  }

  /**
   * Whether all pairs are equal and none holds a NaN. Two elements at a time in one register if
   * both give a normal half, as nearly all do.
   */
  private static boolean equalFloat16(long[] masters, int[] weights, int pairs) {
    long different = 0;
    for (int i = 0; i < pairs; i++) {
      long pair = masters[i];
      long magnitude = pair & MAGNITUDE;
      // The sign bits stay where an element is at least the least normal half, and at most the
      // greatest number that is not rounded to infinity.
      long normal =
          ((magnitude | SIGNS) - 0x3880_0000_3880_0000L) & (0xc77f_efff_c77f_efffL - magnitude);
      long halves;
      if ((normal & SIGNS) == SIGNS) {
        long odd = (magnitude >>> 13) & 0x0000_0001_0000_0001L;
        long rounded = magnitude + odd - 0x37ff_f001_37ff_f001L;
        halves =
            ((rounded >>> 13) & 0x0000_7fff_0000_7fffL) | ((pair >>> 16) & 0x0000_8000_0000_8000L);
      } else {
        halves = toFloat16((int) pair) | (long) toFloat16((int) (pair >>> 32)) << 32;
      }
      int packed = (int) halves | (int) (halves >>> 16);
      different |= packed ^ weights[i];
    }
    return different == 0;
  }

  /**
   * The bits of the float with the bits {@code master}, cast to {@code module}, which is {@link
   * DType#BFLOAT16} or {@link DType#FLOAT16}.
   */
  public static int toBits(int master, DType module) {
    return module == DType.BFLOAT16 ? toBfloat16(master) : toFloat16(master);
  }

  /** Whether elements can be cast so while they are copied. */
  public static boolean supports(Conversion conversion) {
    return isFloat(conversion.from())
        && isFloat(conversion.to())
        && conversion.from() != conversion.to();
  }

  private static boolean isFloat(DType type) {
    return type == DType.FLOAT32 || type == DType.BFLOAT16 || type == DType.FLOAT16;
  }

  /**
   * Casts elements. To a wider type every value stays what it is; between the two of 16 bits a
   * value is rounded once, as the way through a float is exact.
   *
   * @param from little endian; position and limit are not moved
   * @param to room for as many elements, little endian; position and limit are not moved
   * @param conversion one that is {@linkplain #supports(Conversion) supported}
   */
  static void cast(ByteBuffer from, ByteBuffer to, Conversion conversion) {
    ByteBuffer source = from.slice().order(ByteOrder.LITTLE_ENDIAN);
    ByteBuffer target = to.slice().order(ByteOrder.LITTLE_ENDIAN);
    if (conversion.from() == DType.FLOAT32) {
      IntBuffer floats = source.asIntBuffer();
      ShortBuffer rounded = target.asShortBuffer();
      while (floats.hasRemaining()) {
        rounded.put((short) toBits(floats.get(), conversion.to()));
      }
      return;
    }
    ShortBuffer halves = source.asShortBuffer();
    if (conversion.to() == DType.FLOAT32) {
      IntBuffer floats = target.asIntBuffer();
      while (halves.hasRemaining()) {
        floats.put(toFloat(halves.get(), conversion.from()));
      }
      return;
    }
    ShortBuffer rounded = target.asShortBuffer();
    while (halves.hasRemaining()) {
      rounded.put((short) toBits(toFloat(halves.get(), conversion.from()), conversion.to()));
    }
  }

  /** The bits of the float of the same value as {@code bits} of a type of 16 bits. */
  static int toFloat(short bits, DType type) {
    if (type == DType.BFLOAT16) {
      return bits << 16;
    }
    int sign = (bits & 0x8000) << 16;
    int magnitude = bits & 0x7fff;
    if (magnitude >= 0x7c00) {
      return sign | 0x7f80_0000 | (magnitude & 0x3ff) << 13;
    }
    if (magnitude >= 0x400) {
      return sign | ((magnitude << 13) + 0x3800_0000);
    }
    // Below the smallest normal half a unit in the last place is 2^-24.
    return sign | Float.floatToRawIntBits(magnitude * 0x1p-24f);
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
