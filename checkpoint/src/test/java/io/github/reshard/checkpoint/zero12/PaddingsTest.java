package io.github.reshard.checkpoint.zero12;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.Models;
import io.github.reshard.checkpoint.state.Parameter;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.Combinators;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import org.junit.jupiter.api.Test;

/** The flat buffers of all versions, against DeepSpeed's own steps, element by element. */
class PaddingsTest {
  /** One group: the sizes of its parameters in the original order. */
  record Group(List<Integer> sizes, boolean roundRobin, int alignment, boolean wholeOnLastRank) {
    FlatLayout layout(int ranks) {
      List<Parameter> parameters = new ArrayList<>();
      for (int size : sizes) {
        parameters.add(new Parameter("p" + parameters.size(), List.of((long) size), 0));
      }
      return new FlatLayout(
          ranks,
          parameters,
          List.of(FlatLayout.Group.dense(sizes.size(), ranks)),
          roundRobin,
          new Paddings(wholeOnLastRank, List.of(alignment)));
    }

    /** What DeepSpeed 0.19.8 records as round_robin_bit16_padding. */
    List<Long> between(int ranks) {
      List<Long> paddings = new ArrayList<>();
      int at = 0;
      List<Integer> order = Models.dealOut(sizes.size(), roundRobin ? ranks : 1);
      for (int place = 0; place < order.size(); place++) {
        at += sizes.get(order.get(place));
        int padding = 0;
        while (place < order.size() - 1 && (at + padding) % alignment != 0) {
          padding++;
        }
        paddings.add((long) padding);
        at += padding;
      }
      return paddings;
    }

    /** Each element of the flat buffer as "parameter:index", padding as null. */
    List<String> flat(int ranks) {
      List<String> flat = new ArrayList<>();
      List<Integer> order = Models.dealOut(sizes.size(), roundRobin ? ranks : 1);
      for (int place = 0; place < order.size(); place++) {
        for (int i = 0; i < sizes.get(order.get(place)); i++) {
          flat.add(order.get(place) + ":" + i);
        }
        flat.addAll(Collections.nCopies(between(ranks).get(place).intValue(), null));
      }
      while (flat.size() % (2 * ranks) != 0) {
        flat.add(null);
      }
      return flat;
    }

    int aligned(int ranks) {
      return sizes.stream().mapToInt(n -> n).sum()
          + between(ranks).stream().mapToInt(Long::intValue).sum();
    }
  }

  @Provide
  Arbitrary<Group> groups() {
    return Combinators.combine(
            Arbitraries.integers().between(0, 21).list().ofMinSize(1).ofMaxSize(8),
            Arbitraries.of(true, false),
            Arbitraries.of(1, 2, 4, 8, 16),
            Arbitraries.of(true, false))
        .as(Group::new);
  }

  @Provide
  Arbitrary<Integer> worldSizes() {
    return Models.worldSizes();
  }

  private static List<String> held(List<Extent> extents, int partition) {
    String[] held = new String[partition];
    for (Extent extent : extents) {
      for (int i = 0; i < extent.elements(); i++) {
        held[(int) extent.bucketStart() + i] =
            extent.parameter() + ":" + (extent.parameterStart() + i);
      }
    }
    return Arrays.asList(held);
  }

  @Property(tries = 300)
  void everyElementIsWhereDeepSpeedPutsIt(
      @ForAll("groups") Group group, @ForAll("worldSizes") int ranks) {
    FlatLayout layout = group.layout(ranks);
    List<String> flat = group.flat(ranks);
    int partition = flat.size() / ranks;

    assertThat(layout.alignmentPaddings(0)).isEqualTo(group.between(ranks));
    assertThat(layout.groupElements(0)).isEqualTo(group.aligned(ranks));
    assertThat(layout.flatElements(0)).isEqualTo(flat.size());
    for (int rank = 0; rank < ranks; rank++) {
      assertThat(held(layout.extentsIn(rank, 0), partition))
          .isEqualTo(flat.subList(rank * partition, (rank + 1) * partition));
    }
    List<String> byParameter = new ArrayList<>(Collections.nCopies(flat.size(), null));
    for (int p = 0; p < group.sizes().size(); p++) {
      for (Extent extent : layout.extentsOf(p)) {
        for (int i = 0; i < extent.elements(); i++) {
          int at = extent.rank() * partition + (int) extent.bucketStart() + i;
          byParameter.set(at, p + ":" + (extent.parameterStart() + i));
        }
      }
    }
    assertThat(byParameter).isEqualTo(flat);
    for (int i = 0; i < flat.size(); i++) {
      String element = flat.get(i);
      assertThat(layout.parameterAt(0, i))
          .isEqualTo(
              element == null ? -1 : Integer.parseInt(element.substring(0, element.indexOf(':'))));
    }
  }

