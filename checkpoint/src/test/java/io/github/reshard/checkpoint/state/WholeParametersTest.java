package io.github.reshard.checkpoint.state;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.state.Models.Model;
import io.github.reshard.checkpoint.zero12.FlatLayout;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import org.junit.jupiter.api.Test;

class WholeParametersTest implements Models.Provided {
  /** {@code params_in_partition} of get_partition_info, element by element, end to end. */
  @Property(tries = 300)
  void everyRankHoldsAllOfWhatItsPartitionTouches(
      @ForAll("models") Model model, @ForAll("worldSizes") int ranks) {
    FlatLayout layout = model.layout(ranks);
    WholeParameters whole = new WholeParameters(layout);
    List<Extent> all = new ArrayList<>();
    int first = 0;
    for (int g = 0; g < model.groups().size(); g++) {
      List<Integer> flat = new ArrayList<>();
      int size = model.groups().get(g).size();
      for (int place : Models.dealOut(size, model.roundRobin() ? ranks : 1)) {
        for (long i = 0; i < layout.parameters().get(first + place).elements(); i++) {
          flat.add(first + place);
        }
      }
      int partition = (int) layout.bucketElements(g);
      for (int rank = 0; rank < ranks; rank++) {
        int from = Math.min(flat.size(), rank * partition);
        int to = Math.min(flat.size(), (rank + 1) * partition);
        Set<Integer> touched = new LinkedHashSet<>(flat.subList(from, to));
        List<Extent> expected = new ArrayList<>();
        long at = 0;
        for (int p : touched) {
          long elements = layout.parameters().get(p).elements();
          expected.add(new Extent(p, 0, rank, g, at, elements));
          at += elements;
        }
        assertThat(whole.extentsIn(rank, g)).isEqualTo(expected);
        assertThat(whole.elementsIn(rank, g)).isEqualTo(at);
        all.addAll(expected);
      }
      first += size;
    }
    for (int p = 0; p < layout.parameters().size(); p++) {
      int parameter = p;
      assertThat(whole.extentsOf(p))
          .isEqualTo(all.stream().filter(e -> e.parameter() == parameter).toList());
    }
  }

  @Test
  void ranksThatShareAParameterHoldACopyEachAndPaddingNothing() {
    List<Parameter> parameters =
        List.of(new Parameter("a", List.of(3L), 0), new Parameter("b", List.of(2L), 0));
    WholeParameters whole =
        new WholeParameters(
            new FlatLayout(4, parameters, List.of(FlatLayout.Group.dense(2, 4)), false));

    assertThat(whole.extentsIn(0, 0)).containsExactly(new Extent(0, 0, 0, 0, 0, 3));
    assertThat(whole.extentsIn(1, 0))
        .containsExactly(new Extent(0, 0, 1, 0, 0, 3), new Extent(1, 0, 1, 0, 3, 2));
    assertThat(whole.extentsIn(2, 0)).containsExactly(new Extent(1, 0, 2, 0, 0, 2));
    assertThat(whole.elementsIn(3, 0)).isZero();
  }
}
