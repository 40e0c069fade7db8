package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.params.provider.Arguments.arguments;

import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.WithoutBeam;
import java.nio.file.Path;
import java.util.Set;
import java.util.stream.Stream;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** There and back is the source. */
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
}
