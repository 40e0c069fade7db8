package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.state.Address;
import java.util.function.BiConsumer;

/** Cuts slices at the boundaries of parts. */
public final class Cut {
  private Cut() {}

  /** Hands {@code slice} on in pieces, each with the part that it belongs to. */
  public static void intoParts(
      SliceCopy slice, long partBytes, BiConsumer<PartId, SliceCopy> pieces) {
    if (slice.rows() != null) {
      rowsIntoParts(slice, partBytes, pieces);
      return;
    }
    boolean readOnly = slice.target() == null;
    Address at = readOnly ? slice.source() : slice.target();
    long done = 0;
    while (done < slice.bytes()) {
      long position = at.offset() + done;
      long part = position / partBytes;
      long length = Math.min(slice.bytes() - done, (part + 1) * partBytes - position);
      length = wholeElements(slice, length, slice.bytes() - done);
      pieces.accept(
          new PartId(readOnly, Math.toIntExact(part), at.file()), slice.part(done, length));
      done += length;
    }
  }

  /** Rows that go into a part stay one piece, however many they are. */
  private static void rowsIntoParts(
      SliceCopy slice, long partBytes, BiConsumer<PartId, SliceCopy> pieces) {
    Address at = slice.target();
    for (long done = 0; done < slice.bytes(); ) {
      SliceCopy rest = slice.part(done, slice.bytes() - done);
      long part = rest.target().offset() / partBytes;
      long length = rest.bytesBefore((part + 1) * partBytes - rest.target().offset());
      pieces.accept(new PartId(false, Math.toIntExact(part), at.file()), rest.part(0, length));
      done += length;
    }
  }

  /** An element that lies across a boundary belongs to the part in which it begins. */
  private static long wholeElements(SliceCopy slice, long length, long remaining) {
    int element =
        slice.cast() != null
            ? slice.cast().master().bytes()
            : slice.conversion() != null
                ? slice.conversion().to().bytes()
                : slice.source() == null ? slice.fillBytes() : 1;
    long rounded = -Math.floorDiv(-length, (long) element) * element;
    return Math.min(rounded, remaining);
  }
}
