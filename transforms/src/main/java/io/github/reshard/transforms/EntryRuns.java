package io.github.reshard.transforms;

import io.github.reshard.checkpoint.copy.SliceCrc;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.IntUnaryOperator;

/** The CRCs of runs of the entries of files, which come in any order. */
final class EntryRuns {
  /** The {@code entry} of what says that there is a file, and nothing of its payload. */
  static final int OF_NO_ENTRY = -1;

  private EntryRuns() {}

  /**
   * Those of each entry of each file.
   *
   * @param files all that may have some
   * @param entries how many entries a file has
   */
  static SortedMap<Integer, List<List<SliceCrc>>> byFile(
      Iterable<Packed<EntryCrc>> runs, Collection<Integer> files, IntUnaryOperator entries) {
    SortedMap<Integer, List<List<SliceCrc>>> byFile = new TreeMap<>();
    for (int file : files) {
      List<List<SliceCrc>> byEntry = new ArrayList<>();
      for (int e = 0; e < entries.applyAsInt(file); e++) {
        byEntry.add(new ArrayList<>());
      }
      byFile.put(file, byEntry);
    }
    for (Packed<EntryCrc> packed : runs) {
      packed.forEach(
          Coders.ENTRY_CRC,
          run -> {
            if (run.entry() != OF_NO_ENTRY) {
              byFile.get(run.file()).get(run.entry()).add(run.crc());
            }
          });
    }
    return byFile;
  }

  /**
   * The CRC-32 of an entry.
   *
   * @param where it is, for messages
   * @param begin its first byte in the file
   * @throws IllegalStateException if the runs are not all of it, each byte once
   */
  static int crc32(String where, long begin, long bytes, List<SliceCrc> runs) {
    SliceCrc.Sum sum = SliceCrc.sum(begin, bytes, runs);
    if (sum instanceof SliceCrc.Sum.Broken broken) {
      throw new IllegalStateException(
          "%s: expected the next slice at byte %d, found it at %d; the plan is wrong"
              .formatted(where, broken.expected(), broken.found()));
    }
    return ((SliceCrc.Sum.Whole) sum).crc32();
  }
}
