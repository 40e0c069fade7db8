package io.github.reshard.checkpoint.copy;

import io.github.reshard.checkpoint.plan.SliceCopy;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Slices of one target file that are written together: either runs in any number, or all those
 * whose rows lie between one another, which no write of one alone could do without a system call a
 * row.
 *
 * @param slices at least one; rows by their place in the target
 * @param isRuns whether each is one run that nothing lies between
 */
record Weave(List<SliceCopy> slices, boolean isRuns) {
  Weave {
    slices = List.copyOf(slices);
  }

  /** In the order of {@code slices}; rows stand where the first of them stood. */
  static List<Weave> of(List<SliceCopy> slices) {
    if (slices.stream().allMatch(slice -> slice.rows() == null)) {
      return slices.isEmpty() ? List.of() : List.of(new Weave(slices, true));
    }
    Map<SliceCopy, List<SliceCopy>> woven = woven(slices);
    List<Weave> weaves = new ArrayList<>();
    List<SliceCopy> runs = new ArrayList<>();
    Set<SliceCopy> done = Collections.newSetFromMap(new IdentityHashMap<>());
    for (SliceCopy slice : slices) {
      List<SliceCopy> group = woven.get(slice);
      if (group == null) {
        runs.add(slice);
      } else if (done.add(group.get(0))) {
        addRuns(runs, weaves);
        weaves.add(new Weave(group, false));
      }
    }
    addRuns(runs, weaves);
    return weaves;
  }

  private static void addRuns(List<SliceCopy> runs, List<Weave> weaves) {
    if (!runs.isEmpty()) {
      weaves.add(new Weave(runs, true));
      runs.clear();
    }
  }

  /** Each slice that has rows, or lies between rows, and those that it lies between. */
  private static Map<SliceCopy, List<SliceCopy>> woven(List<SliceCopy> slices) {
    List<SliceCopy> written =
        slices.stream()
            .filter(slice -> slice.target() != null && slice.bytes() > 0)
            .sorted(Comparator.comparingLong(slice -> slice.target().offset()))
            .toList();
    IdentityHashMap<SliceCopy, List<SliceCopy>> woven = new IdentityHashMap<>();
    for (int from = 0; from < written.size(); ) {
      int to = from;
      long end = written.get(from).target().offset();
      boolean rows = false;
      while (to == from || (to < written.size() && written.get(to).target().offset() < end)) {
        SliceCopy slice = written.get(to++);
        end = Math.max(end, slice.target().offset() + slice.targetSpan());
        rows |= slice.rows() != null;
      }
      if (rows) {
        List<SliceCopy> group = written.subList(from, to);
        group.forEach(slice -> woven.put(slice, group));
      }
      from = to;
    }
    return woven;
  }
}
