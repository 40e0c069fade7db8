package io.github.reshard.checkpoint.copy;

import io.github.reshard.checkpoint.torch.Crc32Combine;
import java.io.Serializable;
import java.util.Comparator;
import java.util.List;

/**
 * The CRC-32 of a run of bytes of an entry.
 *
 * @param offset where it begins in its file, in bytes
 * @param bytes its length
 * @param crc32 of its content
 */
public record SliceCrc(long offset, long bytes, int crc32) implements Serializable {

  /** What became of an attempt to put runs together. */
  public sealed interface Sum {
    /** All bytes were there once. */
    record Whole(int crc32) implements Sum {}

    /**
     * They were not.
     *
     * @param expected where the next run should begin
     * @param found where it begins
     */
    record Broken(long expected, long found) implements Sum {}
  }

  /**
   * The CRC-32 of the bytes {@code from} to {@code from + bytes}, which {@code runs} must cover
   * once.
   */
  public static Sum sum(long from, long bytes, List<SliceCrc> runs) {
    List<SliceCrc> sorted =
        runs.stream()
            .sorted(Comparator.comparingLong(SliceCrc::offset).thenComparingLong(SliceCrc::bytes))
            .toList();
    long at = from;
    int crc = 0;
    for (SliceCrc run : sorted) {
      if (run.offset() != at) {
        return new Sum.Broken(at, run.offset());
      }
      crc = Crc32Combine.combine(crc, run.crc32(), run.bytes());
      at += run.bytes();
    }
    return at == from + bytes ? new Sum.Whole(crc) : new Sum.Broken(at, from + bytes);
  }
}
