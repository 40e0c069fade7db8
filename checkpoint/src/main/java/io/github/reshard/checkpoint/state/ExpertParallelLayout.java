package io.github.reshard.checkpoint.state;

import java.util.ArrayList;
import java.util.List;

/**
 * Experts that expert-parallel ranks divide among them before ZeRO does: each has some, and the
 * data-parallel ranks that have the same ones partition them. All are of the same ranks, so every
 * rank holds partitions of one part.
 */
public final class ExpertParallelLayout extends JoinedLayout {
  private static final long serialVersionUID = 1L;

  /**
   * @param worldSize all ranks
   * @param parameters those of all experts, by global name
   * @param layouts those of the expert-parallel ranks, each over all ranks, with names that are
   *     local to them
   * @param numbers for each layout, which of all its parameters are
   * @param groups the param group of each bucket, as {@code parameters} number them
   */
  public ExpertParallelLayout(
      int worldSize,
      List<Parameter> parameters,
      List<? extends ZeroLayout> layouts,
      List<List<Integer>> numbers,
      List<Integer> groups) {
    super(worldSize, parameters, parts(layouts, numbers), groups);
  }

  private static List<Part> parts(List<? extends ZeroLayout> layouts, List<List<Integer>> numbers) {
    List<Part> parts = new ArrayList<>();
    for (int e = 0; e < layouts.size(); e++) {
      parts.add(new Part(layouts.get(e), numbers.get(e), 0));
    }
    return parts;
  }
}
