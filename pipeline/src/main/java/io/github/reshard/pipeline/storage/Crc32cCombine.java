package io.github.reshard.pipeline.storage;

/**
 * CRC-32C of concatenations without the bytes, as {@code zlib.crc32_combine} does it, with
 * Castagnoli's polynomial.
 */
final class Crc32cCombine {
  private static final int POLYNOMIAL = 0x82f63b78;

  private Crc32cCombine() {}

  /** The CRC-32C of A followed by B, given theirs and the length of B in bytes. */
  static int combine(int crcA, int crcB, long bytesB) {
    // x to the power of the bits of B, by squaring; bits are reflected, so 1 is the highest.
    int shift = 1 << 31;
    int power = 1 << 23;
    for (long rest = bytesB; rest != 0; rest >>>= 1) {
      if ((rest & 1) != 0) {
        shift = multiply(power, shift);
      }
      power = multiply(power, power);
    }
    return multiply(shift, crcA) ^ crcB;
  }

  private static int multiply(int a, int b) {
    int product = 0;
    int factor = b;
    for (int bit = 1 << 31; bit != 0; bit >>>= 1) {
      if ((a & bit) != 0) {
        product ^= factor;
      }
      factor = (factor & 1) != 0 ? (factor >>> 1) ^ POLYNOMIAL : factor >>> 1;
    }
    return product;
  }
}
