package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.CastCheck;
import io.github.reshard.checkpoint.plan.Rows;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.storage.ByteRange;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import java.io.Closeable;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Keeps the source files that were used last open. */
final class OpenFiles implements Closeable {
  private static final int MOST = 64;
  private static final long GAP = 64 << 10;

  private final Map<FileStat, RangedFile> open = new LinkedHashMap<>(MOST, 0.75f, true);

  RangedFile open(PlannedReshard planned, int file) throws IOException {
    FileStat stat = planned.plan().sources().get(file).stat();
    RangedFile found = open.get(stat);
    if (found == null) {
      if (open.size() == MOST) {
        Iterator<RangedFile> oldest = open.values().iterator();
        oldest.next().close();
        oldest.remove();
      }
      found = planned.reshard().source().open(stat);
      open.put(stat, found);
    }
    return found;
  }

  /** Tells the files what {@code slices} will read of them, in this order. */
  void expect(PlannedReshard planned, List<SliceCopy> slices) throws IOException {
    Map<Integer, List<ByteRange>> ranges = new LinkedHashMap<>();
    for (SliceCopy slice : slices) {
      if (slice.rows() != null) {
        addRows(ranges, slice);
        continue;
      }
      if (slice.source() != null) {
        add(ranges, slice.source(), slice.sourceBytes());
      }
      CastCheck cast = slice.cast();
      if (cast != null) {
        long elements = slice.bytes() / cast.master().bytes();
        add(ranges, cast.weights(), elements * cast.module().bytes());
      }
    }
    for (Map.Entry<Integer, List<ByteRange>> file : ranges.entrySet()) {
      open(planned, file.getKey()).expect(file.getValue());
    }
  }

  /** Rows that lie near one another become one range; what a box leaves out of a file does not. */
  private static void addRows(Map<Integer, List<ByteRange>> ranges, SliceCopy slice) {
    Rows rows = slice.rows();
    CastCheck cast = slice.cast();
    rows.forEach(
        0,
        slice.bytes() / rows.width(),
        (source, target, tensor, elements) -> {
          int width = slice.sourceWidth();
          add(ranges, slice.source().plus(source * width), elements * width);
          if (cast != null) {
            int module = cast.module().bytes();
            add(ranges, cast.weights().plus(source * module), elements * module);
          }
        });
  }

  private static void add(Map<Integer, List<ByteRange>> ranges, Address at, long bytes) {
    List<ByteRange> ofFile = ranges.computeIfAbsent(at.file(), f -> new ArrayList<>());
    ByteRange last = ofFile.isEmpty() ? null : ofFile.get(ofFile.size() - 1);
    // Headers and alignment lie between storages; reading over them is cheaper than asking again.
    if (last != null && at.offset() >= last.end() && at.offset() - last.end() <= GAP) {
      ofFile.set(
          ofFile.size() - 1, new ByteRange(last.position(), at.offset() + bytes - last.position()));
    } else {
      ofFile.add(new ByteRange(at.offset(), bytes));
    }
  }

  @Override
  public void close() throws IOException {
    for (RangedFile file : open.values()) {
      file.close();
    }
    open.clear();
  }
}
