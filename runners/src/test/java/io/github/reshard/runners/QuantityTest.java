package io.github.reshard.runners;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class QuantityTest {
  @ParameterizedTest
  @CsvSource({
    "0, 0 B",
    "1023, 1023 B",
    "1024, 1.0 KiB",
    "1536, 1.5 KiB",
    "3221225472, 3.0 GiB",
    "9223372036854775807, 8192.0 PiB"
  })
  void bytesHaveBinaryUnits(long bytes, String text) {
    assertThat(Quantity.bytes(bytes)).isEqualTo(text);
  }

  @ParameterizedTest
  @CsvSource({
    "0.04, 0.0 s",
    "9.94, 9.9 s",
    "9.99, 10 s",
    "59.4, 59 s",
    "59.6, 1 min 0 s",
    "75, 1 min 15 s",
    "3600, 1 h 0 min",
    "7380, 2 h 3 min"
  })
  void timesAreAsCoarseAsTheyAreLong(double seconds, String text) {
    assertThat(Quantity.seconds(seconds)).isEqualTo(text);
  }
}
