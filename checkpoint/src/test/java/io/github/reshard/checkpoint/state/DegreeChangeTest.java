package io.github.reshard.checkpoint.state;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.testing.WithoutBeam;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** What is said of the GPUs that saved a checkpoint, and of those that will load it. */
class DegreeChangeTest {
  private static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));

  @TempDir Path temp;

  @ParameterizedTest
  @CsvSource({
    "1, 1, 4 GPUs = 4 data",
    "1, 2, 8 GPUs = 4 data x 2 tensor",
    "2, 3, 24 GPUs = 4 data x 3 tensor x 2 pipeline",
  })
  void theGridIsAllDegrees(int pipeline, int tensor, String grid) {
    assertThat(ModelParallelism.of(pipeline, tensor).grid(4)).isEqualTo(grid);
  }

  @Test
  void ranksOfWhichNothingIsKnownAreModelParallel() {
    assertThat(ModelParallelism.ofRanks(2).grid(1)).isEqualTo("2 GPUs = 1 data x 2 model-parallel");
  }

  @ParameterizedTest
  @CsvSource({
    "field/sequence-parallel-0.18.2-z2/source, 6,"
        + " '4 GPUs = 2 data x 2 sequence, of which ZeRO counts 4"
        + " → 6 GPUs = 6 ranks of ZeRO, data x sequence'",
    "corpus/pp2-z1/source, 1, '4 GPUs = 2 data x 2 pipeline → 2 GPUs = 1 data x 2 pipeline'",
    "tensor/columns-z3/tp2dp2, 1, '4 GPUs = 2 data x 2 tensor → 2 GPUs = 1 data x 2 tensor'",
    "degrees/grid/p2t2d2, 1,"
        + " '8 GPUs = 2 data x 2 tensor x 2 pipeline → 4 GPUs = 1 data x 2 tensor x 2 pipeline'",
    "tensor/columns-z1/tp1dp3, 2, ''",
  })
  void bothGridsAreThoseOfTheFiles(String source, int ranks, String grids) {
    assertThat(WithoutBeam.reshard(TESTDATA.resolve(source), temp.resolve("output"), ranks).grids())
        .isEqualTo(grids);
  }
}
