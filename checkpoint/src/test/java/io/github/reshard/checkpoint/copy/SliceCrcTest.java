package io.github.reshard.checkpoint.copy;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import java.util.zip.CRC32;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.constraints.Size;
import org.junit.jupiter.api.Test;

class SliceCrcTest {
  private static int crc(byte[] bytes, int from, int to) {
    CRC32 crc = new CRC32();
    crc.update(bytes, from, to - from);
    return (int) crc.getValue();
  }

  @Property(tries = 300)
  void runsInAnyOrderMakeTheCrcOfTheWhole(
      @ForAll @Size(max = 8) List<@IntRange(max = 500) Integer> lengths, @ForAll long seed) {
    int total = lengths.stream().mapToInt(n -> n).sum();
    byte[] bytes = new byte[total];
    Random random = new Random(seed);
    random.nextBytes(bytes);
    List<SliceCrc> runs = new ArrayList<>();
    int at = 0;
    for (int length : lengths) {
      runs.add(new SliceCrc(100 + at, length, crc(bytes, at, at + length)));
      at += length;
    }
    Collections.shuffle(runs, random);

    assertThat(SliceCrc.sum(100, total, runs))
        .isEqualTo(new SliceCrc.Sum.Whole(crc(bytes, 0, total)));
  }

  private static SliceCrc.Sum sum(SliceCrc... runs) {
    return SliceCrc.sum(10, 30, Arrays.asList(runs));
  }

  @Test
  void aGapIsNamed() {
    assertThat(sum(new SliceCrc(10, 10, 1), new SliceCrc(25, 15, 1)))
        .isEqualTo(new SliceCrc.Sum.Broken(20, 25));
  }

  @Test
  void anOverlapIsNamed() {
    assertThat(sum(new SliceCrc(10, 20, 1), new SliceCrc(25, 15, 1)))
        .isEqualTo(new SliceCrc.Sum.Broken(30, 25));
  }

  @Test
  void aMissingEndIsNamed() {
    assertThat(sum(new SliceCrc(10, 20, 1))).isEqualTo(new SliceCrc.Sum.Broken(30, 40));
  }

  @Test
  void aRunThatIsTooLongIsNamed() {
    assertThat(sum(new SliceCrc(10, 31, 1))).isEqualTo(new SliceCrc.Sum.Broken(41, 40));
  }

  @Test
  void noRunsAreTheWholeOfNothingOnly() {
    assertThat(SliceCrc.sum(10, 0, List.of())).isEqualTo(new SliceCrc.Sum.Whole(0));
    assertThat(sum()).isEqualTo(new SliceCrc.Sum.Broken(10, 40));
  }
}
