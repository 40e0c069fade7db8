package io.github.reshard.checkpoint.torch;

/**
 * CRC-32 and CRC-32C of concatenations, without the bytes: zlib's {@code crc32_combine}, arithmetic
 * in GF(2)[x] modulo the polynomial.
 */
public final class Crc32Combine {
  private static final Crc32Combine CRC_32 = new Crc32Combine(0xedb88320);

  /** Castagnoli's polynomial. */
  private static final Crc32Combine CRC_32C = new Crc32Combine(0x82f63b78);

  private final int polynomial;

  /** Entry {@code k} is x to the power of 2^k, bits reflected; the powers repeat after 32. */
  private final int[] powers = new int[32];

  private Crc32Combine(int polynomial) {
    this.polynomial = polynomial;
    int power = 1 << 30;
    for (int k = 0; k < powers.length; k++) {
      powers[k] = power;
      power = multiply(power, power);
    }
  }

  /** The CRC-32 of A followed by B, given theirs and the length of B in bytes. */
  public static int combine(int crcA, int crcB, long bytesB) {
    return CRC_32.joined(crcA, crcB, bytesB);
  }

  /** The CRC-32C of A followed by B, given theirs and the length of B in bytes. */
  public static int combineCastagnoli(int crcA, int crcB, long bytesB) {
    return CRC_32C.joined(crcA, crcB, bytesB);
  }

  private int joined(int crcA, int crcB, long bytesB) {
    return multiply(zeroBytes(bytesB), crcA) ^ crcB;
  }

  /** What a CRC gives to the CRC of a whole that ends some bytes behind it; made once for many. */
  public static final class Shift {
    private final int factor;

    /**
     * @param bytes how many bytes follow
     */
    public Shift(long bytes) {
      factor = CRC_32.zeroBytes(bytes);
    }

    /** The CRC {@code crc}, moved. */
    public int of(int crc) {
      return CRC_32.multiply(factor, crc);
    }
  }

  /** The CRC-32 of {@code bytes} zero bytes. */
  public static int ofZeros(long bytes) {
    return ~CRC_32.multiply(CRC_32.zeroBytes(bytes), ~0);
  }

  /** What shifting a CRC register by {@code bytes} zero bytes multiplies it with. */
  private int zeroBytes(long bytes) {
    if (bytes < 0) {
      throw new IllegalArgumentException("negative length " + bytes);
    }
    int product = 1 << 31;
    int k = 3;
    for (long rest = bytes; rest != 0; rest >>>= 1) {
      if ((rest & 1) != 0) {
        product = multiply(powers[k & 31], product);
      }
      k++;
    }
    return product;
  }

  private int multiply(int a, int b) {
    int product = 0;
    int factor = b;
    for (int bit = 1 << 31; bit != 0; bit >>>= 1) {
      if ((a & bit) != 0) {
        product ^= factor;
      }
      factor = (factor & 1) != 0 ? (factor >>> 1) ^ polynomial : factor >>> 1;
    }
    return product;
  }
}
