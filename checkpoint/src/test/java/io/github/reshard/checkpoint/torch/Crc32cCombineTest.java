package io.github.reshard.checkpoint.torch;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.charset.StandardCharsets;
import java.util.zip.CRC32C;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import org.junit.jupiter.api.Test;

class Crc32cCombineTest {
  private static int crc(byte[] bytes, int from, int to) {
    CRC32C crc = new CRC32C();
    crc.update(bytes, from, to - from);
    return (int) crc.getValue();
  }

  @Property
  void theCrcOfAConcatenationFollowsFromThoseOfItsParts(@ForAll byte[] bytes, @ForAll int cut) {
    int at = Math.floorMod(cut, bytes.length + 1);
    assertThat(
            Crc32Combine.combineCastagnoli(
                crc(bytes, 0, at), crc(bytes, at, bytes.length), bytes.length - at))
        .isEqualTo(crc(bytes, 0, bytes.length));
  }

  /** The check value of CRC-32C (RFC 3720, B.4, and every catalogue of CRCs). */
  @Test
  void theCheckValueIsRight() {
    byte[] digits = "123456789".getBytes(StandardCharsets.US_ASCII);
    assertThat(Crc32Combine.combineCastagnoli(crc(digits, 0, 4), crc(digits, 4, 9), 5))
        .isEqualTo(0xe3069283);
  }
}
