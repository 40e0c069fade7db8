package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.params.provider.Arguments.arguments;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** Mixtures of experts whose model file has no {@code param_shapes}: DeepSpeed before 0.19.3. */
class ExpertsBefore0193Test {
  private static final Path FIELD = Path.of(System.getProperty("reshard.testdata"), "field");
  private static final int MOST_RANKS = 16;

  @TempDir Path temp;

  /**
   * A checkpoint of testdata/field.
   *
   * @param ranks how many saved it
   * @param size what has to divide the number of ranks
   */
  private record Saved(String name, int ranks, int size) {
    Path source() {
      return FIELD.resolve(name).resolve("source");
    }

    @Override
    public String toString() {
      return name;
    }
  }

  static List<Saved> saved() {
    return List.of(
        new Saved("moe-deepspeed-0.9.5", 4, 2),
        new Saved("moe-deepspeed-0.16.9", 4, 2),
        new Saved("moe-round-robin-0.9.5", 4, 2),
        new Saved("moe-frozen-tied-residual-0.9.5", 4, 4),
        new Saved("moe-config-path-0.9.5", 4, 4),
        new Saved("moe-untrained-0.9.5", 4, 2),
        new Saved("moe-data-first-0.12.6", 6, 2),
        new Saved("moe-two-groups-0.14.5", 4, 2));
  }

  static Stream<Arguments> references() {
    return Stream.of(
        arguments("moe-round-robin-0.9.5", 6),
        arguments("moe-frozen-tied-residual-0.9.5", 8),
        arguments("moe-config-path-0.9.5", 8),
        arguments("moe-data-first-0.12.6", 4),
        arguments("moe-two-groups-0.14.5", 2));
  }

  @ParameterizedTest
  @MethodSource("references")
  void everyFileIsWhatThatDeepSpeedWrites(String name, int worldSize) {
    Path output = temp.resolve("output");
    Path source = FIELD.resolve(name).resolve("source");
    WithoutBeam.reshard(source, output, worldSize);

    assertThat(
            CheckpointComparison.with(FIELD.resolve(name).resolve("reference-" + worldSize))
                .firstDifference(output))
        .isEmpty();
  }

  @ParameterizedTest
  @MethodSource("saved")
  void atItsOwnSizeEveryFileIsTheSourceByteForByte(Saved saved) throws IOException {
    Path output = temp.resolve("output");
    WithoutBeam.reshard(saved.source(), output, saved.ranks());

    assertThat(CheckpointComparison.fileNames(output))
        .isEqualTo(CheckpointComparison.fileNames(saved.source()));
    for (String file : CheckpointComparison.fileNames(output)) {
      assertThat(Files.mismatch(saved.source().resolve(file), output.resolve(file)))
          .as("first byte that differs in %s", file)
          .isEqualTo(-1);
    }
  }

  @ParameterizedTest
  @MethodSource("saved")
  void fromEveryNumberOfRanksAndBackEveryFileIsTheSource(Saved saved) {
    for (int ranks :
        IntStream.rangeClosed(1, MOST_RANKS).filter(r -> r % saved.size() == 0).toArray()) {
      Path there = temp.resolve("there-" + ranks);
      Path back = temp.resolve("back-" + ranks);
      WithoutBeam.reshard(saved.source(), there, ranks);
      if (saved.name().contains("path") && ranks > saved.ranks()) {
        // So few parameters are in the same order with and without round robin there.
        continue;
      }
      WithoutBeam.reshard(there, back, saved.ranks());

      assertThat(CheckpointComparison.with(saved.source()).firstDifference(back))
          .as("over %d ranks", ranks)
          .isEmpty();
    }
  }

  @Test
  void anotherStageIsRefusedForItsTrueReason() {
    Path source = FIELD.resolve("moe-deepspeed-0.16.9").resolve("source");

    assertThatThrownBy(() -> WithoutBeam.reshard(source, temp.resolve("output"), 4, 1))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("before 0.19.3");
  }

  @Test
  void aNumberOfRanksThatTheExpertsDoNotDivideIsRefused() {
    Path source = FIELD.resolve("moe-deepspeed-0.9.5").resolve("source");

    assertThatThrownBy(() -> WithoutBeam.reshard(source, temp.resolve("output"), 3))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("the expert-parallel size is 2");
  }
}
