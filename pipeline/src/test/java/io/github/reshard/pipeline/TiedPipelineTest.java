package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.testing.Scratch;
import java.nio.file.Path;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Stages that have the same layer: its copies are compared before one of them goes on. */
class TiedPipelineTest {
  private static final String LAST_STAGE = "zero_pp_rank_0_mp_rank_01_optim_states.pt";
  private static final String SECOND_MOMENT = "2";

  @TempDir Path temp;
  private Path input;

  @BeforeEach
  void copySource() {
    Path testdata = Path.of(System.getProperty("reshard.testdata"));
    input = Scratch.copyOf(testdata.resolve("degrees/pipeline-tied/source"), temp.resolve("input"));
  }

  private ReshardOptions toOneStage() {
    ReshardOptions options = Resharding.options(input, temp.resolve("output"), 1);
    options.setTargetPipelineParallelSize(1);
    return options;
  }

  /** The checksum fits: only the other stage's copy tells. */
  @Test
  void copiesThatDifferAreRefused() {
    Scratch.change(
        input.resolve("global_step3").resolve(LAST_STAGE),
        SECOND_MOMENT,
        bytes -> bytes.put(12, (byte) (bytes.get(12) ^ 1)));

    assertThat(Resharding.refusal(toOneStage()))
        .contains("tied_modules.embed.table.weight")
        .contains("element 3 differs");
  }

  @Test
  void bothGridsAreSaid() {
    assertThat(Resharding.run(toOneStage()).grids())
        .isEqualTo("2 GPUs = 1 data x 2 pipeline → 1 GPU = 1 data");
  }

  /** One stage less takes fewer GPUs for each data-parallel rank. */
  @Test
  void gpusAreCountedByTheTargetsStages() {
    ReshardOptions options = toOneStage();
    options.setTargetWorldSize(null);
    options.as(CommandOptions.class).setGpus(4);

    assertThat(Resharding.run(options).targetWorldSize()).isEqualTo(4);
  }
}
