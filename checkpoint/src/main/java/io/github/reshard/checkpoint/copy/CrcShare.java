package io.github.reshard.checkpoint.copy;

import io.github.reshard.checkpoint.torch.Crc32Combine;

/** Adds up what runs with gaps between them give to the CRC-32 of a whole, see {@link SliceCrc}. */
final class CrcShare {
  /** Rows of rows have few distances between their ends. */
  private static final int REMEMBERED = 4;

  private final long[] distances = new long[REMEMBERED];
  private final Crc32Combine.Shift[] shifts = new Crc32Combine.Shift[REMEMBERED];
  private int next;

  private long begin;
  private long end;
  private long bytes;
  private int crc32;

  /** Adds a run that lies behind all others. */
  void add(long offset, long length, int crcOfRun) {
    if (bytes == 0) {
      begin = offset;
      end = offset;
    }
    long to = offset + length;
    crc32 = shift(to - end).of(crc32) ^ crcOfRun;
    end = to;
    bytes += length;
  }

  private Crc32Combine.Shift shift(long distance) {
    for (int i = 0; i < REMEMBERED; i++) {
      if (distances[i] == distance && shifts[i] != null) {
        return shifts[i];
      }
    }
    Crc32Combine.Shift shift = new Crc32Combine.Shift(distance);
    distances[next] = distance;
    shifts[next] = shift;
    next = (next + 1) % REMEMBERED;
    return shift;
  }

  SliceCrc sum() {
    return new SliceCrc(begin, bytes, end - begin, crc32);
  }
}
