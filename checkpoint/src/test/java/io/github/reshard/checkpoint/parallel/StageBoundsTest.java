package io.github.reshard.checkpoint.parallel;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.constraints.LongRange;
import net.jqwik.api.constraints.Size;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

class StageBoundsTest {
  private static final Path GOLDEN =
      Path.of(System.getProperty("reshard.testdata"), "pipeline", "parts.txt");

  static Stream<String> golden() throws IOException {
    return Files.readAllLines(GOLDEN).stream().filter(line -> !line.startsWith("#"));
  }

  private static List<Integer> numbers(String text) {
    return Arrays.stream(text.split(",", -1)).map(Integer::valueOf).toList();
  }

  @ParameterizedTest
  @MethodSource("golden")
  void layersAreDividedAsDeepSpeedDividesThem(String line) {
    String[] fields = line.split(";", -1);
    List<Long> weights = Arrays.stream(fields[0].split(",", -1)).map(Long::valueOf).toList();
    int stages = Integer.parseInt(fields[1]);

    assertThat(StageBounds.balanced(weights, stages).parts()).isEqualTo(numbers(fields[2]));
    assertThat(StageBounds.uniform(weights.size(), stages).parts()).isEqualTo(numbers(fields[3]));
  }

  @Property(tries = 200)
  void everyLayerHasOneStageAndStagesAreInOrder(
      @ForAll @Size(min = 1, max = 20) List<@LongRange(min = 0, max = 1000) Long> weights,
      @ForAll @IntRange(min = 1, max = 9) int stages) {
    for (StageBounds bounds :
        List.of(
            StageBounds.balanced(weights, stages), StageBounds.uniform(weights.size(), stages))) {
      assertThat(bounds.stages()).isEqualTo(stages);
      assertThat(bounds.layers()).isEqualTo(weights.size());
      int before = 0;
      for (int layer = 0; layer < weights.size(); layer++) {
        int stage = bounds.stageOf(layer);
        assertThat(bounds.parts().get(stage)).isLessThanOrEqualTo(layer);
        assertThat(bounds.parts().get(stage + 1)).isGreaterThan(layer);
        assertThat(stage).isGreaterThanOrEqualTo(before);
        before = stage;
      }
      assertThat(bounds.stageOf(weights.size())).isEqualTo(-1);
    }
  }

  /** As with {@code type:transformer} of Megatron-DeepSpeed: the ends do not count. */
  @Test
  void classesAreMatchedInAnyCase() {
    List<String> classes =
        List.of("", "EmbeddingPipe", "", "TransformerLayer", "TransformerLayer", "LayerNorm", "");

    assertThat(StageBounds.ofType(classes, "Transformer", 2))
        .isEqualTo(StageBounds.balanced(List.of(0L, 0L, 0L, 1L, 1L, 0L, 0L), 2));
    assertThat(StageBounds.ofType(classes, "^(embedding|layernorm)", 2))
        .isEqualTo(StageBounds.balanced(List.of(0L, 1L, 0L, 0L, 0L, 1L, 0L), 2));
  }

  @Test
  void boundsThatAreNoneAreRefused() {
    assertThatThrownBy(() -> new StageBounds(List.of(1, 2)))
        .hasMessageContaining("stages begin at layer 0");
    assertThatThrownBy(() -> new StageBounds(List.of(0, 3, 2)))
        .hasMessageContaining("in the order of their layers");
  }
}
