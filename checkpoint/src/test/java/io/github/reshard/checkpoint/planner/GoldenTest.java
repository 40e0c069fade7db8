package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.params.provider.Arguments.arguments;

import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.ShardedPieces;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** What comes out of a reshard against what DeepSpeed itself wrote. */
class GoldenTest {
  @TempDir Path output;

  static List<GoldenCase> cases() {
    return GoldenCase.all();
  }

  static Stream<Arguments> references() {
    return cases().stream().flatMap(c -> c.referenceWorlds().stream().map(m -> arguments(c, m)));
  }

  @Test
  void theCorpusIsThere() {
    assertThat(cases()).hasSize(46);
    assertThat(references()).hasSize(23);
  }

  @ParameterizedTest
  @MethodSource("cases")
  void atItsOwnSizeEveryFileIsTheSourceByteForByte(GoldenCase golden) throws IOException {
    WithoutBeam.reshard(golden.source(), output, golden.sourceWorld());

    assertThat(CheckpointComparison.fileNames(output))
        .isEqualTo(CheckpointComparison.fileNames(golden.source()));
    for (String file : CheckpointComparison.fileNames(output)) {
      byte[] found = Files.readAllBytes(output.resolve(file));
      if (golden.isSharded() && file.endsWith(".pt")) {
        ShardedPieces.restorePadding(found, golden.source(), file);
      }
      assertThat(Arrays.mismatch(found, Files.readAllBytes(golden.source().resolve(file))))
          .as("first byte that differs in %s", file)
          .isEqualTo(-1);
    }
  }

  @ParameterizedTest
  @MethodSource("references")
  void atAnotherSizeEveryFileIsWhatDeepSpeedWrites(GoldenCase golden, int worldSize) {
    WithoutBeam.reshard(golden.source(), output, worldSize);

    assertThat(
            CheckpointComparison.withSource(golden.reference(worldSize), golden.source())
                .firstDifference(output))
        .isEmpty();
  }
}
