package io.github.reshard.checkpoint.zero3;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.Models;
import io.github.reshard.checkpoint.state.Models.Model;
import io.github.reshard.checkpoint.state.Parameter;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.LongRange;
import org.junit.jupiter.api.Test;

class ShardedLayoutTest implements Models.Provided {
  private static ShardedLayout layout(Model model, int ranks, long subGroupSize) {
    return new ShardedLayout(ranks, model.layout(1).parameters(), subGroupSize);
  }

  @Property(tries = 300)
  void theExtentsOfAParameterCoverItInOrder(
      @ForAll("models") Model model,
      @ForAll("worldSizes") int ranks,
      @ForAll @LongRange(max = 60) long subGroupSize) {
    ShardedLayout layout = layout(model, ranks, subGroupSize);
    Models.assertExtentsCoverParameters(layout);
  }

  @Property(tries = 300)
  void ranksHoldTheExtentsOfTheParametersAndNoOthers(
      @ForAll("models") Model model,
      @ForAll("worldSizes") int ranks,
      @ForAll @LongRange(max = 60) long subGroupSize) {
    ShardedLayout layout = layout(model, ranks, subGroupSize);
    List<Extent> byRank = new ArrayList<>();
    for (int rank = 0; rank < ranks; rank++) {
      for (int bucket = 0; bucket < layout.buckets(); bucket++) {
        long at = 0;
        for (Extent extent : layout.extentsIn(rank, bucket)) {
          assertThat(extent.bucketStart()).isGreaterThanOrEqualTo(at);
          at = extent.bucketStart() + extent.elements();
          byRank.add(extent);
        }
        assertThat(at).isLessThanOrEqualTo(layout.bucketElements(bucket));
      }
    }
    List<Extent> byParameter = new ArrayList<>();
    for (int p = 0; p < layout.parameters().size(); p++) {
      byParameter.addAll(layout.extentsOf(p));
    }
    assertThat(byRank).containsExactlyInAnyOrderElementsOf(byParameter);
  }

  /** _partition_param and _create_fp16_sub_groups, step by step as they do it. */
  @Property(tries = 300)
  void subGroupsCloseWhenTheirPiecesReachTheSize(
      @ForAll("models") Model model,
      @ForAll("worldSizes") int ranks,
      @ForAll @LongRange(max = 60) long subGroupSize) {
    List<List<Integer>> expected = new ArrayList<>();
    List<Long> lengths = new ArrayList<>();
    int next = 0;
    for (List<List<Long>> group : model.groups()) {
      List<Long> pieces = new ArrayList<>();
      for (List<Long> shape : group) {
        long elements = shape.stream().reduce(1L, (a, b) -> a * b);
        pieces.add((elements + (ranks - elements % ranks) % ranks) / ranks);
      }
      List<Integer> open = new ArrayList<>();
      long length = 0;
      boolean whole = subGroupSize >= pieces.stream().mapToLong(n -> n).sum();
      for (int i = 0; i < pieces.size(); i++) {
        open.add(next++);
        length += pieces.get(i);
        if (i == pieces.size() - 1 || (!whole && length >= subGroupSize)) {
          expected.add(open);
          lengths.add(length);
          open = new ArrayList<>();
          length = 0;
        }
      }
    }
    ShardedLayout layout = layout(model, ranks, subGroupSize);
    List<List<Integer>> found = new ArrayList<>();
    List<Long> foundLengths = new ArrayList<>();
    for (int b = 0; b < layout.buckets(); b++) {
      List<Integer> parameters = new ArrayList<>();
      for (int p = layout.firstOf(b); p < layout.firstOf(b + 1); p++) {
        parameters.add(p);
        assertThat(layout.groupOf(b)).isEqualTo(layout.parameters().get(p).group());
      }
      found.add(parameters);
      foundLengths.add(layout.bucketElements(b));
    }
    assertThat(found).isEqualTo(expected);
    assertThat(foundLengths).isEqualTo(lengths);
  }

  @Test
  void aPieceMayBePaddingOnly() {
    ShardedLayout layout =
        new ShardedLayout(
            4,
            List.of(new Parameter("five", List.of(5L), 0), new Parameter("two", List.of(2L), 0)),
            1_000_000_000);

    assertThat(layout.bucketElements(0)).isEqualTo(3);
    assertThat(layout.extentsOf(0))
        .containsExactly(
            new Extent(0, 0, 0, 0, 0, 2),
            new Extent(0, 2, 1, 0, 0, 2),
            new Extent(0, 4, 2, 0, 0, 1));
    assertThat(layout.extentsIn(3, 0)).isEmpty();
  }

  @Test
  void layoutsOfTheSameContentAreEqual() {
    Model model = new Model(List.of(List.of(List.of(3L), List.of(3L))), false);
    Set<ShardedLayout> layouts = new HashSet<>();
    layouts.add(layout(model, 2, 100));
    layouts.add(layout(model, 2, 1000));
    layouts.add(layout(model, 2, 1));
    layouts.add(layout(model, 3, 100));
    assertThat(layouts).hasSize(3);
  }
}
