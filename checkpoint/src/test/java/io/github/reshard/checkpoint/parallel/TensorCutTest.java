package io.github.reshard.checkpoint.parallel;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.LocalTensor;
import java.util.ArrayList;
import java.util.List;
import java.util.OptionalInt;
import java.util.Random;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class TensorCutTest {
  /**
   * The shapes that DeepSpeed 0.19.8 saved of a Llama of Transformers 4.57.6 with 8 heads of 8, 4
   * of them key-value heads, a hidden size of 48, 70 in the MLP and a vocabulary of 97, under
   * AutoTP with its default specs.
   */
  @ParameterizedTest
  @CsvSource({
    "model.layers.0.self_attn.q_proj, 64, '32,32'",
    "model.layers.0.self_attn.q_proj, 64, '32,16,16'",
    "model.layers.0.self_attn.q_proj, 64, '16,16,16,16'",
    "model.layers.0.self_attn.k_proj, 32, '16,8,8'",
    "model.layers.0.self_attn.k_proj, 32, '8,8,8,8'",
    "model.layers.0.self_attn.o_proj, 64, '32,16,16'",
    "model.layers.0.mlp.gate_proj, 70, '35,35'",
    "model.layers.0.mlp.gate_proj, 70, '24,23,23'",
    "model.layers.0.mlp.down_proj, 70, '18,18,17,17'",
    "lm_head, 97, '49,48'",
    "lm_head, 97, '33,32,32'",
    "lm_head, 97, '25,24,24,24'",
  })
  void widthsAreThoseThatDeepSpeedSaved(String layer, long size, String expected) {
    List<Long> widths = new ArrayList<>();
    for (String width : expected.split(",", -1)) {
      widths.add(Long.valueOf(width));
    }

    assertThat(ShardWidths.of(size, widths.size(), OptionalInt.of(4), layer)).isEqualTo(widths);
  }

  @Test
  void withoutHeadsAllIsCutEvenly() {
    assertThat(ShardWidths.of(64, 3, OptionalInt.empty(), "self_attn.q_proj"))
        .containsExactly(22L, 21L, 21L);
  }

  @Property(tries = 300)
  void widthsAreAllOfTheDimension(
      @ForAll @IntRange(max = 1000) int size,
      @ForAll @IntRange(min = 1, max = 16) int ranks,
      @ForAll @IntRange(min = 1, max = 40) int heads) {
    for (String layer : List.of("self_attn.q_proj", "mlp.up_proj", "lm_head")) {
      List<Long> widths = ShardWidths.of(size, ranks, OptionalInt.of(heads), layer);
      assertThat(widths).hasSize(ranks);
      assertThat(widths.stream().mapToLong(Long::longValue).sum()).isEqualTo(size);
    }
  }

  @Property(tries = 300)
  void theShardsAreEveryElementOnce(
      @ForAll Random random, @ForAll @IntRange(min = 1, max = 6) int ranks) {
    List<Long> shape = new ArrayList<>();
    for (int d = 1 + random.nextInt(4); d > 0; d--) {
      shape.add((long) random.nextInt(6));
    }
    int dimension = random.nextInt(shape.size());
    List<List<Long>> widths = new ArrayList<>();
    long all = 0;
    for (int matrix = 1 + random.nextInt(3); matrix > 0; matrix--) {
      int size = random.nextInt(9);
      widths.add(ShardWidths.of(size, ranks, OptionalInt.empty(), "w"));
      all += size;
    }
    shape.set(dimension, all);

    List<LocalTensor> locals = new TensorCut(dimension, widths).of(shape);

    List<Box> boxes = new ArrayList<>();
    locals.forEach(local -> local.blocks().forEach(block -> boxes.add(block.full())));
    assertThat(Box.tile(shape, boxes)).isTrue();
    for (LocalTensor local : locals) {
      assertThat(
              Box.tile(
                  local.shape(), local.blocks().stream().map(LocalTensor.Block::local).toList()))
          .isTrue();
    }
  }

  @Test
  void fusedMatricesAreCutEachByItself() {
    TensorCut cut = new TensorCut(0, List.of(List.of(2L, 1L), List.of(4L, 5L)));

    LocalTensor second = cut.of(List.of(12L, 7L)).get(1);

    assertThat(second.shape()).containsExactly(6L, 7L);
    assertThat(second.blocks())
        .containsExactly(
            new LocalTensor.Block(new Box(List.of(2L, 0L), List.of(1L, 7L)), List.of(0L, 0L)),
            new LocalTensor.Block(new Box(List.of(7L, 0L), List.of(5L, 7L)), List.of(1L, 0L)));
  }

  @Test
  void widthsThatAreNotTheDimensionAreNoCut() {
    TensorCut cut = new TensorCut(1, List.of(List.of(2L, 1L)));

    assertThatThrownBy(() -> cut.of(List.of(3L, 4L))).hasMessageContaining("dimension 1 of [3, 4]");
    assertThatThrownBy(() -> cut.of(List.of(3L))).hasMessageContaining("dimension 1 of [3]");
  }
}
