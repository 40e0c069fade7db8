package io.github.reshard.checkpoint.copy;

import io.github.reshard.checkpoint.plan.CastCheck;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.state.Address;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;

/**
 * Slices that follow one another in the source and in the target alike, so that they are one read
 * and one write. Neighbours in a partition mostly stay neighbours, and without this a checkpoint of
 * many small parameters would cost a system call or two for each.
 *
 * @param slices at least one, in order
 * @param bytes the length of all
 */
record CopyRun(List<SliceCopy> slices, long bytes) {
  CopyRun {
    slices = List.copyOf(slices);
  }

  /** Where the first slice is read from, or null for padding. */
  Address source() {
    return slices.get(0).source();
  }

  /** Where the first slice is written to, or null if it is only read. */
  Address target() {
    return slices.get(0).target();
  }

  /** Runs as long as possible, in the order of {@code slices}. */
  static List<CopyRun> of(List<SliceCopy> slices) {
    List<CopyRun> runs = new ArrayList<>();
    int first = 0;
    long bytes = 0;
    for (int i = 0; i < slices.size(); i++) {
      bytes += slices.get(i).bytes();
      if (i + 1 == slices.size() || !continues(slices.get(i), slices.get(i + 1))) {
        runs.add(new CopyRun(slices.subList(first, i + 1), bytes));
        first = i + 1;
        bytes = 0;
      }
    }
    return runs;
  }

  private static boolean continues(SliceCopy a, SliceCopy b) {
    return a.source() != null
        && b.source() != null
        && Objects.equals(a.conversion(), b.conversion())
        && follows(a.source(), a.sourceBytes(), b.source())
        && (a.target() == null
            ? b.target() == null
            : b.target() != null && follows(a.target(), a.bytes(), b.target()))
        && (a.cast() == null ? b.cast() == null : b.cast() != null && sameTypes(a, b));
  }

  private static boolean follows(Address a, long bytes, Address b) {
    return a.file() == b.file() && a.entry() == b.entry() && a.offset() + bytes == b.offset();
  }

  private static boolean sameTypes(SliceCopy a, SliceCopy b) {
    CastCheck one = a.cast();
    CastCheck other = b.cast();
    return one.master() == other.master() && one.module() == other.module();
  }
}
