package io.github.reshard.runners;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.pipeline.ReshardReport;
import java.util.List;
import org.junit.jupiter.api.Test;

class SummaryTest {
  private static ReshardReport report(String grids) {
    return new ReshardReport(
        "global_step6",
        4,
        2,
        2,
        1,
        2,
        grids,
        12,
        1_234_567,
        15L << 20,
        14L << 20,
        3,
        2.0,
        "out/global_step6",
        List.of("every element is accounted for once", "every byte read has its recorded CRC-32"),
        List.of("round robin order was undone"));
  }

  @Test
  void tellsRanksParametersBytesSecondsPlaceAndProofs() {
    assertThat(Summary.of(report("")))
        .isEqualTo(
            """
            Resharded global_step6
              ranks       4 → 2 data-parallel ranks
              parameters  12, 1,234,567 elements
              bytes       15.0 MiB read, 14.0 MiB written to 3 files
              time        2.0 s, 7.0 MiB/s
              output      out/global_step6
              proven      every element is accounted for once
                          every byte read has its recorded CRC-32
              note        round robin order was undone\
            """);
  }

  @Test
  void saysTheGridsOfBothSides() {
    assertThat(Summary.of(report("4 GPUs = 2 data x 2 tensor → 2 GPUs = 2 data")))
        .contains("\n  GPUs        4 GPUs = 2 data x 2 tensor → 2 GPUs = 2 data\n");
  }
}
