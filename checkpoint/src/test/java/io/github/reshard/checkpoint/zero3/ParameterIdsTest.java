package io.github.reshard.checkpoint.zero3;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.state.Parameter;
import java.util.List;
import java.util.Set;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

class ParameterIdsTest {
  private static final List<String> NAMES =
      List.of("gain", "emb.weight", "block.ln.weight", "block.fc.weight", "head.weight");
  private static final Set<String> TIED = Set.of("head.weight");

  /** A sub-group for each parameter, or one for all of them. */
  private static ShardedLayout layout(long subGroupSize) {
    return new ShardedLayout(
        2,
        Stream.of("gain", "emb.weight", "block.ln.weight", "block.fc.weight")
            .map(name -> new Parameter(name, List.of(4L), 0))
            .toList(),
        subGroupSize);
  }

  private static List<String> labels(List<String> source) {
    return ParameterIds.labels(NAMES, TIED, layout(100), source, layout(0));
  }

  @Test
  void parametersAreNumberedInTheOrderOfTheModule() {
    assertThat(labels(List.of("0_3"))).containsExactly("0_0", "1_1", "2_2", "3_3");
  }

  @Test
  void aSecondEngineOfAProcessCountsOn() {
    assertThat(labels(List.of("7_10"))).containsExactly("7_7", "8_8", "9_9", "10_10");
  }

  @Test
  void underZeroInitChildrenComeFirstAndTiedNamesLeaveAHole() {
    // emb 0, block.ln 1, block.fc 2, head 3 (tied), then the root's own: gain 4.
    assertThat(labels(List.of("4_2"))).containsExactly("4_4", "0_0", "1_1", "2_2");
  }

  @Test
  void whatTheSourceShowsIsKeptWhereNoOrderFits() {
    assertThat(labels(List.of("5_90"))).containsExactly("5_5", "6_6", "7_7", "90_90");
  }

  @Test
  void labelsOfAnotherFormAreLeftAlone() {
    assertThat(labels(List.of("first"))).isEmpty();
  }
}
