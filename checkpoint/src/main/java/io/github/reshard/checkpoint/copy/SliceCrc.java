package io.github.reshard.checkpoint.copy;

import io.github.reshard.checkpoint.torch.Crc32Combine;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;

/**
 * What some bytes of an entry give to the CRC-32 of the entry. Of a run it is the run's own CRC.
 *
 * <p>Of bytes with gaps, such as the rows of a box, it is their share: CRC-32 is linear, so the CRC
 * of a whole is the exclusive or of the CRCs of its runs, each moved by the bytes behind it. Runs
 * may be added up in any order, also when others lie between them.
 *
 * @param offset where the first byte is in its file
 * @param bytes how many
 * @param span how many bytes lie from the first to the last; equal to {@code bytes} for a run
 * @param crc32 the CRC or share, of what ends where the last byte ends
 */
public record SliceCrc(long offset, long bytes, long span, int crc32) implements Serializable {

  /** Of a run. */
  public SliceCrc(long offset, long bytes, int crc32) {
    this(offset, bytes, bytes, crc32);
  }

  /** What became of an attempt to put runs together. */
  public sealed interface Sum {
    /** All bytes were there once. */
    record Whole(int crc32) implements Sum {}

    /**
     * They were not.
     *
     * @param expected where the next run should begin, or how many bytes there should be
     * @param found where it begins, or how many there are
     */
    record Broken(long expected, long found) implements Sum {}
  }

  private long end() {
    return offset + span;
  }

  /**
   * Those that continue or interleave with one another, as one; by offset.
   *
   * <p>That no byte is in two of them is not seen here where they have gaps: {@link SliceCopier}
   * sees it of what is written, and the CRC of the whole of what was read.
   */
  public static List<SliceCrc> merged(List<SliceCrc> crcs) {
    List<SliceCrc> merged = new ArrayList<>();
    SliceCrc current = null;
    for (SliceCrc next :
        crcs.stream()
            .sorted(Comparator.comparingLong(SliceCrc::offset).thenComparingLong(SliceCrc::bytes))
            .toList()) {
      if (current != null && current.isMetBy(next)) {
        current = current.and(next);
      } else {
        if (current != null) {
          merged.add(current);
        }
        current = next;
      }
    }
    if (current != null) {
      merged.add(current);
    }
    return merged;
  }

  private boolean isMetBy(SliceCrc next) {
    return next.offset == end() || (next.offset < end() && (hasGaps() || next.hasGaps()));
  }

  private boolean hasGaps() {
    return span > bytes;
  }

  private SliceCrc and(SliceCrc next) {
    long end = Math.max(end(), next.end());
    return new SliceCrc(
        offset,
        bytes + next.bytes,
        end - offset,
        Crc32Combine.combine(crc32, 0, end - end())
            ^ Crc32Combine.combine(next.crc32, 0, end - next.end()));
  }

  /**
   * The CRC-32 of the bytes {@code from} to {@code from + bytes}, which {@code crcs} must cover
   * once.
   */
  public static Sum sum(long from, long bytes, List<SliceCrc> crcs) {
    long at = from;
    int crc = 0;
    for (SliceCrc run : merged(crcs)) {
      if (run.offset != at) {
        return new Sum.Broken(at, run.offset);
      }
      if (run.bytes != run.span) {
        return new Sum.Broken(run.span, run.bytes);
      }
      crc = Crc32Combine.combine(crc, run.crc32, run.span);
      at = run.end();
    }
    return at == from + bytes ? new Sum.Whole(crc) : new Sum.Broken(at, from + bytes);
  }
}
