package io.github.reshard.checkpoint.torch;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.zip.CRC32;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.constraints.LongRange;
import org.junit.jupiter.api.Test;

class Crc32CombineTest {
  @Property
  void combinedIsTheCrcOfTheConcatenation(@ForAll byte[] a, @ForAll byte[] b) {
    CRC32 both = new CRC32();
    both.update(a);
    both.update(b);

    assertThat(Crc32Combine.combine(crc(a), crc(b), b.length)).isEqualTo((int) both.getValue());
  }

  @Property(tries = 200)
  void zerosNeedNoBytes(@ForAll @IntRange(max = 100_000) int length) {
    assertThat(Crc32Combine.ofZeros(length)).isEqualTo(crc(new byte[length]));
  }

  @Property(tries = 200)
  void zerosOfAnyLengthAreAdditive(
      @ForAll @LongRange(max = 1L << 61) long a, @ForAll @LongRange(max = 1L << 61) long b) {
    assertThat(Crc32Combine.combine(Crc32Combine.ofZeros(a), Crc32Combine.ofZeros(b), b))
        .isEqualTo(Crc32Combine.ofZeros(a + b));
  }

  /** The value that PyTorch recorded for such a storage: testdata/large/skeleton.txt. */
  @Test
  void zerosBeyond4GiB() {
    assertThat(Crc32Combine.ofZeros(4831838208L)).isEqualTo(0xe90177c6);
  }

  private static int crc(byte[] bytes) {
    CRC32 crc = new CRC32();
    crc.update(bytes);
    return (int) crc.getValue();
  }
}
