package io.github.reshard.checkpoint.copy;

import io.github.reshard.checkpoint.storage.RangedFile;
import java.io.IOException;
import java.nio.ByteBuffer;

/**
 * Reads rows end to end into a buffer. Rows that lie near one another are read in one go, with what
 * lies between them: a system call costs as much as copying some thousand bytes.
 */
final class RowReader {
  /** What is rather read and thrown away than left out by another call, in bytes. */
  private static final long MOST_BETWEEN = 16 << 10;

  private final ByteBuffer span = ByteBuffer.allocateDirect(SliceCopier.BUFFER_BYTES);

  /**
   * Puts the rows into {@code into}, from its beginning; it is flipped then.
   *
   * @param base where the slice's first element lies in the file, in bytes
   * @param width the bytes of an element there
   */
  void read(RangedFile file, long base, int width, RowTable rows, ByteBuffer into)
      throws IOException {
    into.clear();
    for (int row = 0; row < rows.count(); ) {
      int after = near(rows, row, width);
      read(file, base, width, rows, row, after, into);
      row = after;
    }
    into.flip();
  }

  /** The first row that is not read together with {@code first}. */
  private int near(RowTable rows, int first, int width) {
    long begin = rows.source(first);
    int row = first + 1;
    for (; row < rows.count(); row++) {
      long between = rows.source(row) - rows.source(row - 1) - rows.elements(row - 1);
      long span = rows.source(row) + rows.elements(row) - begin;
      if (between * width > MOST_BETWEEN || span * width > SliceCopier.BUFFER_BYTES) {
        break;
      }
    }
    return row;
  }

  private void read(
      RangedFile file, long base, int width, RowTable rows, int from, int to, ByteBuffer into)
      throws IOException {
    long begin = rows.source(from);
    if (to == from + 1) {
      into.limit(into.position() + rows.elements(from) * width);
      SliceCopier.read(file, base + begin * width, into);
      into.limit(into.capacity());
      return;
    }
    long end = rows.source(to - 1) + rows.elements(to - 1);
    span.clear().limit((int) ((end - begin) * width));
    SliceCopier.read(file, base + begin * width, span);
    for (int row = from; row < to; row++) {
      int at = (int) ((rows.source(row) - begin) * width);
      int length = rows.elements(row) * width;
      into.put(into.position(), span, at, length);
      into.position(into.position() + length);
    }
  }
}