  @Property(tries = 300)
  void paddingIsWhatNoParameterHolds(
      @ForAll("groups") Group group, @ForAll("worldSizes") int ranks) {
    List<String> flat = group.flat(ranks);
    List<Boolean> padding = new ArrayList<>(Collections.nCopies(flat.size(), false));
    for (FlatLayout.Run run : group.layout(ranks).flatPadding(0)) {
      assertThat(run.elements()).isPositive();
      for (long i = run.start(); i < run.start() + run.elements(); i++) {
        padding.set((int) i, true);
      }
    }
    assertThat(padding).isEqualTo(flat.stream().map(element -> element == null).toList());
  }

  /** group[:numel - padding], as Python reads a negative end. */
  @Property(tries = 500)
  void mastersAreCutAsPythonCutsThem(
      @ForAll("groups") Group group, @ForAll("worldSizes") int ranks) {
    FlatLayout layout = group.layout(ranks);
    int flat = group.flat(ranks).size();
    int partition = flat / ranks;
    int data = group.aligned(ranks);
    for (int rank = 0; rank < ranks; rank++) {
      int left = rank * partition;
      int own = data <= left ? partition : Math.max(0, left + partition - data);
      int padding = group.wholeOnLastRank() ? (rank == ranks - 1 ? flat - data : 0) : own;
      List<Integer> numbers = new ArrayList<>(Collections.nCopies(partition, 0));
      int end = partition - padding;
      List<Integer> cut =
          end >= 0
              ? numbers.subList(0, end)
              : -end >= partition ? List.of() : numbers.subList(0, partition - -end);

      assertThat(layout.recordedPadding(rank, 0)).isEqualTo(padding);
      assertThat(layout.cutElements(rank, 0)).isEqualTo(cut.size());
      long held =
          layout.extentsIn(rank, 0).stream()
              .mapToLong(extent -> extent.bucketStart() + extent.elements())
              .max()
              .orElse(0);
      assertThat(layout.cutElements(rank, 0)).isGreaterThanOrEqualTo(held);
    }
  }

  @Property(tries = 300)
  void mappingsAreRightWhereThereAreGaps(
      @ForAll("groups") Group group, @ForAll("worldSizes") int ranks) {
    boolean gaps = group.between(ranks).stream().anyMatch(padding -> padding > 0);
    FlatLayout layout = group.layout(ranks);
    FlatLayout plain = new Group(group.sizes(), false, 1, false).layout(ranks);
    for (int rank = 0; rank < ranks; rank++) {
      List<Extent> recorded = layout.recordedExtentsIn(rank, 0);
      if (gaps) {
        assertThat(recorded).containsExactlyInAnyOrderElementsOf(layout.extentsIn(rank, 0));
        assertThat(recorded).extracting(Extent::parameter).isSorted();
      } else {
        assertThat(recorded).isEqualTo(plain.recordedExtentsIn(rank, 0));
      }
    }
  }

  /** From N ranks to M and back, by the elements that the extents name. */
  @Property(tries = 200)
  void thereAndBackEveryElementIsWhereItWas(
      @ForAll("groups") Group group,
      @ForAll("worldSizes") int ranks,
      @ForAll("worldSizes") int others) {
    FlatLayout source = group.layout(ranks);
    FlatLayout target = group.layout(others);
    List<String> there = moved(source, group.flat(ranks), target);

    assertThat(there).isEqualTo(group.flat(others));
    assertThat(moved(target, there, source)).isEqualTo(group.flat(ranks));
  }

  private static List<String> moved(FlatLayout from, List<String> flat, FlatLayout to) {
    List<String> moved = new ArrayList<>(Collections.nCopies((int) to.flatElements(0), null));
    for (int p = 0; p < from.parameters().size(); p++) {
      for (int i = 0; i < from.parameters().get(p).elements(); i++) {
        moved.set((int) to.flatStart(p) + i, flat.get((int) from.flatStart(p) + i));
      }
    }
    return moved;
  }

  @Test
  void aTinyGroupOfDeepSpeed095() {
    // testdata/field/tiny-group-deepspeed-0.9.5: 14 and 6 elements on 8 ranks.
    FlatLayout layout = new Group(List.of(1, 1, 1, 1, 1, 1), false, 1, true).layout(8);

    assertThat(layout.recordedPadding(7, 0)).isEqualTo(10);
    assertThat(layout.cutElements(7, 0)).isZero();
    assertThat(layout.recordedPadding(5, 0)).isZero();
    assertThat(layout.cutElements(5, 0)).isEqualTo(2);
  }

  @Test
  void aNegativeEndCountsFromTheBack() {
    // 5 elements on 4 ranks: partitions of 2, padding 3, so [:2 - 3].
    FlatLayout layout = new Group(List.of(5), false, 1, true).layout(4);

    assertThat(layout.recordedPadding(3, 0)).isEqualTo(3);
    assertThat(layout.cutElements(3, 0)).isEqualTo(1);
  }
}
