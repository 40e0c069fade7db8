package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.Parameter;
import java.util.ArrayList;
import java.util.List;

/** The runs of parameters that lie one behind the other, in equal partitions. */
final class FlatRuns {
  private FlatRuns() {}

  /**
   * What a partition holds.
   *
   * @param order the parameters in the order in which they lie
   * @param ends where each of them ends, in elements
   * @param partition its number
   * @param elements of each partition
   * @param rank that has it
   * @param group its param group
   */
  static List<Extent> extents(
      List<Parameter> parameters,
      int[] order,
      long[] ends,
      int partition,
      long elements,
      int rank,
      int group) {
    long from = partition * elements;
    long to = from + elements;
    List<Extent> extents = new ArrayList<>();
    for (int place = firstEndAfter(ends, from); place < order.length; place++) {
      long at = ends[place] - parameters.get(order[place]).elements();
      if (at >= to) {
        break;
      }
      long start = Math.max(at, from);
      long stop = Math.min(ends[place], to);
      if (start < stop) {
        extents.add(new Extent(order[place], start - at, rank, group, start - from, stop - start));
      }
    }
    return extents;
  }

  /** Where each parameter ends if they lie in {@code order} without a gap, in elements. */
  static long[] ends(List<Parameter> parameters, int[] order) {
    long[] ends = new long[order.length];
    long at = 0;
    for (int place = 0; place < order.length; place++) {
      at += parameters.get(order[place]).elements();
      ends[place] = at;
    }
    return ends;
  }

  /** The first place whose end is beyond {@code element}: ranks times parameters are many. */
  static int firstEndAfter(long[] ends, long element) {
    int low = 0;
    int high = ends.length;
    while (low < high) {
      int middle = (low + high) >>> 1;
      if (ends[middle] > element) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }
}
