package io.github.reshard.checkpoint.copy;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.plan.Conversion;
import io.github.reshard.checkpoint.torch.DType;
import java.math.BigDecimal;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.List;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

class WeightCastTest {
  /** A 16-bit format by its definition in IEEE 754. */
  private enum Format {
    HALF(10, 15),
    BRAIN(7, 127);

    final int fractionBits;
    final int bias;

    Format(int fractionBits, int bias) {
      this.fractionBits = fractionBits;
      this.bias = bias;
    }

    int infinity() {
      return 0x7fff >> fractionBits << fractionBits;
    }

    /**
     * The value of positive bits; for those of infinity, the one that a larger exponent would have.
     */
    BigDecimal value(int bits) {
      int exponent = bits >> fractionBits;
      int fraction = bits & ((1 << fractionBits) - 1);
      int significand = exponent == 0 ? fraction : fraction + (1 << fractionBits);
      int power = Math.max(exponent, 1) - bias - fractionBits;
      BigDecimal two = BigDecimal.valueOf(2);
      return power >= 0
          ? BigDecimal.valueOf(significand).multiply(two.pow(power))
          : BigDecimal.valueOf(significand).divide(two.pow(-power));
    }

    /** Searches all positive numbers for the nearest; of two, the even one. */
    int nearest(float magnitude) {
      if (Float.isInfinite(magnitude)) {
        return infinity();
      }
      BigDecimal exact = new BigDecimal(magnitude);
      int low = 0;
      int high = infinity();
      while (low < high) {
        int middle = (low + high + 1) / 2;
        if (value(middle).compareTo(exact) <= 0) {
          low = middle;
        } else {
          high = middle - 1;
        }
      }
      if (low == infinity()) {
        return low;
      }
      int nearer = exact.subtract(value(low)).compareTo(value(low + 1).subtract(exact));
      return nearer < 0 || (nearer == 0 && low % 2 == 0) ? low : low + 1;
    }

    int cast(int floatBits) {
      return WeightCastTest.cast(this, floatBits);
    }
  }

  private static int cast(Format format, int floatBits) {
    return format == Format.HALF
        ? WeightCast.toFloat16(floatBits)
        : WeightCast.toBfloat16(floatBits);
  }

  @Test
  void every16BitNumberIsItsOwnCast() {
    for (Format format : Format.values()) {
      for (int bits = 0; bits < format.infinity(); bits++) {
        float exact = format.value(bits).floatValue();
        assertThat(format.cast(Float.floatToRawIntBits(exact))).isEqualTo(bits);
        assertThat(format.cast(Float.floatToRawIntBits(-exact))).isEqualTo(bits | 0x8000);
      }
    }
  }

  @Test
  void halfwayBetweenTwoIsTheEvenOneAndNextToItTheNearer() {
    for (Format format : Format.values()) {
      for (int bits = 0; bits < format.infinity(); bits++) {
        BigDecimal sum = format.value(bits).add(format.value(bits + 1));
        float middle = sum.divide(BigDecimal.valueOf(2)).floatValue();
        int even = bits % 2 == 0 ? bits : bits + 1;
        assertThat(format.cast(Float.floatToRawIntBits(middle))).isEqualTo(even);
        assertThat(format.cast(Float.floatToRawIntBits(Math.nextDown(middle)))).isEqualTo(bits);
        assertThat(format.cast(Float.floatToRawIntBits(Math.nextUp(middle)))).isEqualTo(bits + 1);
      }
    }
  }

  @Property(tries = 3000)
  void anyFloatBecomesTheNearestNumber(@ForAll int bits) {
    float value = Float.intBitsToFloat(bits);
    if (Float.isNaN(value)) {
      return;
    }
    for (Format format : Format.values()) {
      int sign = bits >>> 31 << 15;
      assertThat(format.cast(bits)).isEqualTo(sign | format.nearest(Math.abs(value)));
    }
  }

  @ParameterizedTest
  @CsvSource({
    "65519.996, 7bff, the largest half",
    "65520, 7c00, beyond it",
    "6.103515625e-5, 0400, the smallest normal half",
    "5.9604645e-8, 0001, the smallest half",
    "2.9802322e-8, 0000, a tie between zero and the smallest half",
    "2.9802326e-8, 0001, just above the tie",
    "1e-45, 0000, the smallest float",
    "-0.0, 8000, minus zero",
    "Infinity, 7c00, infinity"
  })
  void theEndsOfHalf(float value, String bits, String what) {
    assertThat(WeightCast.toFloat16(Float.floatToRawIntBits(value)))
        .as(what)
        .isEqualTo(Integer.parseInt(bits, 16));
  }

  private static ByteBuffer floats(float... values) {
    ByteBuffer buffer = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
    for (float value : values) {
      buffer.putFloat(value);
    }
    return buffer.flip();
  }

  private static ByteBuffer shorts(int... values) {
    ByteBuffer buffer = ByteBuffer.allocate(2 * values.length).order(ByteOrder.LITTLE_ENDIAN);
    for (int value : values) {
      buffer.putShort((short) value);
    }
    return buffer.flip();
  }

  @Provide
  Arbitrary<List<Integer>> floatBits() {
    return Arbitraries.oneOf(
            Arbitraries.integers(),
            Arbitraries.integers().between(0x387f_fff0, 0x3880_000f),
            Arbitraries.integers().between(0x477f_efe0, 0x477f_f00f),
            Arbitraries.integers().between(0x3c00_0000, 0x3d00_0000))
        .map(bits -> isNan(bits) ? 0x7f80_0000 : bits)
        .list()
        .ofMinSize(1)
        .ofMaxSize(9);
  }

