package io.github.reshard.runners;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.pipeline.ReshardReport;
import java.util.List;
import org.junit.jupiter.api.Test;

class SummaryTest {
  private static ReshardReport report(int modelParallel, int pipeline, int tensor) {
    return new ReshardReport(
        "global_step6",
        4,
        2,
        modelParallel,
        pipeline,
        tensor,
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
    assertThat(Summary.of(report(1, 0, 0)))
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
  void saysHowManyGpusThatIs() {
    assertThat(Summary.of(report(2, 1, 2)))
        .contains("  GPUs        2 data-parallel x 2 tensor-parallel = 4 GPUs\n");
    assertThat(Summary.gpus(report(6, 2, 3)))
        .isEqualTo("2 data-parallel x 2 pipeline-parallel x 3 tensor-parallel = 12 GPUs");
  }

  @Test
  void saysModelParallelWhenTheCheckpointDoesNotTellThemApart() {
    assertThat(Summary.gpus(report(2, 0, 0)))
        .isEqualTo("2 data-parallel x 2 model-parallel = 4 GPUs");
  }
}
