package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.params.provider.Arguments.arguments;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Set;
import java.util.stream.Stream;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** What does not depend on the way: there and back, and the size of the parts. */
class RoundTripTest {
  private static final Set<String> DIFFER_BY_RANK = Set.of("z3-odd-bf16", "adafactor-z2");

  @TempDir Path temp;

  /** To fewer ranks, to more, and to a number that has no factor in common. */
  static Stream<Arguments> casesAndDetours() {
    return GoldenCase.all().stream()
        .flatMap(
            c ->
                Stream.of(1, 7, 16)
                    .map(m -> m * c.expertParallelSize())
                    .filter(m -> m != c.sourceWorld())
                    // Of what differs by rank (client state, Adafactor's RMS), and of padding that
                    // is
                    // not zero (Adafactor's exp_avg_sq), fewer ranks keep only what they have.
                    .filter(m -> !DIFFER_BY_RANK.contains(c.name()) || m > c.sourceWorld())
                    .map(m -> arguments(c, m)));
  }

  @ParameterizedTest
  @MethodSource("casesAndDetours")
  void thereAndBackIsTheSource(GoldenCase golden, int detour) {
    Path there = temp.resolve("there");
    Path back = temp.resolve("back");
    WithoutBeam.reshard(golden.source(), there, detour);
    WithoutBeam.reshard(there, back, golden.sourceWorld());

    assertThat(CheckpointComparison.with(golden.source()).firstDifference(back)).isEmpty();
  }

  @ParameterizedTest
  @ValueSource(strings = {"z2-fp32-twogroups", "z1-bf16", "pp2-z1", "z3-bf16-subgroups"})
  void withARunnerTheFilesAreTheSame(String name) throws IOException {
    GoldenCase golden = GoldenCase.of(name);
    WithoutBeam.reshard(golden.source(), temp.resolve("loop"), 7);

    Path graph = Resharding.of(golden, 7);
    assertThat(CheckpointComparison.fileNames(temp.resolve("loop")))
        .isEqualTo(CheckpointComparison.fileNames(graph));
    for (String file : CheckpointComparison.fileNames(graph)) {
      assertThat(Files.mismatch(graph.resolve(file), temp.resolve("loop").resolve(file)))
          .as(file)
          .isEqualTo(-1);
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"z2-fp32-twogroups", "z1-bf16", "z2-fp16-dynamic", "pp2-z1"})
  void partsOfFewBytesMakeTheSameFiles(String name) throws IOException {
    GoldenCase golden = GoldenCase.of(name);
    ReshardOptions options = Resharding.options(golden.source(), temp.resolve("small"), 3);
    options.setPartBytes(1021);
    Resharding.run(options);

    Path usual = Resharding.of(golden, 3);
    for (String file : CheckpointComparison.fileNames(usual)) {
      assertThat(Files.mismatch(usual.resolve(file), temp.resolve("small").resolve(file)))
          .as(file)
          .isEqualTo(-1);
    }
  }
}
