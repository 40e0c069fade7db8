package io.github.reshard.checkpoint.zero12;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.Models;
import io.github.reshard.checkpoint.state.Models.Model;
import io.github.reshard.checkpoint.state.Parameter;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.stream.IntStream;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import org.junit.jupiter.api.Test;

class FlatLayoutTest implements Models.Provided {
  /** An element of a parameter. */
  private record Element(int parameter, long index) {}

  @Property(tries = 300)
  void theExtentsOfAParameterCoverItInOrder(
      @ForAll("models") Model model, @ForAll("worldSizes") int ranks) {
    FlatLayout layout = model.layout(ranks);
    Models.assertExtentsCoverParameters(layout);
  }

  @Property(tries = 300)
  void ranksHoldTheExtentsOfTheParametersAndNoOthers(
      @ForAll("models") Model model, @ForAll("worldSizes") int ranks) {
    FlatLayout layout = model.layout(ranks);
    List<Extent> byRank = new ArrayList<>();
    for (int rank = 0; rank < ranks; rank++) {
      for (int bucket = 0; bucket < layout.buckets(); bucket++) {
        assertThat(layout.holds(rank, bucket)).isTrue();
        assertThat(layout.extentsIn(rank, bucket))
            .isSortedAccordingTo(Comparator.comparingLong(Extent::bucketStart));
        byRank.addAll(layout.extentsIn(rank, bucket));
      }
    }
    List<Extent> byParameter = new ArrayList<>();
    for (int p = 0; p < layout.parameters().size(); p++) {
      byParameter.addAll(layout.extentsOf(p));
    }
    assertThat(byRank).containsExactlyInAnyOrderElementsOf(byParameter);
  }

  /** flatten_dense_tensors_aligned and get_data_parallel_partitions, element by element. */
  @Property(tries = 200)
  void partitionsAreTheFlatGroupPaddedAndCut(
      @ForAll("models") Model model, @ForAll("worldSizes") int ranks) {
    FlatLayout layout = model.layout(ranks);
    int first = 0;
    for (int g = 0; g < model.groups().size(); g++) {
      int size = model.groups().get(g).size();
      List<Element> flat = new ArrayList<>();
      for (int place : Models.dealOut(size, model.roundRobin() ? ranks : 1)) {
        long elements = layout.parameters().get(first + place).elements();
        for (long i = 0; i < elements; i++) {
          flat.add(new Element(first + place, i));
        }
      }
      int data = flat.size();
      while (flat.size() % (2 * ranks) != 0) {
        flat.add(null);
      }
      int partition = flat.size() / ranks;
      assertThat(layout.groupElements(g)).isEqualTo(data);
      assertThat(layout.flatElements(g)).isEqualTo(flat.size());
      assertThat(layout.bucketElements(g)).isEqualTo(partition);
      for (int rank = 0; rank < ranks; rank++) {
        List<Element> mine = flat.subList(rank * partition, (rank + 1) * partition);
        assertThat(held(layout.extentsIn(rank, g), partition)).isEqualTo(mine);
        assertThat(layout.padding(rank, g)).isEqualTo(mine.stream().filter(e -> e == null).count());
        assertThat(layout.paddingOnLastRank(rank, g))
            .isEqualTo(rank == ranks - 1 ? flat.size() - data : 0);
      }
      first += size;
    }
  }

  private static List<Element> held(List<Extent> extents, int partition) {
    List<Element> held = new ArrayList<>();
    for (Extent extent : extents) {
      while (held.size() < extent.bucketStart()) {
        held.add(null);
      }
      for (long i = 0; i < extent.elements(); i++) {
        held.add(new Element(extent.parameter(), extent.parameterStart() + i));
      }
    }
    while (held.size() < partition) {
      held.add(null);
    }
    return held;
  }

  @Property(tries = 200)
  void whatIsRecordedIsTheLayoutWithoutRoundRobin(
      @ForAll("models") Model model, @ForAll("worldSizes") int ranks) {
    FlatLayout layout = model.layout(ranks);
    FlatLayout original = new Model(model.groups(), false).layout(ranks);
    for (int g = 0; g < layout.buckets(); g++) {
      for (int rank = 0; rank < ranks; rank++) {
        assertThat(layout.recordedExtentsIn(rank, g)).isEqualTo(original.extentsIn(rank, g));
      }
    }
  }

  @Property
  void roundRobinIsADealOfCards(
      @ForAll @IntRange(max = 60) int parameters, @ForAll @IntRange(min = 1, max = 70) int ranks) {
    List<Integer> order = RoundRobin.flatOrder(parameters, ranks);
    List<Integer> original = IntStream.range(0, parameters).boxed().toList();

    assertThat(order).isEqualTo(Models.dealOut(parameters, ranks));
    assertThat(RoundRobin.undo(order, ranks)).isEqualTo(original);
  }

  @Test
  void anExpertsGroupIsSharedByEverySecondRank() {
    FlatLayout layout =
        new FlatLayout(
            4,
            List.of(
                new Parameter("dense", List.of(5L), 0), new Parameter("expert", List.of(3L), 1)),
            List.of(FlatLayout.Group.dense(1, 4), new FlatLayout.Group(1, 1, 2, 2)),
            false);

    assertThat(layout.extentsOf(1))
        .containsExactly(new Extent(1, 0, 1, 1, 0, 2), new Extent(1, 2, 3, 1, 0, 1));
    assertThat(layout.extentsIn(0, 1)).isEmpty();
    assertThat(layout.holds(2, 1)).isFalse();
    assertThat(layout.extentsIn(3, 1)).containsExactly(new Extent(1, 2, 3, 1, 0, 1));
  }

  @Test
  void layoutsOfTheSameContentAreEqual() {
    Model model = new Model(List.of(List.of(List.of(3L))), true);
    Set<FlatLayout> layouts = new HashSet<>();
    layouts.add(model.layout(2));
    layouts.add(model.layout(2));
    layouts.add(model.layout(3));
    layouts.add(new Model(model.groups(), false).layout(2));
    assertThat(layouts).hasSize(3);
  }
}
