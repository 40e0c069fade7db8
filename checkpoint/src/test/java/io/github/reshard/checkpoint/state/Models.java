package io.github.reshard.checkpoint.state;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.zero12.FlatLayout;
import java.util.ArrayList;
import java.util.List;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.Combinators;
import net.jqwik.api.Provide;

/** Random param groups: few or no elements in many of them, so that padding covers whole ranks. */
public final class Models {
  private Models() {}

  /**
   * The shapes of the parameters, group after group.
   *
   * @param groups for each group the shapes, in the order in which the optimizer was given them
   * @param roundRobin whether {@code round_robin_gradients} is on
   */
  public record Model(List<List<List<Long>>> groups, boolean roundRobin) {
    public FlatLayout layout(int ranks) {
      List<Parameter> parameters = new ArrayList<>();
      List<FlatLayout.Group> sizes = new ArrayList<>();
      for (List<List<Long>> group : groups) {
        for (List<Long> shape : group) {
          parameters.add(new Parameter("p" + parameters.size(), shape, sizes.size()));
        }
        sizes.add(FlatLayout.Group.dense(group.size(), ranks));
      }
      return new FlatLayout(ranks, parameters, sizes, roundRobin);
    }
  }

  /** Has them for a test, by the names {@code models} and {@code worldSizes}. */
  public interface Provided {
    @Provide
    default Arbitrary<Model> models() {
      return Models.models();
    }

    @Provide
    default Arbitrary<Integer> worldSizes() {
      return Models.worldSizes();
    }
  }

  /** The extents of each parameter cover it in their order. */
  public static void assertExtentsCoverParameters(ZeroLayout layout) {
    for (int p = 0; p < layout.parameters().size(); p++) {
      long at = 0;
      for (Extent extent : layout.extentsOf(p)) {
        assertThat(extent.parameter()).isEqualTo(p);
        assertThat(extent.parameterStart()).isEqualTo(at);
        assertThat(extent.elements()).isPositive();
        at += extent.elements();
      }
      assertThat(at).isEqualTo(layout.parameters().get(p).elements());
    }
  }

  /** Data-parallel ranks. */
  public static Arbitrary<Integer> worldSizes() {
    return Arbitraries.integers().between(1, 24);
  }

  private static Arbitrary<Model> models() {
    Arbitrary<List<Long>> shape =
        Arbitraries.longs().between(0, 5).list().ofMinSize(0).ofMaxSize(3);
    Arbitrary<List<List<List<Long>>>> groups =
        shape.list().ofMinSize(1).ofMaxSize(7).list().ofMinSize(1).ofMaxSize(3);
    return Combinators.combine(groups, Arbitraries.of(true, false)).as(Model::new);
  }

  /** The order of a flat group, as DeepSpeed's {@code _round_robin_reorder} makes it. */
  public static List<Integer> dealOut(int parameters, int ranks) {
    List<List<Integer>> hands = new ArrayList<>();
    for (int rank = 0; rank < ranks; rank++) {
      hands.add(new ArrayList<>());
    }
    int next = 0;
    for (int parameter = 0; parameter < parameters; parameter++) {
      hands.get(next).add(parameter);
      next = next + 1 == ranks ? 0 : next + 1;
    }
    List<Integer> order = new ArrayList<>();
    hands.forEach(order::addAll);
    return order;
  }
}
