package io.github.reshard.checkpoint.parallel;

import java.util.ArrayList;
import java.util.List;

/**
 * The matrices that lie end to end in one parameter, along the dimension in which it is cut, such
 * as query, key and value. Each of them is cut by itself, and a rank has its parts end to end.
 *
 * @param matrices how many
 * @param sizes how wide each is, in elements; empty where it is only said that all are alike
 * @param widths for each how wide the part of each rank is, in elements; empty where it is only
 *     said that all ranks' parts are alike
 */
public record Fused(int matrices, List<Long> sizes, List<List<Long>> widths) {
  /** A parameter that is one matrix, which ranks may have cut in any way. */
  static final Fused ONE = new Fused(1, List.of(), List.of());

  public Fused {
    sizes = List.copyOf(sizes);
    widths = widths.stream().map(List::copyOf).toList();
  }

  /** Matrices that are all alike, as are the parts of all ranks. */
  static Fused alike(int matrices) {
    return new Fused(matrices, List.of(), List.of());
  }

  /**
   * How wide the part of each rank is of each matrix.
   *
   * @param saved how wide the local tensor of each rank is, in elements
   * @throws Unfit if no such parts give these
   */
  List<List<Long>> partsOf(List<Long> saved) throws Unfit {
    if (matrices == 1 && sizes.isEmpty() && widths.isEmpty()) {
      return List.of(saved);
    }
    List<List<Long>> parts = widths.isEmpty() ? evenParts(saved) : widths;
    if (parts.size() != matrices) {
      throw new Unfit(
          "%d matrices are fused in it, and widths are given of %d"
              .formatted(matrices, parts.size()));
    }
    for (int m = 0; m < matrices; m++) {
      long sum = parts.get(m).stream().mapToLong(Long::longValue).sum();
      if (parts.get(m).size() != saved.size()
          || (!sizes.isEmpty() && sum != sizes.get(m))
          || parts.get(m).stream().anyMatch(width -> width < 0)) {
        throw new Unfit(
            "the widths %s of a fused matrix of %s are not those of %d ranks"
                .formatted(parts.get(m), sizes.isEmpty() ? "?" : sizes.get(m), saved.size()));
      }
    }
    for (int rank = 0; rank < saved.size(); rank++) {
      long sum = 0;
      for (List<Long> ofMatrix : parts) {
        sum += ofMatrix.get(rank);
      }
      if (sum != saved.get(rank)) {
        throw new Unfit(
            "the widths %s of its fused matrices say that rank %d has %d, and it has %d"
                .formatted(parts, rank, sum, saved.get(rank)));
      }
    }
    return parts;
  }

  private List<List<Long>> evenParts(List<Long> saved) throws Unfit {
    int ranks = saved.size();
    List<Long> whole = sizes;
    if (whole.isEmpty()) {
      long all = saved.stream().mapToLong(Long::longValue).sum();
      if (all % matrices != 0) {
        throw new Unfit("%d is not the width of %d equal matrices".formatted(all, matrices));
      }
      whole = java.util.Collections.nCopies(matrices, all / matrices);
    }
    List<List<Long>> parts = new ArrayList<>();
    for (long size : whole) {
      if (size % ranks != 0) {
        throw new Unfit(
            "a fused matrix of %d is not cut evenly among %d ranks, and sub_param_shard_widths, which would say how, is not there"
                .formatted(size, ranks));
      }
      parts.add(java.util.Collections.nCopies(ranks, size / ranks));
    }
    return parts;
  }
}