  private static boolean isNan(int bits) {
    return Float.isNaN(Float.intBitsToFloat(bits));
  }

  @Property
  void ofManyElementsTheOneThatDiffersIsFound(
      @ForAll("floatBits") List<Integer> bits, @ForAll int element, @ForAll int bit) {
    for (Format format : Format.values()) {
      DType module = format == Format.HALF ? DType.FLOAT16 : DType.BFLOAT16;
      ByteBuffer masters = ByteBuffer.allocate(4 * bits.size()).order(ByteOrder.LITTLE_ENDIAN);
      bits.forEach(masters::putInt);
      masters.flip();
      int[] casts = bits.stream().mapToInt(format::cast).toArray();
      assertThat(WeightCast.firstMismatch(masters, DType.FLOAT32, shorts(casts), module))
          .isEqualTo(-1);

      int changed = Math.floorMod(element, casts.length);
      casts[changed] ^= 1 << Math.floorMod(bit, 16);

      assertThat(WeightCast.firstMismatch(masters, DType.FLOAT32, shorts(casts), module))
          .isEqualTo(changed);
    }
  }

  @Test
  void theFirstElementThatDiffersIsFound() {
    assertThat(
            WeightCast.firstMismatch(
                floats(1f, 2f, 3f, 4f),
                DType.FLOAT32,
                shorts(0x3f80, 0x4000, 0, 0),
                DType.BFLOAT16))
        .isEqualTo(2);
    assertThat(
            WeightCast.firstMismatch(
                floats(1f, 2f), DType.FLOAT32, shorts(0x3c00, 0x4000), DType.FLOAT16))
        .isEqualTo(-1);
    assertThat(
            WeightCast.firstMismatch(
                floats(1f, 2f), DType.FLOAT32, floats(1f, 2.5f), DType.FLOAT32))
        .isEqualTo(1);
    assertThat(
            WeightCast.firstMismatch(
                shorts(1, 2, 3), DType.FLOAT16, shorts(1, 2, 4), DType.FLOAT16))
        .isEqualTo(2);
  }

  @Test
  void anyNanIsAnyOtherButNoNumber() {
    float nan = Float.intBitsToFloat(0xffc12345);
    assertThat(
            WeightCast.firstMismatch(
                floats(nan, nan), DType.FLOAT32, shorts(0x7fc0, 0xff81), DType.BFLOAT16))
        .isEqualTo(-1);
    assertThat(
            WeightCast.firstMismatch(
                floats(nan, nan), DType.FLOAT32, shorts(0x7e00, 0x7c00), DType.FLOAT16))
        .isEqualTo(1);
    assertThat(WeightCast.firstMismatch(floats(1f), DType.FLOAT32, shorts(0x7fc0), DType.BFLOAT16))
        .isEqualTo(0);
  }

  /** All of them: to a float and back every half and every bfloat16 is what it was. */
  @ParameterizedTest
  @EnumSource(
      value = DType.class,
      names = {"FLOAT16", "BFLOAT16"})
  void aWiderTypeHoldsEveryValue(DType narrow) {
    for (int bits = 0; bits < 1 << 16; bits++) {
      float wide = Float.intBitsToFloat(WeightCast.toFloat((short) bits, narrow));
      if (Float.isNaN(wide)) {
        int infinity = narrow == DType.FLOAT16 ? 0x7c00 : 0x7f80;
        assertThat(bits & 0x7fff).isGreaterThan(infinity);
      } else {
        assertThat(WeightCast.toBits(Float.floatToRawIntBits(wide), narrow)).isEqualTo(bits);
      }
    }
  }

  @Test
  void betweenTheTwoNarrowTypesAValueIsRoundedOnce() {
    short[] values = {0x3f81, (short) 0xbf80, 0x7f80, 0x4780, 0x0001, 0x3380};
    ByteBuffer from = ByteBuffer.allocate(12).order(ByteOrder.LITTLE_ENDIAN);
    from.asShortBuffer().put(values);
    ByteBuffer to = ByteBuffer.allocate(12).order(ByteOrder.LITTLE_ENDIAN);

    WeightCast.cast(from, to, new Conversion(DType.BFLOAT16, DType.FLOAT16));

    short[] cast = new short[6];
    to.asShortBuffer().get(cast);
    // 1.0078125, -1, infinity, 65536 (too large), 2^-133 (too small), 2^-24 (the smallest)
    assertThat(cast).containsExactly(0x3c08, 0xbc00, 0x7c00, 0x7c00, 0x0000, 0x0001);
  }

  @Test
  void onlyFloatsOfThreeTypesAreCast() {
    assertThat(WeightCast.supports(new Conversion(DType.FLOAT32, DType.BFLOAT16))).isTrue();
    assertThat(WeightCast.supports(new Conversion(DType.FLOAT16, DType.FLOAT32))).isTrue();
    assertThat(WeightCast.supports(new Conversion(DType.FLOAT32, DType.FLOAT32))).isFalse();
    assertThat(WeightCast.supports(new Conversion(DType.FLOAT64, DType.FLOAT32))).isFalse();
    assertThat(WeightCast.supports(new Conversion(DType.INT8, DType.FLOAT16))).isFalse();
  }
}
