package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.planner.TargetDegrees;
import io.github.reshard.checkpoint.planner.TensorHints;
import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * The graph gives the bytes that {@link WithoutBeam} gives, whose files are held against
 * DeepSpeed's own in the module checkpoint; with the runner's checks of coders and mutations on
 * where a case says most.
 */
class SameBytesTest {
  @TempDir Path temp;

  static List<GoldenCase> cases() {
    return GoldenCase.all();
  }

  private static void assertSame(Path expected, Path found) throws IOException {
    assertThat(CheckpointComparison.fileNames(found))
        .isEqualTo(CheckpointComparison.fileNames(expected))
        .isNotEmpty();
    for (String file : CheckpointComparison.fileNames(expected)) {
      assertThat(Files.mismatch(expected.resolve(file), found.resolve(file)))
          .as(file)
          .isEqualTo(-1);
    }
  }

  @ParameterizedTest
  @MethodSource("cases")
  void everyCaseAtAnotherNumberOfRanks(GoldenCase golden) throws IOException {
    int ranks = golden.expertParallelSize() * 3;
    WithoutBeam.reshard(golden.source(), temp.resolve("loop"), ranks);

    assertSame(temp.resolve("loop"), Resharding.of(golden, ranks));
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "z2-fp32-twogroups",
        "z1-bf16",
        "z2-fp16-dynamic",
        "z3-bf16-subgroups",
        "pp2-z1",
        "tp2-z1",
        "moe-z2-ep2"
      })
  void partsOfFewBytesMakeTheSameFiles(String name) throws IOException {
    GoldenCase golden = GoldenCase.of(name);
    int ranks = golden.expertParallelSize() * 3;
    ReshardOptions options = Resharding.options(golden.source(), temp.resolve("small"), ranks);
    options.setPartBytes(1021);
    Resharding.run(Resharding.checked(options));

    assertSame(Resharding.of(golden, ranks), temp.resolve("small"));
  }

  @ParameterizedTest
  @ValueSource(ints = {1, 3})
  void anotherStage(int stage) throws IOException {
    GoldenCase golden = GoldenCase.of("z2-freeze-tie");
    WithoutBeam.reshard(golden.source(), temp.resolve("loop"), 3, stage);
    ReshardOptions options = Resharding.options(golden.source(), temp.resolve("graph"), 3);
    options.setTargetStage(stage);
    Resharding.run(Resharding.checked(options));

    assertSame(temp.resolve("loop"), temp.resolve("graph"));
  }

  /** Strided pieces, frozen ones among them, in parts that end within rows. */
  @ParameterizedTest
  @CsvSource({
    "tensor/frozen-z1/tp2dp2, 3, 3, 0",
    "tensor/frozen-z3/tp3dp1, 2, 1, 0",
    "tensor/llama-z3/tp2dp1, 3, 3, 4",
    "degrees/grid/p2t2d2, 1, 1, 0",
  })
  void otherTensorParallelRanks(String saved, int ranks, int stage, int heads) throws IOException {
    Path source = Path.of(System.getProperty("reshard.testdata"), saved.split("/"));
    TargetDegrees degrees =
        new TargetDegrees(
            Optional.of(
                new TensorHints(
                    ranks, Optional.empty(), OptionalInt.of(heads), OptionalInt.of(2))));
    WithoutBeam.reshard(source, temp.resolve("loop"), 2, stage, degrees);
    ReshardOptions options = Resharding.options(source, temp.resolve("graph"), 2);
    options.setTargetStage(stage);
    options.setTargetTensorParallelSize(ranks);
    options.setKvHeads(heads);
    options.setVocabularyMultiple(2);
    options.setPartBytes(1021);
    Resharding.run(options);

    assertSame(temp.resolve("loop"), temp.resolve("graph"));
  }
}
